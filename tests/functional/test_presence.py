"""Presence with real servers: crowds, deploys, kills, stores that are away, slow clients."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer, missing, need
from tests.services import RedisServer, find_postgres
from tests.support import TIMES, Server

from .model import post, serving
from .presences import LEAVING, PATIENCE, ROOM, Hall, deploy, kill, reload, room_of, stop

STORES = ("local", "redis", "postgres")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short path, because paths of Unix sockets are limited."""
    with tempfile.TemporaryDirectory(prefix="p") as name:
        path = Path(name)
        path.chmod(0o755)  # PostgreSQL runs as another user
        yield path


def require(store: str) -> None:
    """Skip the test if the server of a store is missing."""
    if store == "redis":
        need("redis-server")
    elif store == "postgres" and find_postgres() is None:
        missing("PostgreSQL")


@pytest.mark.timeout(800)
@pytest.mark.parametrize("store", STORES)
def test_crowd(store: str, directory: Path) -> None:
    """Clients return at once, workers are replaced, one is stopped, one is killed."""
    require(store)
    with serving(store, directory, PATIENCE, count=2) as (server, _), Hall(server) as hall:
        reload(hall, 60 * TIMES)
        deploy(hall)
        if store == "local":
            stop(hall)
        kill(hall)


def limit(server: Server, size: int | None) -> None:
    """Limit the size of files of both workers; ``None`` lifts the limit."""
    pids: set[int] = set()
    while len(pids) < 2:
        pids.add(json.loads(server.get(f"/present/limit/?size={json.dumps(size)}"))["pid"])


@pytest.mark.parametrize("store", STORES)
def test_store_away(store: str, directory: Path) -> None:
    """Nothing is closed while the store is away; then who has come and gone is told to all."""
    require(store)
    with serving(store, directory, PATIENCE, count=2) as (server, broker), Hall(server) as hall:
        staying = hall.add(*(f"stays{number}" for number in range(10)))
        going = hall.add(*(f"goes{number}" for number in range(5)))
        hall.wait_for_list([each.key for each in hall.clients])
        hall.forget_events()
        if broker.server is None:
            limit(server, 0)
        elif isinstance(broker.server, RedisServer):
            broker.server.kill()
        else:
            broker.server.freeze()
        for client in going[:4]:
            client.drop()
        going[4].send("leave")
        new = hall.add(*(f"new{number}" for number in range(5)))
        hall.let_pass(LEAVING[1] if store == "local" else 5.0)
        assert not any(each.here for each in new)
        assert not any(each.events for each in staying)
        if broker.server is None:
            limit(server, None)
        elif isinstance(broker.server, RedisServer):
            broker.server.start()
        else:
            broker.server.thaw()
        keys = [each.key for each in (*staying, *new)]
        hall.clients, hall.gone = [*staying, *new], going
        seconds = hall.wait_for_list(keys)
        print(f"the lists are right {seconds:.1f} s after the return of the store")
        assert all(each.sock is not None for each in hall.clients)
        assert sorted(room_of(server)) == sorted(keys)
        for client in staying:
            assert set(client.events.values()) <= {1}
        assert 1 <= server.log.count("presence: the store cannot be used") <= 4


@pytest.mark.parametrize("worker", ["own", "stock", "runserver"])
def test_servers(start_server: StartServer, worker: str) -> None:
    """Tabs, reloads, plain sockets, function views and watchers, under each kind of server."""
    server = start_server(worker)
    with Hall(server) as hall:
        (watcher,) = hall.add("-")
        (ada, bob, tab, eve) = hall.add("ada", "bob", "bob", "eve")
        (plain,) = hall.add("plain", is_plain=True)
        (function,) = hall.add("function", url=f"/present/function/{ROOM}/function/")
        keys = ["ada", "bob", "eve", "plain", "function"]
        hall.wait_for_list(keys)
        assert sorted(room_of(server)) == sorted(keys)
        hall.forget_events()
        eve.send("leave")
        hall.wait(lambda: watcher.events, "no one left")
        assert watcher.events == Counter({("left", "eve"): 1})
        dropped = time.monotonic()
        for client in (tab, plain, function, ada):
            client.drop()
        ada.connect()
        keys = ["ada", "bob"]
        hall.wait_for_list(keys, [watcher, ada, bob])
        hall.let_pass(2.0)
        for client in (watcher, bob):
            for key in ("plain", "function"):
                assert client.when["left", key] >= dropped + LEAVING[0]
        left = {("left", key): 1 for key in ("eve", "plain", "function")}
        assert watcher.events == bob.events == Counter(left)
        assert sorted(room_of(server)) == keys


def test_slow_client(start_server: StartServer) -> None:
    """A slow client for which messages are dropped is told all changes when it reads again."""
    settings = {"WEBSOCKET_SLOW_CLIENT": "drop", "WEBSOCKET_MAX_UNSENT_BYTES": 100_000}
    server = start_server("own", env={"TEST_SETTINGS": json.dumps(settings)})
    with Hall(server) as hall:
        slow, quick = hall.add("slow", "quick")
        hall.wait_for_list(["slow", "quick"])
        assert slow.sock is not None
        hall.selector.unregister(slow.sock)
        large = [{"group": ROOM, "text": "x" * 2**18}] * 4
        dropped = 0
        while not dropped:
            post(server.port, "/kept/send/", large)
            hall.step()
            dropped = json.loads(server.get("/present/dropped/"))
        hall.add("new")
        hall.wait_for_list(["slow", "quick", "new"], [quick])
        quick.drop()
        hall.clients.remove(quick)
        hall.gone.append(quick)
        hall.selector.register(slow.sock, 1, slow)
        hall.wait_for_list(["slow", "new"])
