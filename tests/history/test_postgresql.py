"""The store in PostgreSQL: the contract, publishing, crashes, and conditions of the database."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from django.db import connections
from django.db.utils import ConnectionHandler
from psycopg import Connection, connect

from django_wsmux.backends import from_url
from django_wsmux.backends.contract import make_peers
from django_wsmux.backends.postgresql import INLINE, PostgresBackend
from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups.envelope import numbered
from django_wsmux.history import postgresql_statements as statements
from django_wsmux.history.postgresql import PostgresStore
from django_wsmux.history.store import Appended, Keep, Store, Stream
from django_wsmux.models import Key, Message
from django_wsmux.models import Stream as Row
from django_wsmux.protocol.positions import Position, moment_of
from django_wsmux.testing.backend_process import Peer
from tests.conftest import start_postgres
from tests.services import PostgresServer, postgres_environment, wait_until_said

from .contract import SharedStoreContract, bodies, everything, fill, offsets, stream

#: Gives stores in a database, by the server, the namespace and the role.
MakeStore = Callable[..., PostgresStore]


#: A group whose messages are published on a channel of this name.
ROOM = Stream("chat.1", Keep(200, 600), "room")


@pytest.fixture
def make_store() -> Iterator[MakeStore]:
    """Return a function that makes stores, each with its own connections."""
    stores: list[PostgresStore] = []
    aliases: list[str] = []

    def make(
        server: PostgresServer,
        namespace: str = "tests",
        *,
        user: str = "postgres",
        backend: PostgresBackend | None = None,
    ) -> PostgresStore:
        alias = f"history_{server.port}_{user}"
        if alias not in connections.settings:
            database = {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": "postgres",
                "USER": user,
                "HOST": "127.0.0.1",
                "PORT": str(server.port),
            }
            handler = ConnectionHandler({"default": {}, alias: database})
            connections.settings[alias] = handler.settings[alias]
            aliases.append(alias)
        store = PostgresStore(f"postgres://?using={alias}", namespace=namespace, backend=backend)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()
    for alias in aliases:
        del connections.settings[alias]


def some(appended: Appended | None) -> Appended:
    """Return the number of a message that was stored."""
    assert appended is not None
    return appended


class TestPostgresStore(SharedStoreContract):
    """The contract."""

    @pytest.fixture
    def store(self, postgres_server: PostgresServer, make_store: MakeStore) -> Store:
        """A separate namespace."""
        self.server, self.make = postgres_server, make_store
        return make_store(postgres_server, uuid.uuid4().hex)

    def another(self, store: Store) -> Store:
        """A store with its own connections."""
        assert isinstance(store, PostgresStore)
        return self.make(self.server, store._backend.namespace)

    def make_idle(self, store: Store, of: Stream) -> None:
        """Set the row's time back."""
        assert isinstance(store, PostgresStore)
        self.server.ask(
            "UPDATE django_wsmux_stream SET sent = sent - interval '31 days'"
            f" WHERE id = '{store._id(of)}'"
        )


class TestPublishing:
    """A store in the backend's database publishes in the statement that stores."""

    @pytest.fixture
    def backend(
        self, postgres_server: PostgresServer, make_store: MakeStore
    ) -> Iterator[PostgresBackend]:
        """The backend of this process."""
        url = make_store(postgres_server)._backend.url
        backend = from_url(url, namespace=uuid.uuid4().hex)
        assert isinstance(backend, PostgresBackend)
        yield backend
        backend.close()

    @pytest.fixture
    def store(
        self, postgres_server: PostgresServer, make_store: MakeStore, backend: PostgresBackend
    ) -> PostgresStore:
        """A store that publishes."""
        return make_store(postgres_server, backend=backend)

    @pytest.fixture
    def peer(
        self, postgres_server: PostgresServer, backend: PostgresBackend
    ) -> Iterator[Callable[..., Peer]]:
        """Return a function that starts other processes, subscribed to channels."""
        env = postgres_environment(postgres_server.port)
        with make_peers("postgres://", env, gevent=False) as make:
            yield partial(make, namespace=backend.namespace)

    @pytest.mark.parametrize("size", [0, 200, INLINE - 100, INLINE - 65, INLINE, 300_000])
    def test_arrives(
        self,
        store: PostgresStore,
        backend: PostgresBackend,
        peer: Callable[..., Peer],
        size: int,
    ) -> None:
        """Another process receives what ``publish()`` would have sent."""
        listener, other = peer("room"), peer("hall")
        message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        sent = []
        for _ in range(2):
            appended = some(store.append(ROOM, message))
            assert appended.is_published
            position = str(Position(appended.epoch, appended.offset))
            sent.append(("room", numbered(position, message)))
        assert listener.received(2) == sent
        backend.publish("hall", b"end")
        assert other.received(1) == [("hall", b"end")]
        assert listener.gaps(0) == other.gaps(0) == []
        assert backend.counts.published == 3

    def test_repeated_key(
        self, store: PostgresStore, backend: PostgresBackend, peer: Callable[..., Peer]
    ) -> None:
        """A repeated key publishes nothing."""
        listener = peer("room")
        assert store.append(ROOM, b"once", key="paid") is not None
        assert store.append(ROOM, b"twice", key="paid") is None
        backend.publish("room", b"end")
        (_, first), (_, second) = listener.received(2)
        assert first.endswith(b"once")
        assert second == b"end"

    def test_deleted_before_it_was_read(
        self,
        store: PostgresStore,
        backend: PostgresBackend,
        peer: Callable[..., Peer],
        postgres_server: PostgresServer,
    ) -> None:
        """A listener drops a notification without a row, and reports no gap."""
        listener = peer("room")
        postgres_server.ask(
            "CREATE FUNCTION vanish() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN DELETE FROM django_wsmux_message WHERE xact = NEW.xact; RETURN NULL; END';"
            "CREATE CONSTRAINT TRIGGER vanish AFTER INSERT ON django_wsmux_message"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION vanish()"
        )
        try:
            store.append(ROOM, b"x" * 10_000)
        finally:
            postgres_server.ask("DROP FUNCTION vanish CASCADE")
        backend.publish("room", b"after")
        assert listener.received(1) == [("room", b"after")]
        assert listener.gaps(0) == []


class TestIncarnation:
    """Every event that may have lost rows makes every stream begin again."""

    def check_lost(self, store: PostgresStore, old: Appended) -> None:
        """Check that a store begins again, later than before."""
        wait_until_said(lambda: is_another(store, old))
        reading = everything(store, stream())
        assert (reading.epoch, reading.top, reading.entries) == ("", 0, ())
        new = some(store.append(stream(), b"after"))
        assert new.offset == 1
        assert moment_of(new.epoch)[0] != moment_of(old.epoch)[0]
        assert moment_of(new.epoch)[1] > moment_of(old.epoch)[1]
        assert bodies(everything(store, stream())) == [b"after"]

    @pytest.mark.parametrize("how", ["kill", "crash of one process", "restart"])
    def test_restart(self, fragile_server: PostgresServer, make_store: MakeStore, how: str) -> None:
        """After a crash or a restart, earlier messages count as lost."""
        store, other = (make_store(fragile_server, how) for _ in range(2))
        fill(store, stream(), 9)
        old = some(store.append(stream(), b"before"))
        seen, _ = other.changed("")
        if how == "crash of one process":
            with session(fragile_server) as victim:
                os.kill(victim.info.backend_pid, signal.SIGKILL)
        else:
            fragile_server.process.send_signal(signal.SIGQUIT if how == "kill" else signal.SIGINT)
            fragile_server.process.wait()
            with pytest.raises(BackendUnavailable):
                store.append(stream(), b"meanwhile")
            fragile_server.start()
        self.check_lost(store, old)
        wait_until_said(lambda: is_another(other, old))
        assert [(each.name, each.top) for each in other.changed(seen)[1]] == [("room.1", 1)]
        assert bodies(everything(other, stream())) == [b"after"]

    def test_reset_statistics(self, fragile_server: PostgresServer, make_store: MakeStore) -> None:
        """Sessions from before and after a reset of the statistics agree after one new epoch."""
        before = make_store(fragile_server, "reset")
        old = some(before.append(stream(), b"a"))
        fragile_server.ask("SELECT pg_stat_reset_shared('bgwriter')")
        after = make_store(fragile_server, "reset")
        new = some(after.append(stream(), b"b"))
        assert new.epoch != old.epoch
        assert everything(before, stream()).epoch == new.epoch
        for number, store in enumerate((before, after, before, after), 2):
            assert some(store.append(stream(), b"c"))[:2] == (new.epoch, number)

    def test_reset_statistics_seen_by_append(
        self, fragile_server: PostgresServer, make_store: MakeStore
    ) -> None:
        """A session from before a reset appends to the epoch of a session that began afterwards."""
        before = make_store(fragile_server, "reset before")
        before.append(stream(), b"a")
        fragile_server.ask("SELECT pg_stat_reset_shared('bgwriter')")
        new = some(make_store(fragile_server, "reset before").append(stream(), b"b"))
        assert some(before.append(stream(), b"c"))[:2] == (new.epoch, 2)


def session(server: PostgresServer, user: str = "postgres") -> Connection:
    """Return a session of the database without autocommit."""
    return connect(host="127.0.0.1", port=server.port, user=user, dbname="postgres")


def is_another(store: PostgresStore, old: Appended) -> bool:
    """Return whether the server can be read and has another incarnation than that of a message.

    One call finds out both: a server whose process was killed answers until it notices that.
    """
    try:
        return store.read(stream()).store != moment_of(old.epoch)[0]
    except BackendUnavailable:
        return False


def is_available(store: PostgresStore) -> bool:
    """Return whether a store can be read."""
    try:
        store.read(stream())
    except BackendUnavailable:
        return False
    return True


class TestTables:
    """Conditions of the database."""

    def test_out_of_order(self, postgres_server: PostgresServer, make_store: MakeStore) -> None:
        """A transaction that began first and ends last is found, and only once."""
        store = make_store(postgres_server, uuid.uuid4().hex)
        names = ["room.1", "room.2", "room.3"]
        for name in names:
            fill(store, stream(name), 1)
        seen, _ = store.changed("")
        add = (
            "WITH row AS (UPDATE django_wsmux_stream SET top = top + 1 WHERE id = %s RETURNING *)"
            " INSERT INTO django_wsmux_message (stream, moment, number, size, sent, expires, xact,"
            " data) SELECT id, moment, top, size, sent, sent + interval '1 hour',"
            " pg_current_xact_id()::text::bigint, '' FROM row"
        )
        with session(postgres_server) as first, session(postgres_server) as second:
            first.execute(add, [store._id(stream(names[0]))])
            second.execute(add, [store._id(stream(names[1]))])
            fill(store, stream(names[2]), 1)
            for done, name in ((None, names[2]), (second, names[1]), (first, names[0])):
                if done is not None:
                    done.commit()
                seen, found = store.changed(seen)
                assert [(each.name, each.top) for each in found] == [(name, 2)]
        assert store.changed(seen)[1] == []

    def test_expired_before_it_was_seen(
        self, postgres_server: PostgresServer, make_store: MakeStore
    ) -> None:
        """A change is found although the sweep has deleted the message."""
        store = make_store(postgres_server, uuid.uuid4().hex)
        short = stream(seconds=0.001)
        seen, _ = store.changed("")
        fill(store, short, 2)
        _, found = store.changed(seen)
        wait_until_said(lambda: not everything(store, short).entries)
        store.sweep()
        assert store.changed(seen)[1] == found
        assert found[0].top == 2

    def test_changed_in_pages(
        self,
        postgres_server: PostgresServer,
        make_store: MakeStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Many changed streams are returned in pages, and each of them is found."""
        page = b"LIMIT %d" % statements.PAGE
        assert page in statements.CHANGED
        monkeypatch.setattr(statements, "CHANGED", statements.CHANGED.replace(page, b"LIMIT 4"))
        monkeypatch.setattr(statements, "PAGE", 4)
        store = make_store(postgres_server, uuid.uuid4().hex)
        seen, _ = store.changed("")
        for number in range(12):
            fill(store, stream(f"room.{number}"), number + 1)
        seen, found = store.changed(seen)
        assert sorted(each.top for each in found) == list(range(1, 13))
        assert store.changed(seen)[1] == []

    def test_two_namespaces(self, postgres_server: PostgresServer, make_store: MakeStore) -> None:
        """Projects that share a database have separate groups and keys."""
        names = uuid.uuid4().hex, uuid.uuid4().hex
        one, two = (make_store(postgres_server, name) for name in names)
        seen = [store.changed("")[0] for store in (one, two)]
        assert one.append(stream(), b"a", key="paid") is not None
        assert two.append(stream(), b"b", key="paid") is not None
        fill(two, stream(), 2)
        assert bodies(everything(one, stream())) == [b"a"]
        assert bodies(everything(two, stream())) == [b"b", b"1", b"2"]
        for store, since, top in zip((one, two), seen, (1, 3), strict=True):
            assert [each.top for each in store.changed(since)[1]] == [top]
        two.forget(stream())
        assert offsets(everything(one, stream())) == [1]

    def test_trimming(self, postgres_server: PostgresServer, make_store: MakeStore) -> None:
        """Only a few messages beyond the limits remain in the table."""
        store = make_store(postgres_server, uuid.uuid4().hex)
        count = "SELECT count(*) FROM django_wsmux_message WHERE stream = '{}'"
        for keep, most in ((stream(messages=5), 21), (stream("bytes", bytes=1000), 26)):
            fill(store, keep, 200, size=100)
            kept = int(postgres_server.ask(count.format(store._id(keep))))
            assert len(everything(store, keep).entries) <= kept <= most
        large = stream("large", messages=1000, bytes=1000)
        fill(store, large, 10, size=10)
        fill(store, large, 1, size=990)
        assert int(postgres_server.ask(count.format(store._id(large)))) == 2

    def test_ended_epochs_are_swept(
        self, postgres_server: PostgresServer, make_store: MakeStore
    ) -> None:
        """Messages of an earlier epoch are deleted."""
        store = make_store(postgres_server, uuid.uuid4().hex)
        fill(store, stream(), 3)
        row = store._id(stream())
        postgres_server.ask(f"UPDATE django_wsmux_stream SET moment = moment+1 WHERE id = '{row}'")
        store.sweep()
        count = f"SELECT count(*) FROM django_wsmux_message WHERE stream = '{row}'"
        assert postgres_server.ask(count) == "0\n"

    def test_one_process_sweeps(
        self, postgres_server: PostgresServer, make_store: MakeStore
    ) -> None:
        """A process leaves the sweep to another one that sweeps regularly."""
        store, other = (make_store(postgres_server, "sweep") for _ in range(2))
        short = stream(seconds=0.001)
        fill(store, short, 3)
        wait_until_said(lambda: not everything(store, short).entries)
        other.sweep()
        assert everything(store, stream()).entries == ()
        fill(store, short, 3)
        wait_until_said(lambda: not everything(store, short).entries)
        store.sweep()
        assert len(everything(store, stream()).entries) == 3
        sweeper = other._backend.id.hex()
        expire = f"UPDATE django_wsmux_key SET expires = now() WHERE stream = '{sweeper}'"
        assert postgres_server.ask(expire) == "UPDATE 1\n"
        store.sweep()
        assert everything(store, stream()).entries == ()

    def test_sweep_of_many(
        self,
        postgres_server: PostgresServer,
        make_store: MakeStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The sweep deletes all expired messages in batches; new messages are kept."""
        monkeypatch.setattr(statements, "BATCH", 7)
        store = make_store(postgres_server, uuid.uuid4().hex)
        for number in range(10):
            fill(store, stream(f"room.{number}", seconds=0.001), 5)
        fill(store, stream("room.9"), 1)
        last = stream("room.9", seconds=0.001)
        wait_until_said(lambda: not everything(store, last).entries)
        store.sweep()
        kept = [len(everything(store, stream(f"room.{number}")).entries) for number in range(10)]
        assert kept == [0] * 9 + [1]

    def test_newer_layout(self, postgres_server: PostgresServer, make_store: MakeStore) -> None:
        """A process refuses groups that a newer release has written, and serves others."""
        store = make_store(postgres_server, uuid.uuid4().hex)
        fill(store, stream(), 1)
        postgres_server.ask(
            f"UPDATE django_wsmux_stream SET layout = 2 WHERE id = '{store._id(stream())}'"
        )
        calls: list[Callable[[], object]] = [
            lambda: store.append(stream(), b"a"),
            lambda: store.append(stream(), b"a", key="paid"),
            lambda: store.read(stream()),
            lambda: store.forget(stream()),
        ]
        for call in calls:
            with pytest.raises(BackendUnavailable, match="newer release"):
                call()
        fill(store, stream("room.2"), 1)
        postgres_server.ask(
            f"UPDATE django_wsmux_stream SET layout = 1 WHERE id = '{store._id(stream())}'"
        )
        assert store.append(stream(), b"a", key="paid") is not None
        assert offsets(everything(store, stream())) == [1, 2]

    def test_without_tables(self, make_store: MakeStore) -> None:
        """The error for a project that has not migrated names the command."""
        server = start_postgres()
        try:
            store = make_store(server)
            for call in (lambda: store.append(stream(), b"a"), lambda: store.read(stream())):
                with pytest.raises(BackendUnavailable, match=r"run manage\.py migrate"):
                    call()
        finally:
            server.stop()

    def test_without_privileges(
        self, postgres_server: PostgresServer, make_store: MakeStore
    ) -> None:
        """A role that may not write is refused; one with the four privileges is enough."""
        namespace = uuid.uuid4().hex
        postgres_server.ask("DROP ROLE IF EXISTS weak; CREATE ROLE weak LOGIN")
        weak = make_store(postgres_server, namespace, user="weak")
        with pytest.raises(BackendUnavailable, match="permission denied"):
            weak.append(stream(), b"a")
        tables = ", ".join(each._meta.db_table for each in (Row, Message, Key))
        postgres_server.ask(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO weak")
        epoch = some(weak.append(stream(), b"a", key="paid")).epoch
        weak.sweep()
        assert some(make_store(postgres_server, namespace).append(stream(), b"b")).epoch == epoch

    def test_read_only(self, postgres_server: PostgresServer, make_store: MakeStore) -> None:
        """A read-only database is unavailable until it accepts writes."""
        store = make_store(postgres_server, uuid.uuid4().hex, user="reader")
        postgres_server.ask(
            "CREATE ROLE reader LOGIN SUPERUSER;"
            "ALTER ROLE reader SET default_transaction_read_only = on"
        )
        with pytest.raises(BackendUnavailable, match="read-only"):
            store.append(stream(), b"a")
        assert store.read(stream()).top == 0
        postgres_server.ask("ALTER ROLE reader SET default_transaction_read_only = off")
        store.close()
        assert some(store.append(stream(), b"b")).offset == 1

    def test_locked_row(self, postgres_server: PostgresServer, make_store: MakeStore) -> None:
        """A row that another transaction holds makes others wait for a bounded time."""
        store = make_store(postgres_server, uuid.uuid4().hex)
        fill(store, stream(), 1)
        with session(postgres_server) as holder:
            holder.execute(
                "SELECT FROM django_wsmux_stream WHERE id = %s FOR UPDATE",
                [store._id(stream())],
            )
            for key in ("", "paid"):
                with pytest.raises(BackendUnavailable, match="lock timeout"):
                    store.append(stream(), b"a", key=key)
        assert some(store.append(stream(), b"b", key="paid")).offset == 2

    def test_lost_connection(self, postgres_server: PostgresServer, make_store: MakeStore) -> None:
        """A connection that an administrator has ended is made again."""
        store = make_store(postgres_server, uuid.uuid4().hex)
        epoch = some(store.append(stream(), b"a")).epoch
        others = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
        postgres_server.ask(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
        )
        count = f"SELECT count(*) FROM pg_stat_activity WHERE {others}"
        wait_until_said(lambda: postgres_server.ask(count) == "0\n")
        wait_until_said(lambda: is_available(store))
        assert some(store.append(stream(), b"b"))[:2] == (epoch, 2)

    def test_frozen_server(self, fragile_server: PostgresServer, make_store: MakeStore) -> None:
        """A server that does not answer is unavailable; later calls connect again."""
        store = make_store(fragile_server, "frozen")
        fill(store, stream(), 1)
        fragile_server.freeze()
        try:
            with pytest.raises(BackendUnavailable, match="in time"):
                store.append(stream(), b"a")
        finally:
            fragile_server.thaw()
        wait_until_said(lambda: is_available(store))
        assert some(store.append(stream(), b"b")).offset >= 2


def test_table_names() -> None:
    """The statements use the names of the models' tables."""
    names = [each._meta.db_table for each in (Row, Message, Key)]
    assert names == ["django_wsmux_stream", "django_wsmux_message", "django_wsmux_key"]
