"""Forks and ends of processes while messages to the members of a large group are put off."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from tests.gauges import wait_until
from tests.implementations import PYTHON_ONLY
from tests.support import ROOT, Server, Wire, frame

from .test_forks import is_running

StartServer = Callable[..., Server]

#: Members of the group, and messages to them.
MEMBERS, COUNT = 80, 5

TEXTS = [str(number) for number in range(COUNT)]

V1 = "Sec-WebSocket-Protocol: wsmux.v1\r\n"


@pytest.fixture(scope="module", params=["own", "own in Python", "stock"])
def server(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """A worker, of which the page changes the size of the slices."""
    history = {"WEBSOCKET_HISTORY": {"kept.*": {"messages": 100, "seconds": 600}}}
    env = {"TEST_SETTINGS": json.dumps(history), "TEST_PING_INTERVAL": "0"}
    worker, _, python = request.param.partition(" ")
    server: Server = start_lasting_server(worker, env={**env, **(PYTHON_ONLY if python else {})})
    return server


@contextmanager
def members(server: Server, group: str, count: int = MEMBERS) -> Iterator[list[Wire]]:
    """Open sockets of a group."""
    with ExitStack() as stack:
        path = f"/events/room/{group}/"
        wires = [stack.enter_context(server.upgraded(path)) for _ in range(count)]
        for wire in wires:
            assert wire.frame()[0] == 1
        yield wires


def put_off(server: Server, what: str, group: str, **query: object) -> dict[str, Any]:
    """Request the page; all messages but the first one, to the first member, are put off."""
    fields = "".join(f"&{key}={value}" for key, value in query.items())
    text = server.get(f"/put-off/{what}/?group={group}&count={COUNT}{fields}")
    answer: dict[str, Any] = json.loads(text)
    assert answer["left"] == COUNT * MEMBERS - 1
    return answer


def texts(wire: Wire, count: int) -> list[str]:
    """Read so many messages."""
    return [wire.frame()[1].decode() for _ in range(count)]


def assert_nothing_more(wires: list[Wire]) -> None:
    """Assert that the members have got nothing else: an answer follows what was sent before."""
    for wire in wires:
        wire.send(frame(0x89, b"?"))
    for wire in wires:
        assert wire.frame() == (10, b"?")


@pytest.fixture
def group() -> str:
    """The name of a group of its own."""
    return uuid4().hex


def test_fork(server: Server, group: str, tmp_path: Path) -> None:
    """The parent goes on where it was; its child, which reaches the group, sends none of it."""
    with members(server, group) as wires:
        end = tmp_path / "end"
        child = put_off(server, "fork", group, key=quote(str(end)))["child"]
        for wire in wires:
            assert texts(wire, COUNT + 1) == [*TEXTS, str(child)]
        assert is_running(child)
        assert_nothing_more(wires)
        end.touch()
        wait_until(lambda: not is_running(child), "the end of the child")
        assert_nothing_more(wires)


def test_end(server: Server, group: str) -> None:
    """A process that is told to end sends its members all that they wait for, then closes them."""
    with members(server, group) as wires:
        put_off(server, "SIGTERM", group)
        for wire in wires:
            assert texts(wire, COUNT) == TEXTS
            assert wire.closed() == (1012, "service restart")


#: Opens half of the sockets of a group in a process of its own.
PEER = """
import sys
from contextlib import ExitStack
from tests.support import Site
with ExitStack() as stack:
    for _ in range(int(sys.argv[3])):
        stack.enter_context(Site(int(sys.argv[1])).upgraded(sys.argv[2]))
    print("open", flush=True)
    sys.stdin.read()
"""


def test_killed_peer(server: Server, group: str) -> None:
    """Members of a process that is killed meanwhile keep no message from the others."""
    half = MEMBERS // 2
    command = [sys.executable, "-c", PEER, str(server.port), f"/events/room/{group}/", str(half)]
    with (
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as peer,
        members(server, group, half) as wires,
    ):
        try:
            assert peer.stdout is not None
            assert peer.stdout.readline() == "open\n"
            put_off(server, "SIGKILL", group, pid=peer.pid)
            assert peer.wait() == -signal.SIGKILL
            for wire in wires:
                assert texts(wire, COUNT) == TEXTS
            assert_nothing_more(wires)
        finally:
            peer.kill()


def told(wire: Wire) -> dict[str, Any]:
    """Read the next frame of ``wsmux.v1``."""
    found: dict[str, Any] = json.loads(wire.frame()[1])
    return found


def numbered(data: bytes) -> list[dict[str, Any]]:
    """Return the messages with a position in the frames that were read."""
    found = []
    while data:
        size, start = (int.from_bytes(data[2:4], "big"), 4) if data[1] == 126 else (data[1], 2)
        found.append(json.loads(data[start : start + size]))
        data = data[start + size :]
    return [each for each in found if "at" in each]


def test_killed(server: Server, group: str) -> None:
    """If the process is killed, each member learns of it; on its return, it gets what it missed."""
    group = f"kept.{group}"
    path = f"/events/room/{group}/"
    with ExitStack() as stack:
        wires = [stack.enter_context(server.upgraded(path, V1)) for _ in range(MEMBERS)]
        positions = [told(wire)["welcome"]["groups"][group]["at"] for wire in wires]
        assert all("text" in told(wire) for wire in wires)
        with suppress(HTTPException, OSError):
            put_off(server, "SIGKILL", group)
        found = [numbered(wire.rest()) for wire in wires]
    assert sum(map(len, found)) == 1
    for position, messages in zip(positions, found, strict=True):
        since = messages[-1]["at"] if messages else position
        with server.upgraded(f"{path}?at={group}@{since}", V1) as wire:
            assert told(wire)["welcome"]["groups"][group]["recovered"] is True
            # The view sends one message itself.
            more = [told(wire) for _ in range(COUNT - len(messages) + 1)]
            messages += [each for each in more if "at" in each]
            assert [each["text"] for each in messages] == TEXTS
            assert_nothing_more([wire])
