"""Sockets and pages while servers stop, reload and replace their workers."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from resource import RLIMIT_NOFILE, prlimit

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.conftest import StartServer
from tests.gauges import wait_until
from tests.support import GUNICORN_OPTIONS, ROOT, TIMEOUT, WORKERS, Server, Wire, handshake

#: Requests after which the workers of ``lasting`` restart: more than other tests need.
MOST = 15

#: In the order of the manual's table.
COLUMNS = ("own", "gevent", "stock", "runserver")


def table() -> Iterator[tuple[str, str, str]]:
    """Yield event, server and result for each cell of the manual's table."""
    text = (ROOT / "docs" / "deployment.rst").read_text()
    (body,) = re.findall(r"^event  .*\n=+  [= ]+\n((?:.+\n)+?)=+  =", text, re.MULTILINE)
    for line in body.splitlines():
        event, *cells = re.split(r"  +", line)
        for server, cell in zip(COLUMNS, cells, strict=True):
            if cell != "-":
                yield event, server, cell


def cells(*events: str) -> pytest.MarkDecorator:
    """Run a test for each cell of these rows."""
    found = [cell for cell in table() if cell[0] in events]
    return pytest.mark.parametrize(("event", "worker", "expected"), found)


def ended(websocket: ClientConnection) -> tuple[int | None, str | None, int]:
    """Receive to the end; return close code, reason, and the number of messages before."""
    count = 0
    while True:
        try:
            websocket.recv(timeout=TIMEOUT)
        except ConnectionClosed:
            return websocket.close_code, websocket.close_reason, count
        count += 1


def join(server: Server, stack: ExitStack) -> tuple[ClientConnection, int]:
    """Open a socket that is told when others end; return it with its process."""
    websocket = stack.enter_context(server.connect("/events/leaving/", max_queue=None))
    return websocket, int(websocket.recv(timeout=TIMEOUT))


def check(sockets: list[ClientConnection], expected: str) -> None:
    """Assert that sockets have ended as a cell of the table says."""
    ends = [ended(websocket) for websocket in sockets]
    if expected == "dropped":
        assert {end[:2] for end in ends} == {(1006, "")}
    else:
        assert {end[:2] for end in ends} == {(1012, "service restart")}
    if "spread" in expected:
        # The first was closed, and its view had run, before the second was closed.
        assert sum(count for _, _, count in ends) >= len(sockets) - 1


def check_moved(server: Server, old: int, sockets: list[ClientConnection]) -> None:
    """Assert that sockets are open although their worker has ended."""
    wait_until(lambda: old not in server.workers, "the worker has ended")
    for websocket in sockets:
        assert websocket.ping().wait(TIMEOUT)


def boots(server: Server) -> int:
    """Return how many workers have started so far."""
    return server.log.count("Booting worker")


def booted(server: Server, times: int) -> None:
    """Wait until this many workers have started in all."""
    server.wait_for_log(rf"(?s)(?:Booting worker.*){{{times}}}")


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a file for each server of ``lasting``; editing it restarts its worker."""
    return tmp_path_factory.mktemp("reload")


@pytest.fixture(scope="module")
def lasting(start_lasting_server: StartServer, edited: Path) -> Callable[[str], Server]:
    """A server for each worker, for events that a server survives; its worker is new."""
    options = ("--reload", "--reload-engine", "poll", "--max-requests", f"{MOST}")

    @cache
    def start(worker: str) -> Server:
        (edited / worker).touch()
        return start_lasting_server(worker, *options, "--reload-extra-file", f"{edited / worker}")

    return start


class TestTable:
    """The table of the manual, row by row."""

    @cells("SIGTERM", "SIGINT or SIGQUIT")
    def test_stop(self, start_server: StartServer, event: str, worker: str, expected: str) -> None:
        """Sockets are closed, and the server stops long before graceful_timeout is over."""
        options = [] if worker == "runserver" else ["--graceful-timeout=300"]
        server = start_server(worker, *options)
        number = signal.SIGTERM
        if event != "SIGTERM":
            number = signal.SIGQUIT if worker == "gevent" else signal.SIGINT
        with ExitStack() as stack:
            sockets = [join(server, stack)[0] for _ in range(10)]
            server.signal(number)
            check(sockets, expected)
            assert server.wait() == (-signal.SIGTERM if expected == "dropped" else 0)
        assert "Traceback" not in server.log

    @cells(
        "SIGHUP",
        "SIGTTOU",
        "``max_requests``, one worker",
        "edit with ``--reload``",
        "killed, or ``--timeout``",
    )
    def test_replaced(
        self,
        lasting: Callable[[str], Server],
        edited: Path,
        event: str,
        worker: str,
        expected: str,
    ) -> None:
        """Sockets are closed; another worker serves clients that reconnect."""
        if worker == "runserver":
            return  # see test_runserver.py
        server = lasting(worker)
        wait_until(lambda: len(server.workers) == 1, "only one worker")
        (old,) = server.workers
        number = boots(server) + 1
        with ExitStack() as stack:
            sockets = [join(server, stack)[0] for _ in range(10)]
            if event == "SIGHUP":
                server.signal(signal.SIGHUP)
            elif event == "SIGTTOU":
                server.signal(signal.SIGTTIN)
                booted(server, number)
                server.signal(signal.SIGTTOU)
            elif "killed" in event:
                os.kill(old, signal.SIGKILL)
            elif "edit" in event:
                # A worker that has answered has already read the old time.
                file = edited / worker
                os.utime(file, (time.time(), file.stat().st_mtime + 10))
            else:
                for _ in range(MOST - 10):
                    server.get("/")
            if expected == "moved":
                check_moved(server, old, sockets)
            else:
                check(sockets, expected)
        booted(server, number)
        with server.connect("/echo/") as websocket:
            websocket.send("again")
            assert websocket.recv(timeout=TIMEOUT) == "again"

    @cells("``max_requests``, several")
    def test_max_requests(
        self, start_server: StartServer, event: str, worker: str, expected: str
    ) -> None:
        """One worker restarts, the others continue."""
        server = start_server(worker, "-w", "2", "--max-requests", "20")
        leaving = re.compile(r"\[(\d+)\] \[INFO\] Autorestarting")
        sockets = []
        with ExitStack() as stack:
            while not (match := leaving.search(server.log)):
                sockets.append(join(server, stack))
            left = [each for each, pid in sockets if pid == int(match[1])]
            if expected == "moved":
                check_moved(server, int(match[1]), left)
            else:
                check(left, expected)
            for websocket, pid in sockets:
                assert pid == int(match[1]) or websocket.ping().wait(TIMEOUT)

    def test_max_requests_warning(self, start_server: StartServer) -> None:
        """The log warns if sockets that cannot move would use up max_requests when they return."""
        server = start_server("own", "--max-requests", "4")
        with ExitStack() as stack:
            sockets = [stack.enter_context(server.connect("/echo/")) for _ in range(3)]
            server.get("/")
            check(sockets, "1012")
        server.wait_for_log("max_requests is reached with 3 sockets open")

    @cells("SIGTERM, a page under way")
    def test_page(self, start_server: StartServer, event: str, worker: str, expected: str) -> None:
        """The page is finished; whether sockets wait for that depends on the worker."""
        server = start_server(worker)
        with server.wire() as page, server.connect("/echo/") as websocket:
            # pywsgi would wait for a client that keeps its connection.
            # Either the page sees the sockets close, however long that takes, or it times out.
            seconds = 60 if expected == "1012 meanwhile" else 1
            page.send(b"GET /last-page/%d/ HTTP/1.0\r\nHost: localhost\r\n\r\n" % seconds)
            server.signal(signal.SIGTERM)
            assert ended(websocket) == (1012, "service restart", 0)
            head = page.head()
            assert head.startswith(("HTTP/1.1 200 ", "HTTP/1.0 200 "))
            assert page.read(1) == (b"0" if expected == "1012 meanwhile" else b"1")

    @cells("handshake after SIGTERM")
    def test_handshake(
        self, start_server: StartServer, event: str, worker: str, expected: str
    ) -> None:
        """On a persistent connection it is refused, or its socket is closed soon."""
        server = start_server(worker, "--graceful-timeout", "60", "--keep-alive", "60")
        with server.wire() as kept, server.wire() as other, server.connect("/echo/") as websocket:
            for wire in (kept, other):
                wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                size = re.search(r"Content-Length: (\d+)", wire.head())
                assert size is not None
                wire.read(int(size[1]))
            if expected == "503":
                self.refuse(server, kept, other, websocket)
            else:
                server.signal(signal.SIGTERM)
                kept.send(handshake("/echo/"))
                assert kept.head().startswith("HTTP/1.1 101 ")
                other.__exit__()
                assert kept.closed() == (1012, "service restart")

    def refuse(self, server: Server, kept: Wire, other: Wire, websocket: ClientConnection) -> None:
        """A view that has not ended holds the worker, and open connections are served."""
        with server.connect("/late-echo/held/"):
            server.signal(signal.SIGTERM)
            assert ended(websocket) == (1012, "service restart", 0)
            kept.send(handshake("/echo/"))
            head = kept.head()
            assert head.startswith("HTTP/1.1 503 ")
            assert "Retry-After: 1" in head
            assert "Connection: close" in head
            other.send(b"GET /let-go/held/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert other.head().startswith("HTTP/1.1 200 ")
            assert server.wait() == 0


class TestOwnWorker:
    """Further behaviour of ``WebSocketWorker``."""

    def test_new_binary(self, environment: dict[str, str]) -> None:
        """After SIGUSR2 a second server takes over from the first."""
        # gunicorn starts again by its path; started as a module it would not find itself.
        program = str(Path(sys.executable).with_name("gunicorn"))
        options = ("-k", WORKERS["own"], "-b", "127.0.0.1:0", *GUNICORN_OPTIONS)
        server = Server(program, *options, "tests.project.wsgi", env=environment)
        successor = 0
        try:
            with server.connect("/echo/") as websocket:
                server.signal(signal.SIGUSR2)
                match = server.wait_for_log(r"(?s)Listening at.*Listening at: \S+ \((\d+)\)")
                successor = int(match[1])
                server.wait_for_log("(?s)room for about.*room for about")
                server.signal(signal.SIGTERM)
                assert ended(websocket) == (1012, "service restart", 0)
            assert server.process.wait(TIMEOUT) == 0
            with server.connect("/echo/") as websocket:
                websocket.send("x")
                assert websocket.recv(timeout=TIMEOUT) == "x"
        finally:
            if successor:
                os.kill(successor, signal.SIGTERM)
            server.stop()

    def test_out_of_time(self, start_server: StartServer) -> None:
        """A drain beyond graceful_timeout is cut; the log names what did not end, and a remedy."""
        server = start_server("own", "--graceful-timeout", "2")
        server.wait_for_log(
            r"WEBSOCKET_DRAIN_SECONDS is 5, but only 0 fit into graceful_timeout \(2\): raise "
            r"--graceful-timeout to 8"
        )
        with server.wire() as page, server.connect("/late-echo/never/") as websocket:
            page.send(b"GET /slow/?seconds=600 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(
                lambda: json.loads(server.get("/report/none/"))["inside"] == 1, "the page is begun"
            )
            server.signal(signal.SIGTERM)
            assert ended(websocket) == (1012, "service restart", 0)
            assert server.wait() == 0
        assert "ending 1 requests and 1 views of sockets: <WebSocket '/late-echo/never/'" in (
            server.log
        )

    def test_files(self, start_server: StartServer) -> None:
        """The limit is raised as far as allowed; if that is not enough, the log says what is."""
        server = start_server("own")
        server.wait_for_log(r"room for about \d+")
        prlimit(server.process.pid, RLIMIT_NOFILE, (300, 1500))
        server.signal(signal.SIGHUP)
        server.wait_for_log("Limit of open files raised from 300 to 1500")
        server.wait_for_log("may open 1500 files.*Allow at least 2100")
        server.wait_for_log("room for about 400")

    def test_slots(self, start_server: StartServer) -> None:
        """A pause because all worker_connections are taken is logged and counted."""
        server = start_server("own", "--worker-connections", "1")
        with server.wire() as page:
            page.send(b"GET /slow/?seconds=0.3 HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert server.get("/").startswith("plain")
        server.wait_for_log("All 1 worker_connections are in use")
