"""Groups with a history in Redis, served by several processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import StartServer, need
from tests.gauges import wait_until
from tests.services import RedisServer, redis_cluster
from tests.support import Server, Wire

from .test_v1 import offer, talking, told

ROOM = "/events/room/kept/"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for the test."""
    need("redis-server", "redis-cli")
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def start(start_server: StartServer) -> StartServer:
    """Start two workers that keep the messages of groups in Redis."""

    def start(url: str) -> Server:
        settings = {"WEBSOCKET_HISTORY": {"*": {"messages": 100, "seconds": 600}}}
        environment = {"TEST_SETTINGS": json.dumps(settings), "TEST_BACKEND": url}
        server = start_server("own", "-w", "2", env=environment)
        wait_until(lambda: len(server.workers) == 2, "two workers")
        return server

    return start


def enter(server: Server, stack: ExitStack) -> list[tuple[Wire, str]]:
    """Open sockets until both workers have some; return them, and the ids of their clients."""
    found: list[tuple[Wire, str]] = []
    workers: set[str] = set()
    while len(workers) < 2:
        wire, client = stack.enter_context(talking(server, ROOM))
        workers.add(told(wire)["text"])
        found.append((wire, client))
    return found


def said(wire: Wire, count: int) -> list[tuple[str, str]]:
    """Return positions and words of the next messages."""
    messages = [told(wire) for _ in range(count)]
    return [(each["at"], each["text"].split()[1]) for each in messages]


@pytest.mark.parametrize("kind", ["server", "cluster"])
def test_workers(kind: str, start: StartServer, broker: RedisServer, tmp_path: Path) -> None:
    """All sockets get the same messages with the same numbers; a client resumes at any worker."""
    with ExitStack() as stack:
        url = broker.url
        if kind == "cluster":
            nodes = stack.enter_context(redis_cluster(tmp_path))
            url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
        server = start(url)
        sockets = enter(server, stack)
        for number in range(10):
            server.get(f"/tell/?group=kept&say={number}")
        heard = [said(wire, 10) for wire, _ in sockets]
        assert all(each == heard[0] for each in heard)
        assert [word for _, word in heard[0]] == [str(number) for number in range(10)]
        assert [int(at.partition("-")[2]) for at, _ in heard[0]] == list(range(1, 11))
        for _, client in sockets:
            brought = offer(c=client, u="anonymous", g={"kept": heard[0][5][0]})
            wire = stack.enter_context(server.upgraded(ROOM, brought))
            assert told(wire)["welcome"]["groups"]["kept"]["recovered"] is True
            assert told(wire).keys() == {"text"}
            assert said(wire, 4) == heard[0][6:]


def test_restart_of_redis(start: StartServer, broker: RedisServer) -> None:
    """After a restart from a snapshot, members are told of a gap, and then get new messages."""
    with ExitStack() as stack:
        server = start(broker.url)
        sockets = enter(server, stack)
        server.get("/tell/?group=kept&say=one")
        broker.ask("SAVE")
        server.get("/tell/?group=kept&say=two")
        heard = [said(wire, 2) for wire, _ in sockets]
        last = heard[0][1][0]
        broker.kill()
        broker.start()
        wait_until(
            lambda: server.request("/tell/?group=kept&say=three").status == 200, "the first message"
        )
        for wire, _ in sockets:
            while "text" not in (message := told(wire)):
                pass
            assert message["text"].endswith(" three")
            assert message["at"].partition("-")[0] != last.partition("-")[0]
        wire = stack.enter_context(server.upgraded(ROOM, offer(g={"kept": last})))
        assert told(wire)["welcome"]["groups"]["kept"]["recovered"] is False
