"""Sockets and pages while servers stop, reload and replace their workers."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from itertools import cycle
from pathlib import Path
from resource import RLIMIT_NOFILE, prlimit

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.conftest import StartServer
from tests.gauges import wait_until
from tests.support import GUNICORN_OPTIONS, ROOT, TIMEOUT, WORKERS, Server, Wire, handshake

#: Requests after which the workers of ``lasting`` restart: more than other tests need.
MOST = 20

#: In the order of the manual's table.
COLUMNS = ("own", "gevent", "stock", "runserver")

#: The kinds of views in the manual's table: the URL, and how many sockets are opened. More than
#: half of MOST cannot move, which the worker warns about.
VIEWS = {
    "event": ("/events/leaving/", 3),
    "loop": ("/process-loop/", 2),
    "other": ("/process-leaving/", 11),
}

#: The number of all of them.
COUNT = sum(count for _, count in VIEWS.values())

#: What a cell says of each kind of view.
Expected = dict[str, str]


def table() -> dict[tuple[str, str], Expected]:
    """Return the cells of the manual's table by event and server."""
    text = (ROOT / "docs" / "deployment.rst").read_text()
    (body,) = re.findall(r"^event  .*\n=+  [= ]+\n((?:.+\n)+?)=+  =", text, re.MULTILINE)
    found: dict[tuple[str, str], Expected] = {}
    for line in body.splitlines():
        event, kinds, *cells = re.split(r"  +", line)
        for server, cell in zip(COLUMNS, cells, strict=True):
            for kind in VIEWS if kinds == "all" else kinds.split(", "):
                if cell != "-":
                    found.setdefault((event, server), {})[kind] = cell
    assert all(list(expected) == list(VIEWS) for expected in found.values())
    return found


def cells(*events: str) -> pytest.MarkDecorator:
    """Run a test for each server of these rows."""
    found = [(*key, expected) for key, expected in table().items() if key[0] in events]
    assert {event for event, _, _ in found} == set(events)
    ids = [f"{event}-{server}" for event, server, _ in found]
    return pytest.mark.parametrize(("event", "worker", "expected"), found, ids=ids)


def ended(websocket: ClientConnection) -> tuple[int | None, str | None, int]:
    """Receive to the end; return close code, reason, and the number of messages before."""
    count = 0
    while True:
        try:
            websocket.recv(timeout=TIMEOUT)
        except ConnectionClosed:
            return websocket.close_code, websocket.close_reason, count
        count += 1


def answer(websocket: ClientConnection) -> int:
    """Receive the process of a socket."""
    while not (message := str(websocket.recv(timeout=TIMEOUT))).isdigit():
        pass
    return int(message)


def pid_of(websocket: ClientConnection) -> int:
    """Ask a socket for its process."""
    websocket.send("who")
    return answer(websocket)


class Sockets:
    """Open sockets of all kinds of views.

    Args:
        server: where to open them.
        stack: closes them.
        fill: whether to open all of them at once.
    """

    def __init__(self, server: Server, stack: ExitStack, *, fill: bool = True) -> None:
        self._server = server
        self._stack = stack
        self._kinds: dict[ClientConnection, str] = {}
        self._pids: dict[ClientConnection, int] = {}
        for kind, (_, count) in VIEWS.items():
            for _ in range(count if fill else 0):
                self.open(kind)

    def open(self, kind: str) -> None:
        """Open a socket, and note its process."""
        path, _ = VIEWS[kind]
        websocket = self._stack.enter_context(self._server.connect(path, max_queue=None))
        self._kinds[websocket] = kind
        self._pids[websocket] = pid_of(websocket)
        if kind == "event":
            answer(websocket)  # the first one was from connect()

    def check(self, expected: Expected, leaving: int | None = None) -> None:
        """Assert that the sockets of a process, or all, have ended or moved as the table says."""
        for kind, cell in expected.items():
            sockets = [
                websocket
                for websocket, other in self._kinds.items()
                if other == kind and leaving in (None, self._pids[websocket])
            ]
            if cell == "open":
                assert all(pid_of(each) != self._pids[each] for each in sockets)
            else:
                self._check_ends(kind, sockets, cell)

    def check_others(self, leaving: int) -> None:
        """Assert that the sockets of other processes stay where they are."""
        for websocket, pid in self._pids.items():
            assert pid == leaving or pid_of(websocket) == pid

    def _check_ends(self, kind: str, sockets: list[ClientConnection], cell: str) -> None:
        ends = [ended(websocket) for websocket in sockets]
        code = (1006, "") if cell == "dropped" else (1012, "service restart")
        assert {end[:2] for end in ends} <= {code}
        if "spread" in cell and kind != "loop":
            # The first was closed, and its view had run, before the second was closed.
            assert sum(count for _, _, count in ends) >= len(sockets) - 1


def boots(server: Server) -> int:
    """Return how many workers have started so far."""
    return server.log.count("Booting worker")


def booted(server: Server, times: int) -> None:
    """Wait until this many workers have started in all."""
    server.wait_for_log(rf"(?s)(?:Booting worker.*){{{times}}}")


def has_ended(pid: int) -> bool:
    """Return whether there is no such process; a main process may not list all children it has."""
    return not Path(f"/proc/{pid}").exists()


def is_served_by(server: Server, arbiter: int) -> bool:
    """Open a socket; return whether a worker of this main process has it."""
    with server.connect("/process/") as websocket:
        status = Path(f"/proc/{pid_of(websocket)}/status").read_text()
    return f"PPid:\t{arbiter}\n" in status


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
    def test_stop(
        self, start_server: StartServer, event: str, worker: str, expected: Expected
    ) -> None:
        """Sockets are closed, and the server stops long before graceful_timeout is over."""
        options = [] if worker == "runserver" else ["--graceful-timeout=300"]
        server = start_server(worker, *options)
        number = signal.SIGTERM
        if event != "SIGTERM":
            number = signal.SIGQUIT if worker == "gevent" else signal.SIGINT
        with ExitStack() as stack:
            sockets = Sockets(server, stack)
            server.signal(number)
            sockets.check(expected)
            is_dropped = expected["other"] == "dropped"
            assert server.wait() == (-signal.SIGTERM if is_dropped else 0)
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
        expected: Expected,
    ) -> None:
        """Sockets are closed or move; another worker serves clients that reconnect."""
        if worker == "runserver":
            return  # see test_runserver.py
        server = lasting(worker)
        wait_until(lambda: len(server.workers) == 1, "only one worker")
        with ExitStack() as stack:
            sockets = Sockets(server, stack)
            (old,) = server.workers
            number = boots(server) + 1
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
                for _ in range(MOST - COUNT):
                    server.get("/")
            booted(server, number)
            wait_until(lambda: has_ended(old), "the old worker has ended")
            sockets.check(expected)
        with server.connect("/echo/") as websocket:
            websocket.send("again")
            assert websocket.recv(timeout=TIMEOUT) == "again"
        if (worker, event) == ("own", "``max_requests``, one worker"):
            server.wait_for_log("max_requests is reached with 11 sockets open")

    @cells("``max_requests``, several")
    def test_max_requests(
        self, start_server: StartServer, event: str, worker: str, expected: Expected
    ) -> None:
        """One worker restarts, the others continue."""
        server = start_server(worker, "-w", "2", "--max-requests", "20")
        leaving = re.compile(r"\[(\d+)\] \[INFO\] Autorestarting")
        with ExitStack() as stack:
            sockets = Sockets(server, stack, fill=False)
            kinds = cycle(VIEWS)
            while not (match := leaving.search(server.log)):
                sockets.open(next(kinds))
            leaver = int(match[1])
            wait_until(lambda: has_ended(leaver), "it has ended")
            sockets.check(expected, leaver)
            sockets.check_others(leaver)

    @cells("SIGUSR2, then SIGTERM", "SIGUSR2, then SIGQUIT")
    def test_new_binary(
        self, environment: dict[str, str], event: str, worker: str, expected: Expected
    ) -> None:
        """A second server takes over from the first."""
        # gunicorn starts again by its path; started as a module it would not find itself.
        program = str(Path(sys.executable).with_name("gunicorn"))
        options = ("-k", WORKERS[worker], "-b", "127.0.0.1:0", *GUNICORN_OPTIONS)
        # gunicorn kills workers that need longer, which a busy machine may make them.
        options = (*options, "--graceful-timeout=120")
        server = Server(program, *options, "tests.project.wsgi", env=environment)
        successor = 0
        try:
            with ExitStack() as stack:
                sockets = Sockets(server, stack)
                server.signal(signal.SIGUSR2)
                match = server.wait_for_log(r"(?s)Listening at.*Listening at: \S+ \((\d+)\)")
                successor = int(match[1])
                wait_until(lambda: is_served_by(server, successor), "the second is ready")
                server.signal(signal.SIGTERM if "TERM" in event else signal.SIGQUIT)
                assert server.process.wait(TIMEOUT) == 0
                sockets.check(expected)
            assert is_served_by(server, successor)
        finally:
            if successor:
                os.kill(successor, signal.SIGTERM)
            server.stop()

    @cells("SIGTERM, a page under way")
    def test_page(
        self, start_server: StartServer, event: str, worker: str, expected: Expected
    ) -> None:
        """The page is finished; whether sockets wait for that depends on the worker."""
        is_meanwhile = expected["other"] == "1012 meanwhile"
        server = start_server(worker)
        with server.wire() as page, server.connect("/echo/") as websocket:
            # pywsgi would wait for a client that keeps its connection.
            # Either the page sees the sockets close, however long that takes, or it times out.
            seconds = 60 if is_meanwhile else 1
            page.send(b"GET /last-page/%d/ HTTP/1.0\r\nHost: localhost\r\n\r\n" % seconds)
            server.signal(signal.SIGTERM)
            assert ended(websocket) == (1012, "service restart", 0)
            head = page.head()
            assert head.startswith(("HTTP/1.1 200 ", "HTTP/1.0 200 "))
            assert page.read(1) == (b"0" if is_meanwhile else b"1")

    @cells("handshake after SIGTERM")
    def test_handshake(
        self, start_server: StartServer, event: str, worker: str, expected: Expected
    ) -> None:
        """On a persistent connection it is refused, or its socket is closed soon."""
        server = start_server(worker, "--graceful-timeout", "60", "--keep-alive", "60")
        with server.wire() as kept, server.wire() as other, server.connect("/echo/") as websocket:
            for wire in (kept, other):
                wire.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                size = re.search(r"Content-Length: (\d+)", wire.head())
                assert size is not None
                wire.read(int(size[1]))
            if expected["other"] == "503":
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
