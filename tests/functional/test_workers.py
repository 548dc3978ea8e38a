"""gunicorn's management of workers: stop, reload, several workers, few slots, TLS."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import unix_connect

from tests.gauges import wait_until
from tests.support import TIMEOUT, WORKERS, Server, frame, handshake, tls_context

StartServer = Callable[..., Server]

each_worker = pytest.mark.parametrize("worker", WORKERS)


class TestLeaving:
    """``WebSocketWorker`` closes its sockets; ``test_deploys.py`` tests more of it."""

    def test_peers_that_do_not_answer(self, start_server: StartServer) -> None:
        """Peers that do not answer do not delay the worker until graceful_timeout."""
        server = start_server("own", "--graceful-timeout", "300")
        with server.upgraded("/echo/") as wire:
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            assert wire.closed(hangs_up=False) == (1012, "service restart")

    def test_waiting_view(self, start_server: StartServer, tmp_path: Path) -> None:
        """A waiting view sees the close, and its last lines run."""
        server = start_server("own", env={"TEST_FAREWELL": str(tmp_path / "close_all_and_wait")})
        with server.connect("/close_all_and_wait/") as websocket:
            assert websocket.recv(timeout=TIMEOUT) == "ready"
            server.signal(signal.SIGTERM)
            server.wait()
        assert (tmp_path / "close_all_and_wait").read_text() == "1012 service restart"


class TestSlots:
    """An open socket takes no slot of the HTTP side."""

    @each_worker
    def test_worker_connections(self, start_server: StartServer, worker: str) -> None:
        """With worker_connections=10, 100 sockets work and pages are served."""
        server = start_server(worker, "--worker-connections", "10")
        with ExitStack() as stack:
            sockets = [stack.enter_context(server.connect("/echo/")) for _ in range(100)]
            assert json.loads(server.get("/report/none/"))["open"] == 100
            for number, websocket in enumerate(sockets):
                websocket.send(str(number))
            received = [websocket.recv(timeout=TIMEOUT) for websocket in sockets]
            assert received == [str(number) for number in range(100)]
            assert server.get("/").startswith("plain")

    @each_worker
    def test_plain_views_hold_a_slot(self, start_server: StartServer, worker: str) -> None:
        """Only a view without a decorator holds a slot, as it runs inside its request."""
        server = start_server(worker)
        with server.connect("/plain-echo/") as websocket:
            websocket.send("x")
            assert websocket.recv(timeout=TIMEOUT) == "x"
            assert json.loads(server.get("/report/none/"))["inside"] == 1


def test_turns(start_server: StartServer) -> None:
    """A connection that always has another request does not block the others."""
    server = start_server("own")
    request, most = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 100
    with server.wire() as early, server.wire() as busy, server.wire() as late:
        for wire in (early, busy, late):
            wire.send(request)
            wire.response()
        (worker,) = server.workers
        # All requests are there before the worker looks; it may start at either end.
        os.kill(worker, signal.SIGSTOP)
        stat = Path(f"/proc/{worker}/stat")
        wait_until(lambda: ") T " in stat.read_text(), "the worker has stopped")
        early.send(request)
        busy.send(request * most)
        late.send(request)
        os.kill(worker, signal.SIGCONT)
        early.response()
        late.response()
        answered = busy.arrived().count(b"HTTP/1.1 200 OK")
    assert answered < most


class TestProcesses:
    """Several workers, and code loaded before the fork."""

    @each_worker
    @pytest.mark.parametrize("options", [["-w", "4"], ["--preload"], ["-w", "4", "--preload"]])
    def test_serves(self, start_server: StartServer, worker: str, options: list[str]) -> None:
        """Sockets open in whichever worker accepts."""
        server = start_server(worker, *options)
        with ExitStack() as stack:
            sockets = [stack.enter_context(server.connect("/echo/")) for _ in range(20)]
            for websocket in sockets:
                websocket.send("hello")
                assert websocket.recv(timeout=TIMEOUT) == "hello"
            assert server.get("/").startswith("plain")

    @each_worker
    def test_descriptors_are_not_left_behind(self, start_server: StartServer, worker: str) -> None:
        """500 sockets, closed or vanished, leave the worker unharmed; it has not aborted."""
        server = start_server(worker)
        server.get("/")
        with server.connect("/echo/"):
            pass  # the first opens descriptors that all of them share
        (pid,) = server.workers
        before = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        for _ in range(125):
            with server.connect("/echo/") as websocket:
                websocket.send("x")
                websocket.recv(timeout=TIMEOUT)
            with server.upgraded("/select/") as wire:
                wire.frame()
            with server.upgraded("/echo/") as wire:
                wire.send(b"\x81\x00")
                assert wire.closed()[0] == 1002
            with server.upgraded("/spawn/") as wire:
                wire.send(frame(0x88, b"\x03\xe8"))
                wire.closed()
        for _ in range(100):
            state = json.loads(server.get("/report/none/"))
            if state["open"] == state["running_views"] == 0:
                break
        assert (state["open"], state["running_views"]) == (0, 0)
        assert server.workers == [pid]
        # The database file of a request may be open or not.
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= before + 2


class TestUnixSocket:
    """gunicorn listening on a unix socket, as it often does behind nginx."""

    @each_worker
    def test_echo(self, start_server: StartServer, worker: str, tmp_path: Path) -> None:
        """Sockets can be taken over there too."""
        path = tmp_path / "socket"
        start_server(worker, "-b", f"unix:{path}")
        with unix_connect(str(path), "ws://localhost/echo/") as websocket:
            websocket.send("x")
            assert websocket.recv(timeout=TIMEOUT) == "x"


@pytest.fixture(scope="module", params=WORKERS)
def secure(
    request: pytest.FixtureRequest, start_lasting_server: StartServer, certificate: Path
) -> Server:
    """A server with TLS, with each worker."""
    options = ("--certfile", str(certificate), "--keyfile", str(certificate))
    server = start_lasting_server(request.param, *options)
    server.context = tls_context(certificate)
    return server


class TestTLS:
    """TLS terminated by gunicorn."""

    def test_echo(self, secure: Server) -> None:
        """Bytes that are decrypted but unread do not wait for the next packet."""
        messages = ["x" * size for size in (0, 1, 1000, 16384, 100_000, 1_000_000)]
        with secure.connect("/echo/") as websocket:
            for message in messages:
                websocket.send(message)
            assert [websocket.recv(timeout=TIMEOUT) for _ in messages] == messages
        assert websocket.close_code == 1000

    def test_several_frames_in_one_record(self, secure: Server) -> None:
        """All of them are delivered at once."""
        with secure.connect("/echo/") as websocket:
            websocket.socket.sendall(b"".join(frame(0x81, b"%d" % i) for i in range(100)))
            received = [websocket.recv(timeout=TIMEOUT) for _ in range(100)]
            assert received == [str(i) for i in range(100)]

    def test_frames_in_the_record_of_the_handshake(self, secure: Server) -> None:
        """Bytes that the server's HTTP parser has not read do not wait for more."""
        messages = [b"%d" % number * 500 for number in range(10, 25)]
        with secure.wire() as wire:
            frames = b"".join(frame(0x82, message) for message in messages)
            wire.send(handshake("/echo/") + frames)
            assert wire.head().startswith("HTTP/1.1 101 ")
            assert [wire.frame()[1] for _ in messages] == messages


class TestWrongWorkers:
    """Workers that cannot serve sockets say so."""

    @pytest.mark.parametrize("worker", ["sync", "gthread"])
    def test_blocking_workers(self, start_server: StartServer, worker: str) -> None:
        """A handshake gets 501 and the command to use; pages are served."""
        server = start_server(worker)
        answer = server.refused("/echo/")
        assert answer.status == 501
        assert "gunicorn -k django_wsmux.worker.WebSocketWorker" in answer.text
        assert server.get("/").startswith("plain")

    def test_not_patched(self, start_server: StartServer) -> None:
        """A worker that does not monkey-patch does not start, and says what to do."""
        server = start_server("tests.project.unpatched.Unpatched")
        server.wait_for_log(
            r"socket, ssl, select, threading, time are not monkey-patched.*gunicorn"
        )
        assert server.wait() != 0


class TestTwoServers:
    """``get_wsgi_websocket_application()``: sockets on a separate port."""

    @each_worker
    def test_sockets_only(self, start_server: StartServer, worker: str) -> None:
        """Sockets open; a plain request gets 426 at their paths and 404 elsewhere."""
        server = start_server(worker, application="tests.project.wsgi:websocket")
        with server.connect("/echo/") as websocket:
            websocket.send("x")
            assert websocket.recv(timeout=TIMEOUT) == "x"
        answer = server.request("/echo/")
        assert (answer.status, answer.headers["Upgrade"]) == (426, "websocket")
        assert server.request("/nowhere/").status == 404
        assert server.request("/only-a-page/").status == 404
