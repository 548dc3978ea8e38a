"""A page that forks: sockets stay with the parent, and the child is a client of its groups."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gauges import wait_until
from tests.implementations import PYTHON_ONLY
from tests.support import SERVERS, Server, Wire, frame

StartServer = Callable[..., Server]

#: Both kinds of view.
PATHS = ("/process/", "/events/process/")

CLOSE = frame(0x88, (1000).to_bytes(2, "big"))


#: The worker of this package, without its C extension.
IN_PYTHON = "own in Python"


@pytest.fixture(scope="module", params=[*SERVERS, "direct", IN_PYTHON])
def forking(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """A separate server, as forks would affect the tests of others."""
    env = {"TEST_CLOSE_TIMEOUT": "20", "TEST_PING_INTERVAL": "0.5", "TEST_PING_TIMEOUT": "60"}
    server: Server
    if request.param == IN_PYTHON:
        server = start_lasting_server("own", env={**env, **PYTHON_ONLY})
        server.wait_for_log("reactor in Python")
        return server
    server = start_lasting_server(request.param, env=env)
    return server


def is_running(pid: int) -> bool:
    """Return whether a process runs, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Child:
    """A child that a page of the server has forked.

    Args:
        server: the server that forks.
        how: how the page forks.
        member: a socket in the group that the child sends to.
        end: the file that the child waits for.
    """

    def __init__(self, server: Server, how: str, member: Wire, end: Path) -> None:
        self._end = end
        self.pid: int = json.loads(server.get(f"/fork/{how}/?key={end}"))["pid"]
        # Once: the copy of the member in the child must not receive it, too.
        assert message(member) == str(self.pid)

    def let_end(self) -> None:
        """Let the child end, and wait until it has."""
        self._end.touch()
        wait_until(lambda: not is_running(self.pid), "the end of the child")


def message(wire: Wire) -> str:
    """Read the next message; pings may come before it."""
    opcode, payload = wire.frame()
    while opcode == 9:
        opcode, payload = wire.frame()
    assert opcode == 1, (opcode, payload)
    return payload.decode()


#: Each server with each way to fork. Without gevent, os.fork() is the original.
WAYS = [
    (server, how)
    for server in (*SERVERS, "direct", IN_PYTHON)
    for how in ("multiprocessing", "fork", "original")
    if (server, how) != ("runserver", "original")
]


@pytest.mark.parametrize(("forking", "how"), WAYS, indirect=["forking"], scope="module")
def test_sockets_stay_with_the_parent(forking: Server, how: str, tmp_path: Path) -> None:
    """While a child lives, the parent answers, closes and accepts; the child reaches the group."""
    with ExitStack() as stack:
        member = stack.enter_context(forking.upgraded("/group/"))
        paths = PATHS * 5
        wires = [stack.enter_context(forking.upgraded(path)) for path in paths]
        wires[0].send(frame(0x81, b"who?"))
        parent = message(wires[0])
        child = Child(forking, how, member, tmp_path / "first")
        for _ in range(20):
            for wire in wires:
                wire.send(frame(0x81, b"who?"))
            for wire in wires:
                assert message(wire) == parent
        for _ in range(20):
            assert forking.get("/") == f"plain {parent}"
        for path in PATHS:
            with forking.upgraded(path) as wire:
                wire.send(frame(0x81, b"who?"))
                assert message(wire) == parent
                # The child has copies of the sockets that were open before.
        for wire in wires[:2]:
            wire.send(CLOSE)
            opcode, _ = wire.frame()
            while opcode == 9:
                opcode, _ = wire.frame()
            assert opcode == 8
            assert wire.rest() == b""
        assert is_running(child.pid)
        child.let_end()
        for wire in wires[2:]:
            wire.send(frame(0x81, b"still there?"))
            assert message(wire) == parent
        # The parent can still be reached: the first child has removed no file of the parent.
        Child(forking, how, member, tmp_path / "second").let_end()


def test_a_child_can_be_ended(forking: Server, tmp_path: Path) -> None:
    """SIGTERM ends the child: it has none of gunicorn's signal handlers."""
    with forking.upgraded("/group/") as member:
        child = Child(forking, "multiprocessing", member, tmp_path / "never")
        os.kill(child.pid, signal.SIGTERM)
        wait_until(lambda: not is_running(child.pid), "the end of the child")
        member.send(frame(0x81, b"alive"))
        assert message(member) == "alive"
