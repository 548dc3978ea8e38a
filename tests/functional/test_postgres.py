"""Event views on a real PostgreSQL: concurrent views, and released connections."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from websockets.sync.client import ClientConnection

from tests.functional.test_conversation import closing
from tests.services import PostgresServer, wait_until_said
from tests.support import TIMEOUT, Server, Wire, frame
from tests.test_views import ask

StartServer = Callable[..., Server]

SOCKETS = 200


def settings(postgres: PostgresServer, **more: object) -> dict[str, str]:
    """Return the environment of a project on this database."""
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": postgres.port,
        "OPTIONS": more.pop("OPTIONS", {}),
        "CONN_MAX_AGE": more.pop("CONN_MAX_AGE", 0),
        "CONN_HEALTH_CHECKS": more.pop("CONN_HEALTH_CHECKS", False),
    }
    return {"TEST_SETTINGS": json.dumps({"DATABASES": {"default": database}, **more})}


def held(postgres: PostgresServer) -> int:
    """Return how many connections there are, without those of psql."""
    return int(
        postgres.ask(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND application_name <> 'psql'"
        )
    )


@contextmanager
def most_held(postgres: PostgresServer) -> Iterator[list[int]]:
    """Yield a list to which the number of connections is added repeatedly."""
    seen, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            seen.append(held(postgres))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def ask_all(postgres: PostgresServer, wires: list[Wire], at_once: int) -> None:
    """Let the view of each socket wait in the database, until this many wait at the same time."""
    with psycopg.connect(port=postgres.port, host="127.0.0.1", user="postgres") as lock:
        lock.execute("SET application_name = 'psql'")
        lock.execute("SELECT pg_advisory_lock(1)")
        for wire in wires:
            wire.send(frame(0x81, b"SELECT 1 FROM pg_advisory_xact_lock_shared(1)"))
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_until_said(lambda: int(postgres.ask(waiting)) == at_once)
        lock.execute("SELECT pg_advisory_unlock(1)")
        assert [wire.frame() for wire in wires] == [(1, b"1")] * len(wires)


@pytest.mark.parametrize("worker", ["own", "stock"])
def test_concurrent_views(postgres: PostgresServer, start_server: StartServer, worker: str) -> None:
    """200 views wait together with one connection per greenlet at most, and release all of them."""
    env = settings(postgres, WEBSOCKET_HANDLER_GREENLETS=20)
    server = start_server(worker, env=env)
    with ExitStack() as stack:
        wires = [stack.enter_context(server.upgraded("/events/database/")) for _ in range(SOCKETS)]
        with most_held(postgres) as seen:
            ask_all(postgres, wires, at_once=20)
        # A closed one is counted until its process has ended; another one may be open by then.
        assert 1 < max(seen) <= 2 * 20
        wait_until_said(lambda: held(postgres) == 0)


def test_pool(postgres: PostgresServer, start_server: StartServer) -> None:
    """psycopg's pool limits the connections, with any number of greenlets."""
    env = settings(
        postgres,
        WEBSOCKET_HANDLER_GREENLETS=SOCKETS,
        OPTIONS={"pool": {"min_size": 10, "max_size": 10}},
    )
    server = start_server("own", env=env)
    with ExitStack() as stack:
        wires = [stack.enter_context(server.upgraded("/events/database/")) for _ in range(SOCKETS)]
        with most_held(postgres) as seen:
            ask_all(postgres, wires, at_once=10)
        assert 1 < max(seen) <= 10


def talk(websocket: ClientConnection) -> str:
    """Return the connection that a message gets."""
    return str(ask(websocket, "SELECT pg_backend_pid()"))


def test_persistent(postgres: PostgresServer, start_server: StartServer) -> None:
    """``CONN_MAX_AGE`` keeps a connection for messages of any socket."""
    server = start_server("own", env=settings(postgres, CONN_MAX_AGE=60))
    with server.connect("/events/database/") as one, server.connect("/events/database/") as two:
        assert len({talk(websocket) for websocket in (one, two, one, two)}) == 1
        assert held(postgres) == 1


def test_restart(postgres: PostgresServer, start_server: StartServer) -> None:
    """A stale connection ends its socket; the next message gets a new connection."""
    server = start_server("own", env=settings(postgres, CONN_MAX_AGE=60))
    with server.connect("/events/database/") as one, server.connect("/events/database/") as two:
        before = talk(one)
        postgres.kill()
        postgres.start()
        one.send("SELECT 1")
        assert closing(one)[0] == 1011
        assert talk(two) != before


def test_function_view(postgres: PostgresServer, start_server: StartServer) -> None:
    """A function view holds no connection while it waits for a message."""
    server = start_server("own", env=settings(postgres, CONN_MAX_AGE=60))
    with server.connect("/database/") as websocket:
        assert json.loads(websocket.recv(timeout=TIMEOUT)) == {"held": False}
        assert held(postgres) == 0


def test_health_checks(postgres: PostgresServer, start_server: StartServer) -> None:
    """With ``CONN_HEALTH_CHECKS`` a stale connection is replaced without an error."""
    env = settings(postgres, CONN_MAX_AGE=60, CONN_HEALTH_CHECKS=True)
    server = start_server("own", env=env)
    with server.connect("/events/database/") as websocket:
        before = talk(websocket)
        assert talk(websocket) == before
        postgres.kill()
        postgres.start()
        assert talk(websocket) != before
