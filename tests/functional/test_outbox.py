"""The outbox on real databases: processes that commit together and are killed, and the sweep."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection

from tests.conftest import need
from tests.functional.outbox_model import (
    GROUPS,
    databases,
    die,
    environment,
    left,
    model,
    send,
)
from tests.functional.test_postgres import held
from tests.services import PostgresServer, RedisServer, wait_until_said
from tests.support import ROOT, Server

StartServer = Callable[..., Server]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory for the history; its path is short, because paths of Unix sockets are limited."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def migrated(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The names of a database of each kind with its tables, to be copied."""
    folder = tmp_path_factory.mktemp("migrated")
    command = [sys.executable, "-m", "django", "migrate", "-v0", "--skip-checks"]
    found = databases(postgres, folder)
    for database in found.values():
        subprocess.run(command, env=environment(folder, database), cwd=ROOT, check=True)
    return {kind: str(database["NAME"]) for kind, database in found.items()}


@pytest.fixture
def own(
    postgres: PostgresServer, folder: Path, migrated: dict[str, str]
) -> dict[str, dict[str, object]]:
    """Databases of a test, by kind."""
    found = databases(postgres, folder, migrated["PostgreSQL"])
    with (
        closing(sqlite3.connect(migrated["SQLite"])) as source,
        closing(sqlite3.connect(str(found["SQLite"]["NAME"]))) as copy,
    ):
        source.backup(copy)
    return found


@pytest.fixture(params=["PostgreSQL", "SQLite"])
def env(
    request: pytest.FixtureRequest, own: dict[str, dict[str, object]], folder: Path
) -> dict[str, str]:
    """The environment of a project with its own database."""
    return environment(folder, own[request.param])


def test_model(env: dict[str, str]) -> None:
    """Each committed message is sent once, in order, even if processes are killed at any moment."""
    assert "20 kills" in model(env, kills=20)


FAULTS = """
import django
django.setup()
from unittest.mock import patch
from django.db import transaction
from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import Group, outbox, outbox_table
from django_wsmux.groups.sequencer import sequencer
from django_wsmux.models import Outbox

group = Group("room.faults")

def put(*texts):
    with transaction.atomic():
        for text in texts:
            group.send(text, on_commit=True, stored=True)

def sent():
    return [message.data for message in group.history().messages]

class Failing:
    calls = 0

    def send(self, *args, **options):
        self.calls += 1
        if self.calls == 2:
            raise BackendUnavailable("store://", "down", "")
        return sequencer.send(*args, **options)

Outbox.objects.create(group=outbox._group_id(group.key()), key="x", envelope=b"?")
put("1")
assert (sent(), Outbox.objects.count()) == (["1"], 1), sent()
assert Outbox.objects.get().group == outbox_table.ASIDE
with patch.object(outbox, "sequencer", Failing()):
    put("2", "3", "4")
assert (sent(), Outbox.objects.count()) == (["1", "2"], 3), sent()
outbox.sweep()
assert (sent(), Outbox.objects.count()) == (["1", "2", "3", "4"], 1), sent()
with transaction.atomic():
    put("5")
    outbox.sweep()
assert (sent(), Outbox.objects.count()) == (["1", "2", "3", "4", "5"], 1), sent()
"""


def test_faults(env: dict[str, str]) -> None:
    """A damaged row is set aside; the rows before and after an error of the store are sent once."""
    subprocess.run([sys.executable, "-c", FAULTS], env=env, cwd=ROOT, check=True)


@contextmanager
def member(server: Server) -> Iterator[ClientConnection]:
    """Open a socket that is a member of the first group."""
    with server.connect(f"/events/room/{GROUPS[0]}/") as websocket:
        websocket.recv()
        yield websocket


@pytest.mark.parametrize(
    ("env", "worker", "when"),
    [
        ("PostgreSQL", "own", "committed"),
        ("PostgreSQL", "runserver", "sent"),
        ("SQLite", "stock", "committed"),
        ("SQLite", "own", "sent"),
    ],
    indirect=["env"],
)
def test_sweep(env: dict[str, str], start_server: StartServer, worker: str, when: str) -> None:
    """A process that serves sockets sends the rows of a killed process, but no message twice."""
    with member(start_server(worker, env=env)) as websocket:
        die(env, "one", "two", when=when)
        assert [websocket.recv(), websocket.recv()] == ["one", "two"]
        wait_until_said(lambda: left(env) == 0)
        send(env, "three")
        assert websocket.recv() == "three"


def test_connections(
    postgres: PostgresServer,
    own: dict[str, dict[str, object]],
    folder: Path,
    start_server: StartServer,
) -> None:
    """A process that has looked for rows keeps no connection, even with ``CONN_MAX_AGE``."""
    env = environment(folder, {**own["PostgreSQL"], "CONN_MAX_AGE": 600})
    with member(start_server("own", env=env)):
        die(env, "one", when="committed")
        wait_until_said(lambda: left(env) == 0)
        wait_until_said(lambda: held(postgres) == 0)


def test_broker_down(
    own: dict[str, dict[str, object]], folder: Path, start_server: StartServer
) -> None:
    """Messages that are committed while Redis is down are sent when it is back, in order."""
    need("redis-server")
    redis = RedisServer(folder)
    try:
        env = environment(folder, own["PostgreSQL"], WEBSOCKET_BACKEND=redis.url)
        with member(start_server("own", env=env)) as websocket:
            send(env, "one")
            assert websocket.recv() == "one"
            redis.kill()
            send(env, "two", "three")
            send(env, "four")
            assert left(env) == 3
            redis.start()
            assert [websocket.recv() for _ in range(3)] == ["two", "three", "four"]
            wait_until_said(lambda: left(env) == 0)
    finally:
        redis.stop()
