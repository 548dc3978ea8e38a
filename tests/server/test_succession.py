"""Sockets that move between gunicorn's workers."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from django_wsmux.server import succession
from django_wsmux.server.succession import Generations

from ..gauges import wait_until
from ..support import GUNICORN_OPTIONS, TIMEOUT, WORKERS, Server

Start = Callable[..., Server]

#: Workers that hand over without Django.
each_worker = pytest.mark.parametrize("worker", ["own", "gevent", "stock"])


class Peers:
    """Clients that notice when a message is lost or answered twice."""

    def __init__(self, server: Server, stack: ExitStack, count: int, path: str = "/") -> None:
        self._sockets = [stack.enter_context(server.connect(path)) for _ in range(count)]
        self._said = 0

    def workers(self) -> set[int]:
        """Say something on each socket; return the workers that answer."""
        self._said += 1
        return {self._echo(websocket) for websocket in self._sockets}

    def _echo(self, websocket: ClientConnection) -> int:
        websocket.send(str(self._said))
        pid, number, text = str(websocket.recv(timeout=TIMEOUT)).split()
        assert (number, text) == (str(self._said), str(self._said))
        return int(pid)

    def ends(self) -> set[tuple[int | None, str | None]]:
        """Wait until all are closed; return codes and reasons."""
        for websocket in self._sockets:
            with pytest.raises(ConnectionClosed):
                websocket.recv(timeout=TIMEOUT)
        return {(websocket.close_code, websocket.close_reason) for websocket in self._sockets}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends the clients."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(start_server: Start, tmp_path: Path) -> Start:
    """Start gunicorn with a site that needs no Django."""

    def start(worker: str, *options: str, **env: str) -> Server:
        env = {"COUNTING_DIRECTORY": str(tmp_path), **env}
        return start_server(worker, *options, env=env, application="tests.server.counting_site")

    return start


def replaced(server: Server, old: set[int]) -> set[int]:
    """Wait until the old workers have ended; return the new ones."""
    wait_until(lambda: not old & set(server.workers), "the old workers have ended")
    return set(server.workers)


@pytest.mark.parametrize(
    ("worker", "options"),
    [("own", []), ("own", ["--preload"]), ("stock", []), ("gevent", ["--preload"])],
)
def test_reload(
    start: Start, stack: ExitStack, tmp_path: Path, worker: str, options: list[str]
) -> None:
    """At SIGHUP the sockets move to the new workers, which load their code for a second."""
    server = start(worker, "-w", "2", *options)
    (tmp_path / "seconds").write_text("1")
    peers = Peers(server, stack, 20)
    old = set(server.workers)
    assert peers.workers() <= old
    for _ in range(2):
        server.signal(signal.SIGHUP)
        new = replaced(server, old)
        # If one of them was ready long before the other, it has them all.
        assert peers.workers() <= new
        old = new
    assert len(re.findall(r"Handed over \d+ sockets in .*; 0 stay\n", server.log)) >= 2


@each_worker
def test_stop(start: Start, stack: ExitStack, tmp_path: Path, worker: str) -> None:
    """No one waits for a successor when the server stops."""
    server = start(worker, "-w", "2", "--graceful-timeout", "300", "--timeout", "300")
    # gunicorn loses a signal for a worker that boots.
    wait_until(lambda: len(list(tmp_path.glob("*-*"))) == 2, "both are ready")
    peers = Peers(server, stack, 5)
    peers.workers()
    server.signal(signal.SIGTERM)
    assert peers.ends() == {(1012, "service restart")}
    assert server.wait() == 0


@each_worker
def test_fewer(start: Start, tmp_path: Path, worker: str) -> None:
    """No one waits for a successor when one worker less is wanted."""
    server = start(worker, "-w", "2", "--graceful-timeout", "300", "--timeout", "300")
    wait_until(lambda: len(list(tmp_path.glob("*-*"))) == 2, "both are ready")
    before = set(server.workers)
    server.signal(signal.SIGTTOU)
    wait_until(lambda: len(server.workers) == 1, "one has ended")
    assert set(server.workers) < before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=["TERM", "QUIT"])
def test_new_binary(
    environment: dict[str, str], tmp_path: Path, stack: ExitStack, number: signal.Signals
) -> None:
    """After SIGUSR2 and SIGTERM or SIGQUIT the sockets are with the new server."""
    program = str(Path(sys.executable).with_name("gunicorn"))
    options = ("-k", WORKERS["own"], "-b", "127.0.0.1:0", *GUNICORN_OPTIONS)
    env = {**environment, "COUNTING_DIRECTORY": str(tmp_path)}
    server = Server(program, *options, "tests.server.counting_site", env=env)
    successor = 0
    try:
        peers = Peers(server, stack, 5)
        peers.workers()
        server.signal(signal.SIGUSR2)
        match = server.wait_for_log(r"(?s)Listening at.*Listening at: \S+ \((\d+)\)")
        successor = int(match[1])
        wait_until(lambda: len(list(tmp_path.glob("*-*"))) == 2, "both are ready")
        server.signal(number)
        assert server.process.wait(TIMEOUT) == 0
        (worker,) = peers.workers()
        parent = re.search(r"PPid:\t(\d+)", Path(f"/proc/{worker}/status").read_text())
        assert parent is not None
        assert int(parent[1]) == successor
    finally:
        if successor:
            os.kill(successor, signal.SIGTERM)
        server.stop()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_max_requests(start: Start, stack: ExitStack, workers: int) -> None:
    """Workers end after some requests, also all at once, and no socket is closed."""
    server = start("own", "-w", str(workers), "--max-requests", "20")
    peers = Peers(server, stack, 10)
    first = set(server.workers)
    deadline = time.monotonic() + TIMEOUT
    while first & set(server.workers):
        assert time.monotonic() < deadline
        server.get("/")
        peers.workers()
    wait_until(lambda: len(server.workers) == workers, "as many workers as before")
    assert peers.workers() <= set(server.workers)


def test_two_services(start: Start, stack: ExitStack) -> None:
    """Services that share the directory take nothing from each other."""
    one, other = start("own"), start("own")
    peers = Peers(one, stack, 5)
    (kept,) = other.workers
    old = peers.workers()
    one.signal(signal.SIGHUP)
    assert peers.workers() <= old | (new := replaced(one, old))
    assert peers.workers() == new
    assert other.workers == [kept]


def test_broken_code(start: Start, stack: ExitStack, tmp_path: Path) -> None:
    """Sockets are closed at once if the new worker dies while it loads its code."""
    server = start("own", "--graceful-timeout", "300")
    peers = Peers(server, stack, 5)
    (old,) = peers.workers()
    (tmp_path / "seconds").write_text("600")
    server.signal(signal.SIGHUP)
    wait_until(lambda: len(server.workers) == 2, "a new worker")
    peers.workers()
    (new,) = set(server.workers) - {old}
    (tmp_path / "seconds").unlink()
    os.kill(new, signal.SIGKILL)
    assert peers.ends() == {(1012, "service restart")}


def test_generations() -> None:
    """A new configuration begins a new generation; forked workers see the newest one."""
    generations = Generations()
    first, second = object(), object()
    assert [generations.number(each) for each in (first, first, second)] == [1, 1, 2]
    child = os.fork()
    if child == 0:
        os._exit(generations.newest())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == generations.newest() == 2
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(read, 1)
        os._exit(generations.newest())
    generations.number(first)
    os.write(write, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    os.close(read)
    os.close(write)


def test_one_after_the_other(tmp_path: Path) -> None:
    """A worker waits until another has left, unless it has no time."""
    attempts = []
    with succession.leaving_alone(str(tmp_path), lambda: False):

        def is_over() -> bool:
            attempts.append(1)
            return len(attempts) > 2

        with succession.leaving_alone(str(tmp_path), is_over):
            assert len(attempts) == 3
    with succession.leaving_alone(str(tmp_path), lambda: False):
        pass
