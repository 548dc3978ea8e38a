"""``redis://``: the tests of all stores, publications, faults of the server, and clusters."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from django_wsmux import checks
from django_wsmux.backends import from_url
from django_wsmux.backends.contract import make_peers
from django_wsmux.backends.redis import RedisBackend
from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import envelope
from django_wsmux.history.redis import RedisStore
from django_wsmux.history.store import IDLE_SECONDS, Keep, Store, Stream
from django_wsmux.protocol.positions import moment_of
from tests.conftest import need
from tests.services import (
    RedisServer,
    fail_over,
    move_slot,
    redis_cluster,
    redis_sentinel,
    wait_until_said,
)

from .contract import SharedStoreContract, bodies, everything, fill, offsets, stream

_numbers = itertools.count()

MakeStore = Callable[..., RedisStore]


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
    made: list[RedisStore] = []

    def make(url: str) -> RedisStore:
        store = RedisStore(url, namespace=namespace, backend=None)
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


class RedisStoreContract(SharedStoreContract):
    """The contract, at the fixture ``url``."""

    @pytest.fixture
    def store(self, url: str, make: MakeStore) -> Store:
        """Return an empty store."""
        self._url, self._make = url, make
        return make(url)

    def another(self, store: Store) -> Store:
        """Return a store as another process has it."""
        return self._make(self._url)


class TestRedisStore(RedisStoreContract):
    """The contract, on one server."""

    @pytest.fixture
    def url(self, redis_server: RedisServer, namespace: str) -> str:
        """The URL of the server."""
        self._server, self._prefix = redis_server, f"wsmux:{namespace}:history"
        return redis_server.url

    def make_idle(self, store: Store, of: Stream) -> None:
        """Let the row expire."""
        assert self._server.ask("PEXPIRE", f"{self._prefix}:row:{of.name}", "1") == "1\n"

    def test_expiry(self, store: Store) -> None:
        """Every key expires if it is no longer used."""
        store.append(stream(), b"a", key="paid")
        store.forget(stream("room.2"))
        store.append(stream("room.3", seconds=2 * IDLE_SECONDS), b"b")
        store.sweep()
        names = self._server.ask("KEYS", f"{self._prefix}*").split()
        left = {
            name.removeprefix(self._prefix): int(self._server.ask("TTL", name)) for name in names
        }
        assert 0 < left[":messages:room.1"] <= 600
        assert 0 < left[":keys:room.1"] <= 600
        day = 86_400
        for name in (":row:room.1", ":row:room.2", "", ":changed", ":kept:600000000"):
            assert IDLE_SECONDS - day < left[name] <= IDLE_SECONDS + day
        assert left[":row:room.3"] > IDLE_SECONDS + day
        assert min(left.values()) > 0

    def counted(self) -> dict[int, int]:
        """Return how many bytes the server counts, by the seconds that they are kept."""
        fields = self._server.ask("HGETALL", self._prefix).split()
        return {
            int(name.removeprefix("bytes:")) // 1_000_000: int(value)
            for name, value in zip(fields[::2], fields[1::2], strict=True)
            if name.startswith("bytes:")
        }

    def test_count_of_bytes(self, store: Store) -> None:
        """The bytes of all messages are counted, also when messages are deleted."""
        fill(store, stream(messages=3), 5, size=100)
        assert self.counted() == {600: 300}
        fill(store, stream(bytes=250), 5, size=110)
        assert self.counted() == {600: 220}
        fill(store, stream("room.2", seconds=60), 5, size=10)
        assert self.counted() == {600: 220, 60: 50}
        fill(store, stream(messages=1), 1, size=500)
        assert self.counted() == {600: 500, 60: 50}
        fill(store, stream("room.2", seconds=600), 1, size=7)
        assert self.counted() == {600: 557, 60: 0}
        store.append(stream("room.2", bytes=10), b"x" * 11)
        assert self.counted() == {600: 500, 60: 0}
        store.forget(stream())
        assert self.counted() == {600: 0, 60: 0}
        fill(store, stream(seconds=0.01), 3, size=100)
        fill(store, stream("room.2"), 3, size=100)
        wait_until_said(lambda: not everything(store, stream(seconds=0.01)).entries)
        store.sweep()
        assert self.counted() == {600: 300}

    def test_changes_of_more_than_a_minute_ago(self, store: Store) -> None:
        """A process that polls rarely is told to read all rows; others find the changes."""
        first = store.changed("")[0]
        store.append(stream(), b"a")
        second = store.changed(first)[0]
        store.sweep()
        store.append(stream("room.2"), b"b")
        assert len(store.changed(first)[1]) == 2
        self._server.ask("HSET", self._prefix, "marked", "1")
        store.sweep()
        assert store.changed(first) == ("", [])
        assert [each.name for each in store.changed(second)[1]] == ["room.2"]


class TestCluster(RedisStoreContract):
    """The contract, on three masters."""

    @pytest.fixture
    def url(self, cluster: list[RedisServer], namespace: str) -> str:
        """One master is enough to find the others."""
        self._servers, self._namespace = cluster, namespace
        return f"redis+cluster://127.0.0.1:{cluster[0].port}"

    def make_idle(self, store: Store, of: Stream) -> None:
        """Let the row expire."""
        for server in self._servers:
            for name in server.ask("KEYS", f"*:history:row:{of.name}").split():
                server.ask("PEXPIRE", name, "1")

    def test_sweep_bytes(self, store: Store) -> None:
        """Beyond ``WEBSOCKET_HISTORY_BYTES``, each part deletes its oldest messages."""
        names = [f"room.{number}" for number in range(100)]
        for name in names:
            fill(store, stream(name), 10, size=1000)
        with override_settings(WEBSOCKET_HISTORY_BYTES=500_000):
            store.sweep()
        readings = [everything(store, stream(name)) for name in names]
        left = sum(len(reading.entries) for reading in readings)
        assert 400 < left <= 500
        for reading in readings:
            assert offsets(reading) == list(range(reading.first, 11))

    def test_spread(self, store: Store) -> None:
        """All masters keep about the same number of groups, including users' groups."""
        for shared in (False, True):
            before = [int(server.ask("DBSIZE")) for server in self._servers]
            for number in range(300):
                name = f"@user:{number}" if shared else f"room.{number}"
                channel = "@people" if shared else name
                store.append(Stream(name, Keep(1, 600), channel), b"a")
            after = [int(server.ask("DBSIZE")) for server in self._servers]
            # Two keys for each group, besides those of the project.
            assert all(new - old > 120 for new, old in zip(after, before, strict=True))

    def test_moved_slot(self, store: Store) -> None:
        """When a slot has moved, the group begins a new epoch at the other master."""
        fill(store, stream(), 3)
        old = store.read(stream())
        (source, row) = next(
            (server, name)
            for server in self._servers
            for name in server.ask("KEYS", f"*{self._namespace}:*:history:row:room.1").split()
        )
        slot = source.ask("CLUSTER", "KEYSLOT", row).strip()
        target, other = (server for server in self._servers if server is not source)
        move_slot(slot, source, target, other)
        reading = store.read(stream())
        assert (reading.epoch, reading.store != old.store) == ("", True)
        fill(store, stream(), 2)
        reading = everything(self.another(store), stream())
        assert bodies(reading) == [b"1", b"2"]
        assert moment_of(reading.epoch)[1] > moment_of(old.epoch)[1]


class TestPublishing:
    """The store in the broker of the backend."""

    @pytest.fixture(params=["server", "cluster"])
    def url(self, request: pytest.FixtureRequest) -> str:
        """One server, or a cluster."""
        if request.param == "server":
            url: str = request.getfixturevalue("redis_server").url
            return url
        return f"redis+cluster://127.0.0.1:{request.getfixturevalue('cluster')[0].port}"

    def test_published(self, url: str) -> None:
        """Other processes receive each message with its number, like other publications."""
        names = ["room.1", "{room}.2", "a}b", "room.3"]
        with make_peers(url, {}, gevent=True) as peer:
            listener, other = peer(*names), peer()
            backend = from_url(url, namespace=listener.call("namespace"))
            assert isinstance(backend, RedisBackend)
            heard: list[tuple[str, bytes]] = []
            backend.start(lambda channel, payload: heard.append((channel, payload)))
            assert backend.subscribe("room.1").wait(60)
            store = RedisStore(url, namespace="", backend=backend)
            for name in names:
                message = b"\0\xff\r\n" + name.encode()
                appended = store.append(Stream(name, Keep(10, 600), name), message)
                assert appended is not None
                assert appended.is_published
                position = f"{appended.epoch}-{appended.offset}"
                assert listener.received(1) == [(name, envelope.numbered(position, message))]
                if name == "room.1":
                    own = name, envelope.numbered(position, message)
            assert backend.counts.published == len(names)
            other.publish("room.1", b"last")
            wait_until_said(lambda: heard[1:])
            # Its own message comes back, since the reply of the store may be lost.
            assert heard == [own, ("room.1", b"last")]
            assert listener.received(1) == [("room.1", b"last")]
            store.close()
            backend.publish("room.1", b"the backend stays open")
            backend.close()

    def test_shared_channel(self, url: str) -> None:
        """Groups that share a channel are published by one server only; a cluster has no slot."""
        backend = from_url(url, namespace="people")
        assert isinstance(backend, RedisBackend)
        store = RedisStore(url, namespace="", backend=backend)
        found = [
            store.append(Stream(f"@user:{number}", Keep(1, 600), "@people"), b"a")
            for number in range(20)
        ]
        published = [each.is_published for each in found if each is not None]
        assert len(published) == 20
        assert all(published) or (backend.is_sharded and published.count(True) < 10)
        backend.close()

    def test_repeated_key(self, url: str) -> None:
        """A message with a repeated key is not published."""
        with make_peers(url, {}, gevent=True) as peer:
            listener = peer("room")
            backend = from_url(url, namespace=listener.call("namespace"))
            assert isinstance(backend, RedisBackend)
            store = RedisStore(url, namespace="", backend=backend)
            room = Stream("room", Keep(10, 600), "room")
            assert store.append(room, b"a", key="paid") is not None
            assert store.append(room, b"b", key="paid") is None
            store.append(room, b"c")
            assert [payload[-1:] for _, payload in listener.received(2)] == [b"a", b"c"]
            backend.close()

    def test_one_connection(self, redis_server: RedisServer) -> None:
        """The store uses the connection that the backend publishes on."""
        before = redis_server.ask("CLIENT", "LIST").count("\n")
        backend = from_url(redis_server.url, namespace="connections")
        assert isinstance(backend, RedisBackend)
        store = RedisStore(redis_server.url, namespace="", backend=backend)
        backend.publish("room", b"a")
        store.append(stream(), b"a")
        store.read(stream(), 0, 10)
        assert redis_server.ask("CLIENT", "LIST").count("\n") == before + 1
        backend.close()

    def test_store_elsewhere(self, redis_server: RedisServer, make: MakeStore) -> None:
        """A store in another broker does not publish."""
        appended = make(redis_server.url).append(stream(), b"a")
        assert appended is not None
        assert not appended.is_published


class TestFaults:
    """Restarts, failovers, a full or a read-only server."""

    def test_older_snapshot(self, broker: RedisServer, make: MakeStore) -> None:
        """After a restart from a snapshot, all messages are lost; no position is used twice."""
        store, other = make(broker.url), make(broker.url)
        fill(store, stream(), 3)
        fill(store, stream("room.2"), 3)
        broker.ask("SAVE")
        seen = other.changed("")[0]
        fill(store, stream(), 2)
        old = store.read(stream())
        assert old.top == 5
        broker.kill()
        with pytest.raises(BackendUnavailable):
            store.append(stream(), b"nothing")
        broker.start()
        for each in (store, other):
            reading = everything(each, stream())
            assert (reading.epoch, reading.top, reading.entries) == ("", 0, ())
            assert reading.store != old.store
            assert each.changed(seen) == ("", [])
        again = other.changed("")[0]
        appended = store.append(stream(), b"again")
        assert appended is not None
        assert appended.offset == 1
        assert moment_of(appended.epoch)[0] == reading.store
        assert moment_of(appended.epoch)[1] > moment_of(old.epoch)[1]
        assert bodies(everything(other, stream())) == [b"again"]
        assert [each.name for each in other.changed(again)[1]] == ["room.1"]
        assert other.read(stream("room.2")).epoch == ""

    def test_failover_and_back(self, broker: RedisServer, make: MakeStore, tmp_path: Path) -> None:
        """A server that becomes the primary again begins new epochs: it may have lost messages."""
        (tmp_path / "second").mkdir()
        second = RedisServer(tmp_path / "second", "--replicaof", "127.0.0.1", str(broker.port))
        try:
            here, there = make(broker.url), make(second.url)
            fill(here, stream(), 3)
            old = here.read(stream())
            wait_until_said(lambda: "master_link_status:up" in second.ask("INFO", "replication"))
            second.ask("REPLICAOF", "NO", "ONE")
            between = there.read(stream())
            assert (between.epoch, between.store != old.store) == ("", True)
            broker.ask("REPLICAOF", "127.0.0.1", str(second.port))
            with pytest.raises(BackendUnavailable, match="READONLY"):
                here.append(stream(), b"nothing")
            wait_until_said(lambda: "master_link_status:up" in broker.ask("INFO", "replication"))
            broker.ask("REPLICAOF", "NO", "ONE")
            reading = here.read(stream())
            assert reading.epoch == ""
            assert reading.store not in (old.store, between.store)
            appended = here.append(stream(), b"again")
            assert appended is not None
            assert appended.offset == 1
            assert moment_of(appended.epoch)[0] == reading.store
        finally:
            second.stop()

    def test_sentinel(self, make: MakeStore, tmp_path: Path) -> None:
        """The store follows a Sentinel to the new master, where the group begins a new epoch."""
        need("redis-server")
        with redis_sentinel(tmp_path) as (master, _, sentinel):
            store = make(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0?timeout=1")
            fill(store, stream(), 3)
            old = store.read(stream())
            fail_over(master, sentinel)

            def is_back() -> bool:
                with contextlib.suppress(BackendUnavailable):
                    return store.append(stream(), b"again") is not None
                return False

            wait_until_said(is_back)
            reading = everything(store, stream())
            assert bodies(reading) == [b"again"]
            assert reading.top == 1
            assert reading.store != old.store

    def test_read_only(self, broker: RedisServer, make: MakeStore) -> None:
        """When the server has become a replica, the next call connects again."""
        store = make(broker.url)
        fill(store, stream(), 1)
        broker.ask("REPLICAOF", "127.0.0.1", "1")
        assert "cmd=eval" in broker.ask("CLIENT", "LIST", "TYPE", "normal")
        with pytest.raises(BackendUnavailable, match="READONLY"):
            store.append(stream(), b"b")
        wait_until_said(lambda: "cmd=eval" not in broker.ask("CLIENT", "LIST", "TYPE", "normal"))
        broker.ask("REPLICAOF", "NO", "ONE")
        appended = store.append(stream(), b"c")
        assert appended is not None
        assert appended.offset == 2

    def test_out_of_memory(self, broker: RedisServer, make: MakeStore, namespace: str) -> None:
        """A full server refuses a message and keeps no part of it; it still reads and deletes."""
        store = make(broker.url)
        short = stream("short", seconds=0.01)
        fill(store, stream(), 2)
        fill(store, short, 3, size=1000)
        wait_until_said(lambda: not everything(store, short).entries)
        broker.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(BackendUnavailable, match="OOM"):
            store.append(stream(), b"3", key="paid")
        with pytest.raises(BackendUnavailable, match="OOM"):
            store.forget(stream())
        store.sweep()
        assert broker.ask("HGET", f"wsmux:{namespace}:history", "bytes:10000") == "\n"
        assert bodies(everything(store, stream())) == [b"1", b"2"]
        broker.ask("CONFIG", "SET", "maxmemory", "0")
        appended = store.append(stream(), b"3", key="paid")
        assert appended is not None
        assert appended.offset == 3

    def test_scripts_flushed(self, broker: RedisServer, make: MakeStore) -> None:
        """The scripts are sent again to a server that no longer has them."""
        store = make(broker.url)
        fill(store, stream(), 2)
        broker.ask("SCRIPT", "FLUSH")
        fill(store, stream(), 2)
        assert offsets(everything(store, stream())) == [1, 2, 3, 4]
        fill(store, stream(), 1)
        assert "cmd=evalsha" in broker.ask("CLIENT", "LIST")

    def test_newer_layout(self, redis_server: RedisServer, make: MakeStore, namespace: str) -> None:
        """Data of a newer release is neither read nor changed."""
        store = make(redis_server.url)
        fill(store, stream(), 1)
        redis_server.ask("HSET", f"wsmux:{namespace}:history:row:room.1", "l", "2")
        for call in (
            lambda: store.append(stream(), b"a"),
            lambda: store.read(stream()),
            lambda: store.forget(stream()),
        ):
            with pytest.raises(BackendUnavailable, match="written by a newer release: layout 2"):
                call()
        redis_server.ask("HSET", f"wsmux:{namespace}:history:row:room.1", "l", "1")
        assert store.read(stream()).top == 1

    def test_eviction(self, broker: RedisServer, settings: Any) -> None:
        """A check warns of a server that deletes keys when its memory is full, if it may ask."""
        settings.WEBSOCKET_BACKEND = broker.url
        broker.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")

        def found(databases: list[str] | None) -> list[str | None]:
            return [message.id for message in checks.check_eviction(None, databases)]

        assert found(["default"]) == []
        settings.WEBSOCKET_HISTORY = {"room.*": {"messages": 1, "seconds": 1}}
        assert found(["default"]) == ["django_wsmux.W026"]
        assert found(None) == []
        broker.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        assert found(["default"]) == []
        broker.kill()
        assert found(["default"]) == []
        settings.WEBSOCKET_HISTORY_STORE = "memory://"
        assert found(["default"]) == []

    def test_unknown_fields(
        self, redis_server: RedisServer, make: MakeStore, namespace: str
    ) -> None:
        """Fields that a later release adds are kept."""
        store = make(redis_server.url)
        fill(store, stream(), 1)
        redis_server.ask("HSET", f"wsmux:{namespace}:history:row:room.1", "new", "value")
        fill(store, stream(), 1)
        row = redis_server.ask("HGETALL", f"wsmux:{namespace}:history:row:room.1").split()
        assert row[row.index("new") + 1] == "value"
