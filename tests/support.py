"""Real servers for the tests: started in a subprocess, and connected to over TCP."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import random
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from gunicorn.config import Config
from websockets.sync.client import ClientConnection, connect

__all__ = [
    "GUNICORN_OPTIONS",
    "KEY",
    "LISTENING",
    "LOCAL",
    "PATH",
    "ROOT",
    "SERVERS",
    "TIMEOUT",
    "TIMES",
    "WORKERS",
    "Server",
    "Site",
    "Wire",
    "frame",
    "handshake",
    "tls_context",
    "unused_port",
    "wait_for_port",
]

ROOT = Path(__file__).resolve().parent.parent

#: The search path of programs; Debian keeps servers out of the PATH of ordinary users.
PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"

#: Seconds after which a test fails if an expected event has not happened.
TIMEOUT = 60.0

#: Some tests repeat what they do this many times more often, or with as many more examples.
TIMES = int(os.environ.get("TEST_TIMES", "1"))

#: The three gunicorn workers that serve the same application object.
WORKERS = {
    "own": "django_wsmux.worker.WebSocketWorker",
    "stock": "geventwebsocket.gunicorn.workers.GeventWebSocketWorker",
    "gevent": "gevent",
}

#: The arbiter kills a worker that is silent for longer; one may be that boots on a busy machine.
#: Without a control socket, which servers of concurrent tests would share; gunicorn before 25.1 has
#: neither the socket nor the option.
GUNICORN_OPTIONS = (
    "--timeout=120",
    *(("--no-control-socket",) if "control_socket_disable" in Config().settings else ()),
)

#: For ``connect()``: the servers are on this machine, and may be slow. websockets before 15
#: supports neither proxies nor ``ping_timeout``.
LOCAL: dict[str, Any] = {
    name: value
    for name, value in {
        "proxy": None,
        "open_timeout": TIMEOUT,
        "ping_timeout": 2 * TIMEOUT,
    }.items()
    if name in signature(connect).parameters
}

#: The line in which a server shows its address.
LISTENING = (
    r"(?:Listening at:|development server at) (https?)://(?:127\.0\.0\.1|\[::1\]):(\d+)[ ,/]"
)

#: Every server under which Django answers before the 101.
SERVERS = (*WORKERS, "runserver")

KEY = "dGhlIHNhbXBsZSBub25jZQ=="

HANDSHAKE_HEADERS = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def handshake(path: str, more: str = "", host: str = "localhost") -> bytes:
    """Return a handshake as bytes, with further header lines."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE_HEADERS.items())
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}{more}\r\n".encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: http.client.HTTPMessage
    text: str


def tls_context(certificate: Path) -> ssl.SSLContext:
    """Return a TLS context that trusts a certificate.

    TLS 1.3 lets a server send tickets after the handshake. The client of ``websockets`` reads in a
    separate thread, which may receive them while another thread writes. Python's ``ssl`` (until
    3.13) does not separate the two, and sometimes the first message is lost.
    """
    context = ssl.create_default_context(cafile=str(certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def unused_port() -> int:
    """Return a port that is free now, and that has not been returned recently.

    It is below the ports that the system gives to outgoing connections, so that a killed server
    finds its port free when it is started again. Concurrent tests get different ports.
    """
    while True:
        port = next(_ports)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def _own_ports() -> Iterator[int]:
    """Return an endless iterator, in random order, over the ports of this pytest process."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    # Runs beside the one of all tests have ports of their own, and at most four processes.
    own = os.environ.get("TEST_PORTS")
    first = int(own) + number % 4 * 1000 if own else 20_000 + number % 8 * 1000
    ports = list(range(first, first + 1000))
    random.shuffle(ports)
    return itertools.cycle(ports)


_ports = _own_ports()


def wait_for_port(port: int) -> None:
    """Wait until a port accepts connections, for servers that do not announce it."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"no server listens on port {port}"
            time.sleep(0.02)
        else:
            return


def frame(first: int, payload: bytes, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """Return a client's frame, masked."""
    length = len(payload)
    if length < 126:
        head = bytes((first, 0x80 | length))
    elif length < 65536:
        head = bytes((first, 0x80 | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + length.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


class Wire:
    """A TCP connection to a server, with methods to read what a test expects.

    Args:
        port: the port at 127.0.0.1.
        receive_buffer: the size of the kernel's buffer; small for a slow peer, as Linux otherwise
            grows it to several MiB.
        context: for TLS.
    """

    def __init__(
        self,
        port: int,
        receive_buffer: int | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(TIMEOUT)
        if receive_buffer is not None:
            # Before connect(), so that the peer never sees a larger window.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect(("127.0.0.1", port))
        if context is not None:
            self.sock = context.wrap_socket(self.sock, server_hostname="127.0.0.1")
        self._reader = self.sock.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._reader.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def reset(self) -> None:
        """Disconnect with a RST, whatever is in progress; the ``with`` block must end next."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def read(self, size: int) -> bytes:
        """Read this many bytes; fewer at the end of the stream."""
        return self._reader.read(size)

    def head(self) -> str:
        """Read the head of an HTTP response."""
        lines = []
        while (line := self._reader.readline()) not in (b"\r\n", b""):
            lines.append(line.decode("latin-1"))
        return "".join(lines)

    def response(self) -> Answer:
        """Read an HTTP response."""
        response = http.client.HTTPResponse(self.sock)
        response.begin()
        return Answer(response.status, response.headers, response.read().decode())

    def arrived(self, most: int = 2**24) -> bytes:
        """Return ``most`` bytes of what has arrived, without waiting."""
        self.sock.setblocking(False)
        try:
            return self.sock.recv(most)
        except BlockingIOError:
            return b""
        finally:
            self.sock.settimeout(TIMEOUT)

    def rest(self) -> bytes:
        """Read to the end of the stream."""
        return self._reader.read()

    def frame(self) -> tuple[int, bytes]:
        """Read one of the server's frames, which are all final; return opcode and payload."""
        first, length = self._reader.read(2)
        assert first & 0x80
        if length == 126:
            length = int.from_bytes(self._reader.read(2), "big")
        elif length == 127:
            length = int.from_bytes(self._reader.read(8), "big")
        return first & 0x0F, self._reader.read(length)

    def closed(self, *, hangs_up: bool = True) -> tuple[int, str]:
        """Read to the close frame and the end of the stream; return code and reason.

        Args:
            hangs_up: end the client's side of the stream after the close frame. Otherwise the
                server waits for that until WEBSOCKET_CLOSE_TIMEOUT.
        """
        opcode, payload = self.frame()
        while opcode != 8:
            opcode, payload = self.frame()
        if hangs_up:
            with contextlib.suppress(OSError):  # the server was faster
                self.sock.shutdown(socket.SHUT_WR)
        assert self._reader.read(1) == b""
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()


class Site:
    """An address that speaks HTTP and WebSocket.

    Args:
        port: the port at 127.0.0.1.
        scheme: the scheme of its pages.
        context: for TLS.
    """

    def __init__(
        self, port: int, scheme: str = "http", context: ssl.SSLContext | None = None
    ) -> None:
        self.port = port
        self.scheme = scheme
        self.context = context

    def connect(self, path: str, **options: Any) -> ClientConnection:
        """Open a WebSocket with the ``websockets`` client; use it in a ``with`` statement."""
        scheme = {"http": "ws", "https": "wss"}[self.scheme]
        options = {"max_size": None, **LOCAL, **options}
        if self.context is not None:
            options.setdefault("ssl", self.context)
        if "ssl" in options:
            # websockets 14 and 15 set the timeout while another thread reads. Python's ssl treats
            # it as expired, and the server's close frame would be lost.
            options.setdefault("close_timeout", None)
        url = f"{scheme}://127.0.0.1:{self.port}{path}"
        websocket: ClientConnection = connect(url, **options)
        return websocket

    def request(
        self, path: str, headers: dict[str, str] | None = None, body: str | None = None
    ) -> Answer:
        """Send a plain request: GET, or POST with a body."""
        connection: http.client.HTTPConnection
        if self.context is not None:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=TIMEOUT, context=self.context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            method = "GET" if body is None else "POST"
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())
        finally:
            connection.close()

    def post(
        self, path: str, fields: dict[str, str], headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a form."""
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.request(path, {**form, **(headers or {})}, urlencode(fields))

    def get(self, path: str, headers: dict[str, str] | None = None) -> str:
        """Return the body of a page."""
        return self.request(path, headers).text

    def sign_in(self, user: str, cookie: str = "") -> str:
        """Sign in on the test project's page; return the session cookie."""
        headers = {"Cookie": cookie} if cookie else {}
        lines = self.request(f"/login/?user={user}", headers).headers.get_all("Set-Cookie", [])
        (line,) = (line for line in lines if line.startswith("sessionid="))
        return line.partition(";")[0]

    def wire(self, receive_buffer: int | None = None) -> Wire:
        """Open a TCP connection; use it in a ``with`` statement."""
        return Wire(self.port, receive_buffer, self.context)

    @contextmanager
    def upgraded(
        self,
        path: str,
        more: str = "",
        receive_buffer: int | None = None,
        host: str = "localhost",
    ) -> Iterator[Wire]:
        """Open a WebSocket without a client library; send and receive frames afterwards."""
        with self.wire(receive_buffer) as wire:
            wire.send(handshake(path, more, host))
            head = wire.head()
            assert head.startswith("HTTP/1.1 101 "), head
            yield wire

    def refused(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """Send a handshake that is refused; return the HTTP response."""
        return self.request(path, headers={**HANDSHAKE_HEADERS, **(headers or {})})


class Server(Site):
    """A server under test.

    Args:
        command: what to run; it prints its address like gunicorn or Django.
        env: environment variables, in addition to those of this process.
        cwd: the directory to start it in.
    """

    def __init__(self, *command: str, env: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            # Servers of concurrent tests must not share groups.
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                "TEST_BACKEND": f"local://?namespace={uuid4().hex}",
                **(env or {}),
            },
            text=True,
        )
        self._lines: list[str] = []
        self._arrived = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            match = self.wait_for_log(LISTENING)
        except AssertionError:
            self.stop()
            raise
        super().__init__(int(match[2]), match[1])

    @classmethod
    def gunicorn(
        cls,
        worker: str,
        *options: str,
        application: str = "tests.project.wsgi",
        env: dict[str, str] | None = None,
    ) -> Server:
        """Start gunicorn with one of ``WORKERS``, or another worker class, as documented."""
        command = ("-m", "gunicorn", "-k", WORKERS.get(worker, worker), "-b", "127.0.0.1:0")
        return cls(*command, *GUNICORN_OPTIONS, *options, application, env=env)

    @classmethod
    def runserver(cls, *options: str, env: dict[str, str] | None = None) -> Server:
        """Start Django's development server, without autoreload unless options enable it."""
        options = options or ("127.0.0.1:0", "--noreload")
        # Otherwise glibc keeps memory for each thread that existed, which would hide leaks.
        env = {"MALLOC_ARENA_MAX": "1", **(env or {})}
        return cls("-m", "django", "runserver", *options, env=env)

    @property
    def has_threads(self) -> bool:
        """Return whether threads serve the sockets, not greenlets."""
        assert isinstance(self.process.args, list)
        return "runserver" in self.process.args

    # Output

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._arrived:
                self._lines.append(line)
                self._arrived.notify_all()
        with self._arrived:
            self._lines.append("<end of log>\n")
            self._arrived.notify_all()

    @property
    def log(self) -> str:
        """The output of the server so far."""
        return "".join(self._lines)

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        """Wait until the log matches."""
        deadline = time.monotonic() + TIMEOUT
        with self._arrived:
            while (match := re.search(pattern, self.log)) is None:
                ended = self._lines[-1:] == ["<end of log>\n"]
                if ended or not self._arrived.wait(deadline - time.monotonic()):
                    raise AssertionError(f"{pattern!r} is not in the log:\n{self.log}")
        return match

    # Stopping

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers, or of the server itself if it has none."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()] or [self.process.pid]

    def wait_for_replacement(self, killed: int) -> None:
        """Wait until a new worker of ours serves: while it boots it may lose a signal."""
        killing = rf"Worker \(pid:{killed}\) was sent SIGKILL"
        self.wait_for_log(rf"(?s:{killing}.*\] WebSockets: groups by)")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server's main process."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait until the server ends by itself; return its exit code."""
        code = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        return code

    def _has_ended(self, within: float) -> bool:
        """Wait this many seconds for the end; return whether the server has ended."""
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """Stop the server, gracefully first."""
        self.process.terminate()
        deadline = time.monotonic() + TIMEOUT
        while not self._has_ended(within=1.0):
            # gunicorn sends SIGTERM once. A worker that is still booting loses it, and gunicorn
            # then waits until graceful_timeout.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for pid in self.workers:
                    os.kill(pid, signal.SIGTERM)
            if time.monotonic() > deadline:
                self.process.kill()
        self._reader.join(TIMEOUT)
        assert self.process.stdout is not None
        self.process.stdout.close()
