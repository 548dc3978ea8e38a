"""A session of PostgreSQL: values, errors, timeouts, and the end of the server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import OperationalError

from django_wsmux.backends.postgresql_connection import Session, SqlError
from tests.services import PostgresServer, wait_until_said
from tests.support import TIMEOUT, unused_port


def conninfo(port: int) -> str:
    """Return the connection string of a server."""
    return f"host=127.0.0.1 port={port} user=postgres dbname=postgres"


def test_statements(postgres: PostgresServer) -> None:
    """Texts and binary values pass unchanged; the session survives a failed statement."""
    session = Session(conninfo(postgres.port), TIMEOUT)
    for is_prepared in (False, True, True):
        values = ("caf\u00e9", b"\0\xff")
        rows = session.execute(b"SELECT $1::text, $2::bytea, NULL", values, is_prepared=is_prepared)
        assert rows == [["caf\u00e9".encode(), b"\0\xff", None]]
    with pytest.raises(SqlError, match="does not exist") as caught:
        session.execute(b"SELECT * FROM nowhere")
    assert caught.value.code == "42P01"
    assert session.execute(b"SELECT 'again'") == [[b"again"]]
    session.close()


def test_statements_together(postgres: PostgresServer) -> None:
    """They are one transaction, and the second one sees what was committed during the first."""
    first, second = (Session(conninfo(postgres.port), TIMEOUT) for _ in range(2))
    first.execute(b"CREATE TABLE counters (name text PRIMARY KEY, number int)")
    odd = "a'\\\n\"\u00e9"
    insert = b"INSERT INTO counters VALUES ($1, $2::int)"
    count = b"SELECT name, number, $1::text FROM counters WHERE number >= $2::int"
    rows = first.execute_together([(insert, [odd, "1"]), (count, [None, "0"])])
    assert rows == [[odd.encode(), b"1", None]]
    with pytest.raises(SqlError, match="duplicate"):
        first.execute_together([(insert, ["b", "2"]), (insert, [odd, "3"])])
    assert first.execute_together([(count, ["x", "2"])]) == []

    lock = b"SELECT number FROM counters WHERE name = $1 FOR UPDATE"
    first.execute(b"BEGIN")
    first.execute(b"UPDATE counters SET number = 7")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(second.execute_together, [(lock, [odd]), (count, [None, "0"])])
        waiting = b"SELECT count(*)::text FROM pg_locks WHERE NOT granted"
        wait_until_said(lambda: first.execute(waiting) == [[b"1"]])
        first.execute(b"COMMIT")
        assert reading.result() == [[odd.encode(), b"7", None]]
    for session in (first, second):
        session.close()


def test_timeout(postgres: PostgresServer) -> None:
    """A statement that takes longer than the timeout ends with an error."""
    session = Session(conninfo(postgres.port), TIMEOUT)
    session._timeout = 0.05
    with pytest.raises(TimeoutError):
        session.execute(b"SELECT pg_sleep(300)")
    session.close()


def test_notifications_and_end(postgres: PostgresServer) -> None:
    """Notifications arrive in order; a session that the server ends is stale."""
    session = Session(conninfo(postgres.port), TIMEOUT)
    session.execute(b"LISTEN room")
    session.execute(b"SELECT pg_notify('room', 'one'), pg_notify('room', 'two')")
    assert list(session.notifications()) == [b"one", b"two"]
    assert not session.is_stale()
    other = Session(conninfo(postgres.port), TIMEOUT)
    ((pid,),) = session.execute(b"SELECT pg_backend_pid()::text")
    assert pid is not None
    other.execute(b"SELECT pg_terminate_backend($1::int, 60000)", (pid.decode(),))
    assert session.is_stale()
    with pytest.raises(OperationalError):
        session.execute(b"SELECT 1")
    session.close()
    other.close()


def test_no_server() -> None:
    """A refused connection is an error at once."""
    with pytest.raises(OperationalError, match="refused"):
        Session(conninfo(unused_port()), TIMEOUT)
