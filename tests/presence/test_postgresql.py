"""The store in PostgreSQL: the contract, crashes, and conditions of the database."""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator

import pytest
from django.db import connections
from django.db.utils import ConnectionHandler
from psycopg import Connection, connect

from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.models import (
    PresentConnection,
    PresentGroup,
    PresentKey,
    PresentLeft,
    PresentProcess,
)
from django_wsmux.presence import postgresql_statements as statements
from django_wsmux.presence.postgresql import PostgresPresence
from django_wsmux.presence.store import Entry, PresenceStore, Reading
from tests.conftest import start_postgres
from tests.services import PostgresServer, postgres_environment, wait_until_said

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

#: Gives stores in a database, by the server, the namespace and the role.
MakeStore = Callable[..., PostgresPresence]

TABLES = PresentConnection, PresentGroup, PresentKey, PresentLeft, PresentProcess


@pytest.fixture
def make_store() -> Iterator[MakeStore]:
    """Return a function that makes stores, each with its own connections."""
    stores: list[PostgresPresence] = []
    aliases: list[str] = []

    def make(
        server: PostgresServer, namespace: str = "tests", *, user: str = "postgres"
    ) -> PostgresPresence:
        alias = f"presence_{server.port}_{user}"
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
        store = PostgresPresence(f"postgres://?using={alias}", namespace=namespace, backend=None)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()
    for alias in aliases:
        del connections.settings[alias]


def pass_time(server: PostgresServer, store: PostgresPresence, seconds: float) -> None:
    """Set back the times of a namespace."""
    server.ask(
        f"UPDATE django_wsmux_presentprocess SET seen = seen - interval '{seconds} s'"
        f" WHERE namespace = '{store._namespace}';"
        f" UPDATE django_wsmux_presentleft l SET moment = moment - interval '{seconds} s'"
        f' FROM django_wsmux_presentgroup g WHERE g.id = l."group"'
        f" AND g.namespace = '{store._namespace}'"
    )


def silence(server: PostgresServer, store: PostgresPresence, process: str) -> None:
    """Set back the last sign of life of a process."""
    answer = server.ask(
        "UPDATE django_wsmux_presentprocess SET seen = seen - interval '1 year'"
        f" WHERE process = '{store._id(process)}'"
    )
    assert answer == "UPDATE 1\n"


def session(server: PostgresServer, user: str = "postgres") -> Connection:
    """Return a session of the database without autocommit."""
    return connect(host="127.0.0.1", port=server.port, user=user, dbname="postgres")


def is_available(store: PostgresPresence) -> bool:
    """Return whether a store can be used."""
    try:
        store.changed({GROUP: ""})
    except BackendUnavailable:
        return False
    return True


class TestPostgresPresence(SharedPresenceContract):
    """The contract."""

    @pytest.fixture
    def store(self, postgres_server: PostgresServer, make_store: MakeStore) -> PresenceStore:
        """A separate namespace."""
        self.server, self.make = postgres_server, make_store
        return make_store(postgres_server, uuid.uuid4().hex)

    def another(self, store: PresenceStore) -> PresenceStore:
        """A store with its own connections."""
        assert isinstance(store, PostgresPresence)
        return self.make(self.server, store._backend.namespace)

    def pass_time(self, store: PresenceStore, seconds: float) -> None:
        """Set back all times."""
        assert isinstance(store, PostgresPresence)
        pass_time(self.server, store, seconds)

    def test_nothing_stays(self, store: PresenceStore) -> None:
        """When all have left, or their process is dead, no row stays."""
        store.enter(GROUP, entries("ann", "bob"), HERE)
        store.enter(GROUP, entries("cat"), THERE)
        store.enter("room.2", entries("ann", "bob"), HERE)
        store.leave(GROUP, ["ann", "bob"], HERE)
        for _ in range(2):
            self.pass_time(store, LONG + 1)
            store.expire()
        assert isinstance(store, PostgresPresence)
        where = f"WHERE namespace = '{store._namespace}'"
        of_groups = f"WHERE \"group\" IN ('{store._id(GROUP)}', '{store._id('room.2')}')"
        for model in TABLES:
            is_own = hasattr(model, "namespace")
            count = f"SELECT count(*) FROM {model._meta.db_table} {where if is_own else of_groups}"
            assert self.server.ask(count) == "0\n"


class TestIncarnation:
    """After every event that may have lost rows, processes enter again, and readers read all."""

    @pytest.mark.parametrize("how", ["kill", "crash of one process", "restart"])
    def test_restart(
        self,
        fragile_server: PostgresServer,
        make_store: MakeStore,
        monkeypatch: pytest.MonkeyPatch,
        how: str,
    ) -> None:
        """The rows count for a while; the processes are told; what they do not enter leaves."""
        store, other = (make_store(fragile_server, how) for _ in range(2))
        before = store.enter(GROUP, entries("ann", "bob"), HERE)
        assert other.changed({GROUP: before}) == []
        fragile_server.ask("CHECKPOINT")
        if how == "crash of one process":
            with session(fragile_server) as victim:
                os.kill(victim.info.backend_pid, signal.SIGKILL)
        else:
            # A year before the restart.
            silence(fragile_server, store, HERE)
            fragile_server.ask("CHECKPOINT")
            fragile_server.process.send_signal(signal.SIGQUIT if how == "kill" else signal.SIGINT)
            fragile_server.process.wait()
            with pytest.raises(BackendUnavailable):
                store.renew(HERE)
            fragile_server.start()
        wait_until_said(lambda: is_lost(other, before))
        reading = other.read(GROUP, before)
        assert (reading.is_whole, keys(reading)) == (True, ["ann", "bob"])
        assert other.expire() == []
        wait_until_said(lambda: is_available(store))
        assert not store.renew(HERE)
        assert store.enter(GROUP, entries("ann"), HERE) == ""
        assert store.renew(HERE)
        assert other.read(GROUP, reading.version) == Reading(reading.version, False, ())
        monkeypatch.setattr(PresenceStore, "leaving_seconds", 0.0)
        assert [name for name, _ in other.expire()] == [GROUP]
        assert set(other.read(GROUP, reading.version).left) == {"ann", "bob"}

    def test_reset_statistics(self, fragile_server: PostgresServer, make_store: MakeStore) -> None:
        """Sessions from before and after a reset of the statistics agree after one new epoch."""
        before = make_store(fragile_server, "reset")
        old = before.enter(GROUP, entries("ann"), HERE)
        fragile_server.ask("SELECT pg_stat_reset_shared('bgwriter')")
        after = make_store(fragile_server, "reset")
        new = after.enter(GROUP, entries("bob"), THERE)
        assert new.partition(".")[0] != old.partition(".")[0]
        assert keys(before.read(GROUP, old)) == ["ann", "bob"]
        assert before.read(GROUP, new) == Reading(new, False, ())
        assert not before.renew(HERE)
        assert before.enter(GROUP, entries("ann"), HERE) == ""
        assert before.renew(HERE)
        assert after.renew(THERE)
        assert after.read(GROUP, new) == Reading(new, False, ())

    def test_absence(
        self,
        fragile_server: PostgresServer,
        make_store: MakeStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """While the server was away for long, no process has died; who read so reads again."""
        monkeypatch.setattr(PresenceStore, "leaving_seconds", LONG)
        store, other, late = (make_store(fragile_server, "absence") for _ in range(3))
        store.enter(GROUP, entries("ann"), HERE)
        other.enter(GROUP, entries("bob"), THERE)
        fragile_server.freeze()
        try:
            with pytest.raises(BackendUnavailable, match="in time"):
                store.renew(HERE)
        finally:
            fragile_server.thaw()
        wait_until_said(lambda: is_available(late))
        pass_time(fragile_server, late, LONG + 1)
        reading = late.read(GROUP)
        assert reading.joined == ()
        store._absence._available -= LONG
        wait_until_said(lambda: is_available(store))
        assert store.renew(HERE)
        assert other.expire() == late.expire() == []
        assert other.renew(THERE)
        again = late.read(GROUP, reading.version)
        assert (again.is_whole, keys(again)) == (True, ["ann", "bob"])


def is_lost(store: PostgresPresence, version: str) -> bool:
    """Return whether the server can be read and has another incarnation."""
    try:
        return store.read(GROUP, version).is_whole
    except BackendUnavailable:
        return False


class TestTables:
    """Conditions of the database."""

    def test_killed_process(self, postgres_server: PostgresServer, make_store: MakeStore) -> None:
        """Each key of a killed process leaves once, and that is reported once."""
        store = make_store(postgres_server, uuid.uuid4().hex)
        env = {**os.environ, **postgres_environment(postgres_server.port)}
        check_killed(
            "postgres://",
            store._backend.namespace,
            env,
            lambda process: silence(postgres_server, store, process),
        )

    def test_two_namespaces(self, postgres_server: PostgresServer, make_store: MakeStore) -> None:
        """Projects that share a database have separate groups and processes."""
        one, two = (make_store(postgres_server, uuid.uuid4().hex) for _ in range(2))
        one.enter(GROUP, entries("ann"), HERE)
        two.enter(GROUP, entries("bob"), HERE)
        assert keys(one.read(GROUP)) == ["ann"]
        pass_time(postgres_server, one, 1000)
        assert two.expire() == []
        assert two.renew(HERE)
        assert [name for name, _ in one.expire()] == [GROUP]
        assert keys(two.read(GROUP)) == ["bob"]

    def test_newer_layout(self, postgres_server: PostgresServer, make_store: MakeStore) -> None:
        """A process refuses groups that a newer release has written, and serves others."""
        store = make_store(postgres_server, uuid.uuid4().hex)
        store.enter(GROUP, entries("ann"), HERE)
        layout = f"UPDATE django_wsmux_presentgroup SET layout = %d WHERE id = '{store._id(GROUP)}'"
        postgres_server.ask(layout % 2)
        calls: list[Callable[[], object]] = [
            lambda: store.enter(GROUP, entries("bob"), HERE),
            lambda: store.leave(GROUP, ["ann"], HERE),
            lambda: store.read(GROUP),
        ]
        for call in calls:
            with pytest.raises(BackendUnavailable, match="newer release"):
                call()
        assert store.enter("room.2", entries("ann"), HERE)
        postgres_server.ask(layout % 1)
        assert keys(store.read(GROUP)) == ["ann"]

    def test_without_tables(self, make_store: MakeStore) -> None:
        """The error for a project that has not migrated names the command."""
        server = start_postgres()
        try:
            store = make_store(server)
            calls: list[Callable[[], object]] = [
                lambda: store.enter(GROUP, entries("ann"), HERE),
                lambda: store.read(GROUP),
                lambda: store.expire(),
            ]
            for call in calls:
                with pytest.raises(BackendUnavailable, match=r"run manage\.py migrate"):
                    call()
        finally:
            server.stop()

    def test_without_privileges(
        self, postgres_server: PostgresServer, make_store: MakeStore
    ) -> None:
        """A role that may not write is refused; one with the four privileges is enough."""
        namespace = uuid.uuid4().hex
        postgres_server.ask("DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN")
        guest = make_store(postgres_server, namespace, user="guest")
        with pytest.raises(BackendUnavailable, match="permission denied"):
            guest.enter(GROUP, entries("ann"), HERE)
        tables = ", ".join(each._meta.db_table for each in TABLES)
        # It also identifies the table of histories, for which it needs no privilege.
        postgres_server.ask(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO guest")
        assert guest.enter(GROUP, entries("ann", "bob"), HERE)
        assert guest.leave(GROUP, ["ann"], HERE)
        assert guest.renew(HERE)
        pass_time(postgres_server, guest, 1000)
        assert [name for name, _ in guest.expire()] == [GROUP]

    def test_locked_row(self, postgres_server: PostgresServer, make_store: MakeStore) -> None:
        """A row that another transaction holds makes others wait for a bounded time."""
        store = make_store(postgres_server, uuid.uuid4().hex)
        store.enter(GROUP, entries("ann"), HERE)
        with session(postgres_server) as holder:
            holder.execute(
                "SELECT FROM django_wsmux_presentgroup WHERE id = %s FOR UPDATE",
                [store._id(GROUP)],
            )
            with pytest.raises(BackendUnavailable, match="lock timeout"):
                store.enter(GROUP, entries("bob"), HERE)
            with pytest.raises(BackendUnavailable, match="lock timeout"):
                store.leave(GROUP, ["ann"], HERE)
            assert keys(store.read(GROUP)) == ["ann"]
        assert store.enter(GROUP, entries("bob"), HERE)

    def test_lost_connection(self, postgres_server: PostgresServer, make_store: MakeStore) -> None:
        """A connection that an administrator has ended is made again; nothing is lost."""
        store = make_store(postgres_server, uuid.uuid4().hex)
        version = store.enter(GROUP, entries("ann"), HERE)
        others = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
        postgres_server.ask(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
        )
        count = f"SELECT count(*) FROM pg_stat_activity WHERE {others}"
        wait_until_said(lambda: postgres_server.ask(count) == "0\n")
        wait_until_said(lambda: is_available(store))
        assert store.renew(HERE)
        assert store.read(GROUP, version) == Reading(version, False, ())

    def test_backslashes(self, postgres_server: PostgresServer, make_store: MakeStore) -> None:
        """A database whose texts have escapes works, too."""
        postgres_server.ask(
            "DROP ROLE IF EXISTS old; CREATE ROLE old LOGIN SUPERUSER;"
            "ALTER ROLE old SET standard_conforming_strings = off"
        )
        store = make_store(postgres_server, uuid.uuid4().hex, user="old")
        name = "\\x41'\""
        assert store.enter(name, [Entry(name, name, '"\\n"')], name)
        assert infos(store.read(name)) == {name: '"\\n"'}


def test_table_names() -> None:
    """The statements use the names of the models' tables."""
    text = b"".join(each for each in vars(statements).values() if isinstance(each, bytes))
    named = set(re.findall(rb"django_wsmux_\w+", text))
    assert named == {each._meta.db_table.encode() for each in TABLES}
