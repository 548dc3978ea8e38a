"""``postgres://``: the contract, faults, and the table for large messages."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Iterator, Mapping

import pytest

from django_wsmux.backends import from_url
from django_wsmux.backends.contract import BackendContract, MakePeer, make_peers
from django_wsmux.backends.packets import Kind, pack
from django_wsmux.testing.backend_process import PeerError
from tests.conftest import start_postgres
from tests.services import PostgresServer, postgres_environment

from .faults import SILENCE, BrokerFaults


class TestPostgresBackend(BackendContract):
    """The contract."""

    @pytest.fixture
    def backend_url(self) -> str:
        """The default database."""
        return "postgres://?using=default"

    @pytest.fixture
    def backend_env(self, postgres_server: PostgresServer) -> Mapping[str, str]:
        """Settings that name the server."""
        return postgres_environment(postgres_server.port)

    def test_small_ones_stay_out_of_the_table(
        self, peer: MakePeer, postgres_server: PostgresServer
    ) -> None:
        """Only messages too large for a notification are stored."""
        postgres_server.ask("DELETE FROM django_wsmux_payload")
        listener, sender = peer("room"), peer()
        sender.publish("room", b"x" * 5_000, b"y" * 10_000)
        assert [len(text) for _, text in listener.received(2)] == [5_000, 10_000]
        assert postgres_server.ask("SELECT length(data) FROM django_wsmux_payload") == "10000\n"

    def test_sweeping(self, peer: MakePeer, postgres_server: PostgresServer) -> None:
        """Storing a row removes rows older than a minute."""
        postgres_server.ask(
            "DELETE FROM django_wsmux_payload;"
            "INSERT INTO django_wsmux_payload (data, created)"
            " VALUES ('old', now() - interval '2 minutes'), ('new', now() - interval '30 seconds')"
        )
        peer().publish("room", b"x" * 10_000)
        found = postgres_server.ask("SELECT length(data) FROM django_wsmux_payload ORDER BY 1")
        assert found == "3\n10000\n"

    def test_swept_before_it_was_read(
        self, peer: MakePeer, postgres_server: PostgresServer
    ) -> None:
        """A listener that comes too late for a row reports the gap."""
        listener, sender = peer("room"), peer()
        postgres_server.ask(
            "CREATE FUNCTION vanish() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN DELETE FROM django_wsmux_payload; RETURN NULL; END';"
            "CREATE CONSTRAINT TRIGGER vanish AFTER INSERT ON django_wsmux_payload"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION vanish()"
        )
        try:
            sender.publish("room", b"x" * 10_000, b"after")
        finally:
            postgres_server.ask("DROP FUNCTION vanish CASCADE")
        (gap,) = listener.gaps(1)
        assert gap["missed"] == 1
        assert "deleted before it was read" in gap["reason"]
        assert listener.received(1) == [("room", b"after")]

    def test_rows_are_fetched_for_members_only(
        self, peer: MakePeer, postgres_server: PostgresServer
    ) -> None:
        """A process without a member does not read the row."""
        peer("hall")
        sender = peer()
        reads = "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = 'django_wsmux_payload'"

        def settled() -> str:
            """Return the counter once all sessions have reported: within a second."""
            found = postgres_server.ask(reads)
            while True:
                time.sleep(1.5)
                before, found = found, postgres_server.ask(reads)
                if found == before:
                    return found

        before = settled()
        sender.publish("room", b"x" * 10_000)
        assert peer("hall").ask("hall", b"?") != []
        assert settled() == before

    def test_foreign_notifications(self, peer: MakePeer, postgres_server: PostgresServer) -> None:
        """The listener survives any notification of another user of the database."""
        listener, sender = peer("room"), peer()
        names = "SELECT application_name FROM pg_stat_activity"
        (name,) = (
            name
            for name in postgres_server.ask(names).split()
            if name.endswith(listener.call("id"))
        )
        channel = name.partition(":")[0]
        head = b64encode(pack(Kind.MESSAGE, b"s" * 16, "room", b"")).decode()
        rubbish = ["", "hello", "1:%%%", "1:AAAA", f"1:{head}:", f"1:{head}:x", f"1:{head}:1:2"]
        row = "00000000-0000-0000-0000-000000000000"
        rubbish += [f"1:{head}:{row}:x", f"x:{head}:{row}:1", f"1:{head}:{row}:1:2"]
        for text in rubbish:
            postgres_server.ask(f"SELECT pg_notify('{channel}', '{text}')")
        # A well-formed one whose row does not exist is a lost message.
        for number in (10**18, 10**30):
            postgres_server.ask(f"SELECT pg_notify('{channel}', '1:{head}:{number}')")
        sender.publish("room", b"hello")
        assert listener.received(1) == [("room", b"hello")]
        assert listener.call("counts")["unreadable"] == len(rubbish)
        assert [gap["missed"] for gap in listener.gaps(2)] == [1, 1]
        listener.stop()
        assert listener.log.count("dropped a packet") == 1
        assert "not listening" not in listener.log

    def test_refused(self, postgres_server: PostgresServer) -> None:
        """A message that the database refuses, even late, does not stop others."""
        postgres_server.ask(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN PERFORM pg_sleep(0.7); RAISE 'not today'; END$$;"
            "CREATE TRIGGER refuse BEFORE INSERT ON django_wsmux_payload"
            " FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        try:
            with make_peers(
                "postgres://", postgres_environment(postgres_server.port), gevent=False
            ) as peer:
                listener, sender = peer("room"), peer()
                with pytest.raises(PeerError, match="not today"):
                    sender.publish("room", b"x" * 10_000)
                sender.publish("room", b"small")
                assert listener.received(1) == [("room", b"small")]
        finally:
            postgres_server.ask("DROP FUNCTION refuse CASCADE")

    def test_two_connections(self, peer: MakePeer, postgres_server: PostgresServer) -> None:
        """A process has one connection to listen and one to publish, with any number of threads."""
        count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        before = int(postgres_server.ask(count))
        peer("room").call("publish_at_once", "room", 16, 20)
        assert int(postgres_server.ask(count)) == before + 2

    def test_options(self, postgres_server: PostgresServer) -> None:
        """OPTIONS in DATABASES are used: the role to assume, psycopg's and libpq's own."""
        postgres_server.ask("DROP ROLE IF EXISTS weak; CREATE ROLE weak")
        options = '{"assume_role": "weak", "pool": true, "application_name": "mysite"}'
        env = {**postgres_environment(postgres_server.port), "TEST_POSTGRES_OPTIONS": options}
        with make_peers("postgres://", env, gevent=False) as peer:
            listener, sender = peer("room"), peer()
            sender.publish("room", b"small")
            assert listener.received(1) == [("room", b"small")]
            assert len(sender.ask("room", b"?")) == 1
            with pytest.raises(PeerError, match="permission denied"):
                sender.publish("room", b"x" * 10_000)

    @pytest.mark.parametrize("alias", ["lite", "nowhere"])
    def test_wrong_database(self, peer: MakePeer, alias: str) -> None:
        """An alias that is not PostgreSQL is refused when the first socket joins."""
        with pytest.raises(PeerError, match=f"{alias}.*(sqlite|doesn't exist)"):
            peer(url=f"postgres://?using={alias}").call("start")


class TestPostgresFaults(BrokerFaults):
    """Restarts, half-open connections, partitions, slowness."""

    @pytest.fixture
    def broker(self, fragile_server: PostgresServer) -> Iterator[PostgresServer]:
        """A server that runs when the test begins."""
        yield fragile_server
        if fragile_server.process.poll() is not None:
            fragile_server.start()

    def url(self, port: int) -> str:
        """The default database, with a short timeout."""
        return f"postgres://?silence={SILENCE}&timeout=1.5"

    def env(self, backend_env: Mapping[str, str], port: int) -> Mapping[str, str]:
        """Settings that name the port."""
        return postgres_environment(port)

    def test_terminated(self, direct: MakePeer, broker: PostgresServer) -> None:
        """A listener reconnects after an administrator has terminated its session."""
        listener, sender = direct("room"), direct()
        broker.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'wsmux%'"
        )
        assert len(listener.gaps(1)) == 1
        sender.publish("room", b"after")
        assert listener.received(1) == [("room", b"after")]


class TestWithoutTable:
    """A project that has not migrated."""

    def test_says_what_to_do(self) -> None:
        """Small messages pass; the error for a large one names the command."""
        server = start_postgres()
        try:
            with make_peers("postgres://", postgres_environment(server.port), gevent=False) as peer:
                listener, sender = peer("room"), peer()
                with pytest.raises(PeerError, match=r"run manage.py migrate"):
                    sender.publish("room", b"x" * 10_000)
                sender.publish("room", b"small")
                assert listener.received(1) == [("room", b"small")]
        finally:
            server.stop()


@pytest.mark.parametrize("url", ["postgres://host/database", "postgres://?unsing=default"])
def test_url(url: str) -> None:
    """The URL must name an alias; the error says what to write."""
    with pytest.raises(ValueError, match=r"postgres://\?using=default"):
        from_url(url)
