"""``redis://``: the tests of all stores, faults of the server, and clusters."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from django_wsmux.backends import from_url
from django_wsmux.backends.redis import RedisBackend, Script
from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.presence.redis import RedisPresence
from django_wsmux.presence.store import NO_GROUP, PresenceStore, Reading
from tests.conftest import need
from tests.services import (
    RedisServer,
    fail_over,
    move_slot,
    redis_cluster,
    redis_sentinel,
    wait_until_said,
)

from .contract import (
    GROUP,
    HERE,
    LONG,
    THERE,
    SharedPresenceContract,
    entries,
    infos,
    keys,
)
from .killed import check_killed

_numbers = itertools.count()

MakeStore = Callable[..., RedisPresence]

#: Sets back all times of a store.
PASS_TIME = """
local bucket, passed = KEYS[1], tonumber(ARGV[1])
local function text(number)
  return string.format('%.0f', number)
end
local function set_back(key, from)
  local found = redis.call('ZRANGEBYSCORE', key, from, '+inf', 'WITHSCORES')
  for index = 1, #found, 2 do
    redis.call('ZADD', key, text(found[index + 1] - passed), found[index])
  end
end
set_back(bucket .. ':lives', '(0')
set_back(bucket .. ':due', '-inf')
for _, key in ipairs(redis.call('KEYS', '*')) do
  if string.sub(key, 1, #bucket + 6) == bucket .. ':left:' then
    local left = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    redis.call('DEL', key)
    for index = 1, #left, 2 do
      local joined, when, name = string.match(left[index], '^(%d+) (%d+) (.*)$')
      redis.call('ZADD', key, left[index + 1], joined .. ' ' .. text(when - passed) .. ' ' .. name)
    end
  end
end
"""

#: Sets back the last sign of life of a process; of all that cannot be renewed for ``""``.
SILENCE = """
local lives = KEYS[1] .. ':lives'
for _, life in ipairs(redis.call('ZRANGEBYSCORE', lives, '(0', '+inf')) do
  local process = redis.call('HGET', KEYS[1] .. ':names', life)
  local is_known = redis.call('HGET', KEYS[1] .. ':processes', process) == life
  if process == ARGV[2] or ARGV[2] == '' and not is_known then
    redis.call('ZADD', lives, 1, life)
  end
end
"""

DAY = 86_400


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that no test harms."""
    need("redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    """Three masters that know each other."""
    need("redis-server", "redis-cli")
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may harm."""
    need("redis-server", "redis-cli")
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def namespace() -> str:
    """The namespace of the test."""
    return f"test{next(_numbers)}"


@pytest.fixture
def make(namespace: str) -> Iterator[MakeStore]:
    """Make stores of one project; each has a connection of its own."""
    made: list[RedisPresence] = []

    def make(url: str) -> RedisPresence:
        store = RedisPresence(url, namespace=namespace, backend=None)
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


class RedisPresenceContract(SharedPresenceContract):
    """The contract, at the fixture ``url``."""

    @pytest.fixture
    def store(self, url: str, make: MakeStore) -> PresenceStore:
        """Return an empty store."""
        self._url, self._make = url, make
        return make(url)

    def another(self, store: PresenceStore) -> PresenceStore:
        """Return a store as another process has it."""
        return self._make(self._url)

    def pass_time(self, store: PresenceStore, seconds: float) -> None:
        """Set back all times."""
        assert isinstance(store, RedisPresence)
        passed = f"{1e6 * seconds:.0f}".encode()
        backend = store._backend
        for prefix in backend.prefixes:
            backend.run(Script(f"table.remove(ARGV, 1)\n{PASS_TIME}"), prefix + b"presence", passed)


def silence(store: PresenceStore, process: str) -> None:
    """Set back the last sign of life of a process."""
    assert isinstance(store, RedisPresence)
    for prefix in store._backend.prefixes:
        store._backend.run(Script(SILENCE), prefix + b"presence", process.encode())


class TestRedisPresence(RedisPresenceContract):
    """The contract, on one server."""

    @pytest.fixture
    def url(self, redis_server: RedisServer, namespace: str) -> str:
        """The URL of the server."""
        self._server, self._prefix = redis_server, f"wsmux:{namespace}:presence"
        return redis_server.url

    def test_expiry(self, store: PresenceStore) -> None:
        """Every key expires if it is no longer used; renewing is a use of all groups."""
        store.enter(GROUP, entries("ann", "bob"), HERE)
        store.leave(GROUP, ["bob"], HERE)
        store.enter("room.2", entries("ann"), HERE)
        store.renew(HERE)
        names = self._server.ask("KEYS", f"{self._prefix}*").split()
        assert len(names) == 5 + 1 + 6 + 5
        for name in names:
            assert DAY < int(self._server.ask("TTL", name)) <= 2 * DAY
            self._server.ask("EXPIRE", name, "1000")
        of = next(name for name in names if ":of:" in name)
        for name in (GROUP, "room.2"):
            self._server.ask("ZADD", of, "1", name)
        assert store.renew(HERE)
        for name in names:
            assert DAY < int(self._server.ask("TTL", name)) <= 2 * DAY

    def test_nothing_stays(self, store: PresenceStore) -> None:
        """When all have left, or their process is dead, nothing stays but counters."""
        store.enter(GROUP, entries("ann", "bob"), HERE)
        store.enter(GROUP, entries("cat"), THERE)
        store.enter("room.2", entries("ann", "bob"), HERE)
        store.leave(GROUP, ["ann", "bob"], HERE)
        for _ in range(2):
            self.pass_time(store, LONG + 1)
            store.expire()
        assert self._server.ask("KEYS", f"{self._prefix}*").split() == [self._prefix]


class TestCluster(RedisPresenceContract):
    """The contract, on three masters."""

    @pytest.fixture
    def url(self, cluster: list[RedisServer], namespace: str) -> str:
        """One master is enough to find the others."""
        self._servers, self._namespace = cluster, namespace
        return f"redis+cluster://127.0.0.1:{cluster[0].port}"

    def test_spread(self, store: PresenceStore) -> None:
        """All masters keep about the same number of groups; a process renews itself in all."""
        before = [int(server.ask("DBSIZE")) for server in self._servers]
        for number in range(300):
            store.enter(f"room.{number}", entries("ann"), HERE)
        after = [int(server.ask("DBSIZE")) for server in self._servers]
        assert all(new - old > 300 for new, old in zip(after, before, strict=True))
        self.pass_time(store, LONG / 2)
        assert store.renew(HERE)
        self.pass_time(store, LONG / 2 + 1)
        assert store.expire() == []
        self.pass_time(store, LONG / 2)
        assert len(store.expire()) == 300

    def test_part(self, store: PresenceStore) -> None:
        """If one of its slots does not know a process, it enters all its rows again."""
        names = [f"room.{number}" for number in range(20)]
        for name in names:
            store.enter(name, entries("ann"), HERE)
        server, key = next(
            (server, name)
            for server in self._servers
            for name in server.ask("KEYS", f"*{self._namespace}:*:presence:processes").split()
        )
        server.ask("DEL", key)
        assert not store.renew(HERE)
        for name in names:
            assert store.enter(name, entries("ann"), HERE) == ""
        assert store.renew(HERE)

    def test_moved_slot(self, store: PresenceStore) -> None:
        """When a slot has moved, readers read the list again, and processes enter again."""
        version = store.enter(GROUP, entries("ann", "bob"), HERE)
        source, row = next(
            (server, name)
            for server in self._servers
            for name in server.ask("KEYS", f"*{self._namespace}:*:presence:group:{GROUP}").split()
        )
        slot = source.ask("CLUSTER", "KEYSLOT", row).strip()
        target, other = (server for server in self._servers if server is not source)
        move_slot(slot, source, target, other)
        reading = store.read(GROUP, version)
        assert (reading.is_whole, keys(reading)) == (True, ["ann", "bob"])
        assert store.expire() == []
        assert not store.renew(HERE)
        assert store.enter(GROUP, entries("ann"), HERE) == ""
        assert store.renew(HERE)
        silence(store, "")
        assert [name for name, _ in self.another(store).expire()] == [GROUP]
        assert store.read(GROUP, reading.version).left == ("bob",)


@pytest.mark.parametrize("kind", ["server", "cluster"])
def test_killed_process(kind: str, request: pytest.FixtureRequest, namespace: str) -> None:
    """Each key of a killed process leaves once, and that is reported once."""
    if kind == "server":
        url: str = request.getfixturevalue("redis_server").url
    else:
        url = f"redis+cluster://127.0.0.1:{request.getfixturevalue('cluster')[0].port}"
    store = RedisPresence(url, namespace=namespace, backend=None)
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    check_killed(url, namespace, env, lambda process: silence(store, process))
    store.close()


class TestPages:
    """Long lists are read in pages."""

    @pytest.fixture
    def store(self, redis_server: RedisServer, make: MakeStore) -> RedisPresence:
        """Return an empty store."""
        return make(redis_server.url)

    def between(
        self, store: RedisPresence, change: Callable[[], object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Call a function after the first page is read."""
        page = store._page
        changes = iter([change])

        def read(*arguments: Any, **options: Any) -> Any:
            found = page(*arguments, **options)
            for each in changes:
                each()
            return found

        monkeypatch.setattr(store, "_page", read)

    def test_changes_meanwhile(self, store: RedisPresence, monkeypatch: pytest.MonkeyPatch) -> None:
        """What changes between pages is in the reading, which has one version."""
        before = store.enter(GROUP, entries("first"), HERE)
        everyone = entries(*(f"k{number}" for number in range(2500)))
        store.enter(GROUP, everyone, HERE)

        def change() -> None:
            store.leave(GROUP, ["first", "k5", "k6", "k2100"], HERE)
            store.enter(GROUP, entries("k6", "new"), HERE)
            store.enter(GROUP, entries("k7", info="1"), HERE)

        self.between(store, change, monkeypatch)
        reading = store.read(GROUP, before)
        assert (reading.is_whole, reading.left) == (False, ("first",))
        gone = {"k5", "k6", "k7", "k2100"}
        expected = [each.key for each in everyone if each.key not in gone]
        assert keys(reading) == [*expected, "k6", "new", "k7"]
        assert infos(reading)["k7"] == "1"
        monkeypatch.undo()
        assert store.read(GROUP) == reading._replace(is_whole=True, left=())
        assert store.read(GROUP, reading.version) == Reading(reading.version, False, ())

        self.between(store, lambda: store.leave(GROUP, ["k1", "k2000"], HERE), monkeypatch)
        whole = store.read(GROUP)
        assert keys(whole) == [key for key in keys(reading) if key not in ("k1", "k2000")]
        assert whole.left == ()

    def test_epoch_meanwhile(
        self, redis_server: RedisServer, store: RedisPresence, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the epoch changes between pages, reading begins again."""
        store.enter(GROUP, entries(*(f"k{number}" for number in range(1500))), HERE)
        key = f"wsmux:{store._backend.namespace}:presence:group:{GROUP}"
        self.between(store, lambda: redis_server.ask("HSET", key, "e", "lost"), monkeypatch)
        assert len(store.read(GROUP).joined) == 1500
        self.between(store, lambda: redis_server.ask("DEL", key), monkeypatch)
        assert store.read(GROUP) == Reading(NO_GROUP, True, ())

    def test_many_leavings(self, store: RedisPresence) -> None:
        """Instead of very many leavings, the whole list is read."""
        everyone = entries(*(f"k{number}" for number in range(2101)))
        before = store.enter(GROUP, everyone, HERE)
        between = store.leave(GROUP, [each.connection for each in everyone[:101]], HERE)
        store.leave(GROUP, [each.connection for each in everyone[101:2101]], HERE)
        assert store.read(GROUP, before).is_whole
        assert len(store.read(GROUP, between).left) == 2000


class TestFaults:
    """Restarts, failovers, absences, a full or a read-only server."""

    def test_restart(self, broker: RedisServer, make: MakeStore) -> None:
        """After a restart without its data, processes enter all again; readers read all."""
        store, other = make(broker.url), make(broker.url)
        before = store.enter(GROUP, entries("ann", "bob"), HERE)
        other.enter(GROUP, entries("cat"), THERE)
        broker.kill()
        with pytest.raises(BackendUnavailable):
            store.renew(HERE)
        broker.start()
        assert other.changed({GROUP: before}) == [GROUP]
        assert not store.renew(HERE)
        assert not other.renew(THERE)
        assert store.enter(GROUP, entries("ann", "bob"), HERE)
        assert other.enter(GROUP, entries("cat"), THERE)
        reading = other.read(GROUP, before)
        assert (reading.is_whole, keys(reading)) == (True, ["ann", "bob", "cat"])
        assert store.renew(HERE)
        assert other.renew(THERE)
        assert store.expire() == []

    def test_flushed(self, broker: RedisServer, make: MakeStore) -> None:
        """After FLUSHALL, too."""
        store = make(broker.url)
        before = store.enter(GROUP, entries("ann"), HERE)
        broker.ask("FLUSHALL")
        assert store.changed({GROUP: before}) == [GROUP]
        assert store.read(GROUP, before) == Reading(NO_GROUP, True, ())
        after = store.enter(GROUP, entries("ann"), HERE)
        assert after.partition(".")[0] != before.partition(".")[0]
        assert not store.renew(HERE)
        assert store.read(GROUP, before).is_whole

    def test_failover(self, broker: RedisServer, make: MakeStore, tmp_path: Path) -> None:
        """A replica that takes over has old rows; those not entered again leave later."""
        (tmp_path / "second").mkdir()
        second = RedisServer(tmp_path / "second", "--replicaof", "127.0.0.1", str(broker.port))
        try:
            here, there = make(broker.url), make(second.url)
            before = here.enter(GROUP, entries("ann", "bob"), HERE)
            here.enter(GROUP, entries("cat"), THERE)
            wait_until_said(lambda: "master_link_status:up" in second.ask("INFO", "replication"))
            wait_until_said(lambda: second.ask("HLEN", self.key(here, "holders")) == "2\n")
            second.ask("REPLICAOF", "NO", "ONE")
            reading = there.read(GROUP, before)
            assert (reading.is_whole, keys(reading)) == (True, ["ann", "bob", "cat"])
            assert there.expire() == []
            assert not there.renew(HERE)
            lives = f"wsmux:{here._backend.namespace}:presence:lives"
            old = second.ask("ZRANGE", lives, "0", "-1").split()
            assert there.enter(GROUP, entries("ann"), HERE) == ""
            assert there.renew(HERE)
            assert there.read(GROUP, reading.version) == Reading(reading.version, False, ())
            for life in old:
                second.ask("ZADD", lives, "1", life)
            assert [name for name, _ in there.expire()] == [GROUP]
            assert set(there.read(GROUP, reading.version).left) == {"bob", "cat"}
        finally:
            second.stop()

    def key(self, store: RedisPresence, part: str) -> str:
        """Return the name of a key of the group."""
        return f"wsmux:{store._backend.namespace}:presence:{part}:{GROUP}"

    def test_sentinel(self, make: MakeStore, tmp_path: Path) -> None:
        """The store follows a Sentinel to the new master."""
        need("redis-server")
        with redis_sentinel(tmp_path) as (master, _, sentinel):
            store = make(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0?timeout=1")
            before = store.enter(GROUP, entries("ann"), HERE)
            fail_over(master, sentinel)

            def is_back() -> bool:
                with contextlib.suppress(BackendUnavailable):
                    return not store.renew(HERE)
                return False

            wait_until_said(is_back)
            store.enter(GROUP, entries("ann"), HERE)
            reading = store.read(GROUP, before)
            assert (reading.is_whole, keys(reading)) == (True, ["ann"])
            assert store.renew(HERE)

    def test_absence(
        self, broker: RedisServer, make: MakeStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the server was away for long, no process has died; who read so reads again."""
        monkeypatch.setattr(PresenceStore, "leaving_seconds", LONG)
        store, other, late = (make(f"{broker.url}?timeout=0.5") for _ in range(3))
        store.enter(GROUP, entries("ann"), HERE)
        other.enter(GROUP, entries("bob"), THERE)
        late.changed({})
        broker.freeze()
        try:
            with pytest.raises(BackendUnavailable):
                store.renew(HERE)
        finally:
            broker.thaw()
        RedisPresenceContract().pass_time(late, LONG + 1)
        wait_until_said(lambda: is_available(late))
        assert late.read(GROUP).joined == ()
        version = late.read(GROUP).version
        store._absences[store._backend.prefixes[0]]._available -= LONG
        wait_until_said(lambda: is_available(store))
        assert store.renew(HERE)
        assert other.expire() == late.expire() == []
        assert other.renew(THERE)
        reading = late.read(GROUP, version)
        assert (reading.is_whole, keys(reading)) == (True, ["ann", "bob"])

    def test_read_only(self, broker: RedisServer, make: MakeStore) -> None:
        """A replica cannot be used; the next call connects again."""
        store = make(broker.url)
        store.enter(GROUP, entries("ann"), HERE)
        broker.ask("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(BackendUnavailable, match="READONLY"):
            store.enter(GROUP, entries("bob"), HERE)
        broker.ask("REPLICAOF", "NO", "ONE")
        assert store.enter(GROUP, entries("bob"), HERE)

    def test_out_of_memory(self, broker: RedisServer, make: MakeStore) -> None:
        """A full server refuses changes and keeps no part of them; it still reads."""
        store = make(broker.url)
        store.enter(GROUP, entries("ann", "bob.1", "bob.2"), HERE)
        store.enter(GROUP, entries("cat"), THERE)
        version = store.leave(GROUP, ["cat"], THERE)
        before = dump(broker)
        broker.ask("CONFIG", "SET", "maxmemory", "1")
        calls: list[Callable[[], object]] = [
            lambda: store.enter(GROUP, entries("dan", "ann"), HERE),
            lambda: store.enter("room.2", entries("dan"), HERE),
            lambda: store.leave(GROUP, ["ann", "bob.1"], HERE),
            lambda: store.renew(HERE),
        ]
        for call in calls:
            with pytest.raises(BackendUnavailable, match="OOM"):
                call()
        assert store.read(GROUP).version == version
        broker.ask("CONFIG", "SET", "maxmemory", "0")
        assert dump(broker) == before
        silence(store, HERE)
        broker.ask("ZADD", f"wsmux:{store._backend.namespace}:presence:due", "1", GROUP)
        silent = dump(broker)
        broker.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(BackendUnavailable, match="OOM"):
            store.expire()
        assert dump(broker) == silent
        broker.ask("CONFIG", "SET", "maxmemory", "0")
        assert silent.keys() == before.keys()
        assert [name for name, _ in store.expire()] == [GROUP]
        assert store.read(GROUP, version).left == ("ann", "bob")

    def test_scripts_flushed(self, broker: RedisServer, make: MakeStore) -> None:
        """The scripts are sent again to a server that no longer has them."""
        store = make(broker.url)
        many = entries(*(f"k{number}" for number in range(250)))
        store.enter(GROUP, many, HERE)
        broker.ask("SCRIPT", "FLUSH")
        assert store.leave(GROUP, [each.connection for each in many], HERE)
        assert store.read(GROUP).joined == ()

    def test_newer_layout(self, redis_server: RedisServer, make: MakeStore) -> None:
        """Data of a newer release is neither read nor changed."""
        store = make(redis_server.url)
        store.enter(GROUP, entries("ann"), HERE)
        redis_server.ask("HSET", self.key(store, "group"), "l", "2")
        calls: list[Callable[[], object]] = [
            lambda: store.enter(GROUP, entries("bob"), HERE),
            lambda: store.leave(GROUP, ["ann"], HERE),
            lambda: store.read(GROUP),
        ]
        for call in calls:
            with pytest.raises(BackendUnavailable, match="presence was written by a newer release"):
                call()
        redis_server.ask("HSET", self.key(store, "group"), "l", "1")
        assert keys(store.read(GROUP)) == ["ann"]

    def test_one_connection(self, redis_server: RedisServer) -> None:
        """The store uses the connection that the backend publishes on."""
        before = redis_server.ask("CLIENT", "LIST").count("\n")
        backend = from_url(redis_server.url, namespace="connections")
        assert isinstance(backend, RedisBackend)
        store = RedisPresence(redis_server.url, namespace="", backend=backend)
        backend.publish("room", b"a")
        store.enter(GROUP, entries("ann"), HERE)
        store.close()
        assert redis_server.ask("CLIENT", "LIST").count("\n") == before + 1
        backend.close()


def is_available(store: RedisPresence) -> bool:
    """Return whether a store can be used."""
    try:
        store.changed({GROUP: ""})
    except BackendUnavailable:
        return False
    return True


def dump(server: RedisServer) -> dict[str, str]:
    """Return the data of a server."""
    names = server.ask("KEYS", "*").split()
    return {name: server.ask("--no-raw", "DUMP", name) for name in sorted(names)}
