"""What clients notice of a deploy: thousands of sockets and pages while gunicorn reloads.

Clients hold a socket each and receive a steady flow of group messages; pages are requested all the
time, some of which send the messages. gunicorn gets SIGHUP several times. Exits with 1 if a socket
was not closed with 1012, a page failed, a message was missed on an open socket, or clients took too
long to reconnect: ``python bench/deploy.py``; see README.rst.

The clients act like browsers with htmx: they reconnect when they were closed with 1006, 1012 or
1013, after a random pause whose maximum doubles with each failed handshake.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from harness import (
    BenchError,
    Contestant,
    Server,
    allow_many_files,
    gunicorn,
    leave_on_sigterm,
    pick_cores,
    prepare,
    running,
)

#: Close codes after which a client reconnects.
COMES_BACK = {1006, 1012, 1013}
#: Maximum of the random pause in seconds: before the first attempt to reconnect, and of all.
PAUSE, LONGEST_PAUSE = 1.0, 32.0
#: Seconds to wait for events that must happen.
PATIENCE = 120.0


class Crowd:
    """All clients, and what they have seen.

    Attributes:
        open: clients that hold an open socket.
        codes: how often sockets closed with each code.
        failed_handshakes: attempts that did not get a 101.
        missed: messages that an open socket did not get, although it got later ones.
        between: messages that were sent while a client had no socket.
        twice: messages that a client got on two sockets.
        heard: total number of messages received.
    """

    def __init__(self, address: str, count: int) -> None:
        self.host, _, port = address.partition(":")
        self.port = int(port)
        self.open: set[Client] = set()
        self.codes: Counter[int] = Counter()
        self.failed_handshakes = self.missed = self.between = self.twice = self.heard = 0
        self.is_over = False
        self.clients = [Client(self) for _ in range(count)]

    def come(self) -> None:
        """Connect all clients, a thousand a second."""
        for client in self.clients:
            client.connect_in(random.random() * len(self.clients) / 1000)

    def leave(self) -> None:
        """Disconnect all clients for good."""
        self.is_over = True
        for client in self.open:
            client.transport.abort()

    async def wait(self, condition: object, what: str) -> None:
        """Wait until the condition is true."""
        assert callable(condition)
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise BenchError(f"timed out: {what}; {len(self.open)} are open")
            await asyncio.sleep(0.02)

    def are_all_open(self) -> bool:
        """Return whether all clients hold a socket."""
        return len(self.open) == len(self.clients)


class Client:
    """A user with a page open, which holds one socket after the other.

    Attributes:
        transport: transport of the open socket.
        closes: how often a socket of this client was closed.
        last: number of the last message received.
    """

    transport: asyncio.Transport

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.closes = 0
        self.last: int | None = None
        self._attempts = 0

    def connect_in(self, seconds: float) -> None:
        """Connect after a pause."""
        asyncio.get_running_loop().call_later(seconds, self._connect)

    def _connect(self) -> None:
        task = asyncio.get_running_loop().create_task(self._try())
        task.add_done_callback(lambda task: task.exception())

    async def _try(self) -> None:
        loop, crowd = asyncio.get_running_loop(), self.crowd
        try:
            await loop.create_connection(lambda: Socket(self), crowd.host, crowd.port)
        except OSError:
            self.failed()

    def opened(self, transport: asyncio.Transport) -> None:
        """Note that the handshake succeeded."""
        self._attempts = 0
        self.transport = transport
        self.crowd.open.add(self)

    def failed(self) -> None:
        """Try again: the handshake was refused, or no server answered."""
        self.crowd.failed_handshakes += 1
        self._come_back()

    def closed(self, code: int) -> None:
        """Note that an open socket was closed."""
        self.closes += 1
        self.crowd.open.discard(self)
        self.crowd.codes[code] += 1
        if code in COMES_BACK:
            self._come_back()

    def _come_back(self) -> None:
        if not self.crowd.is_over:
            longest = min(PAUSE * 2**self._attempts, LONGEST_PAUSE)
            self._attempts += 1
            self.connect_in(random.random() * longest)

    def try_bypass_queue(self, number: int, *, is_first: bool) -> None:
        """Count a message; ``is_first`` if it is the first one on this socket."""
        crowd = self.crowd
        crowd.heard += 1
        if self.last is not None:
            gap = number - self.last - 1
            if gap < 0:
                crowd.twice += 1
            elif is_first:
                crowd.between += gap
            else:
                crowd.missed += gap
        self.last = number


class Socket(asyncio.Protocol):
    """One WebSocket, which only understands short unfragmented frames."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._buffer = b""
        self._is_open = False
        self._has_heard = False
        # RFC 6455, section 7.1.5: 1006 unless a close frame arrives.
        self._code = 1006

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Request a WebSocket."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET /room/ HTTP/1.1\r\nHost: {self._client.crowd.host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        transport.write(head.encode())

    def data_received(self, data: bytes) -> None:
        """Parse the response, then frames."""
        self._buffer += data
        if not self._is_open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self._transport.abort()
                return
            self._is_open = True
            self._buffer = rest
            self._client.opened(self._transport)
        while (frame := self._next_frame()) is not None:
            self._take(*frame)

    def _next_frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, size = buffer[:2]
        if not first & 0x80 or size > 125:
            raise BenchError("the server has sent a long or fragmented message")
        if len(buffer) < 2 + size:
            return None
        self._buffer = buffer[2 + size :]
        return first & 15, buffer[2 : 2 + size]

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == 1:
            self._client.try_bypass_queue(int(payload), is_first=not self._has_heard)
            self._has_heard = True
        elif opcode == 9:
            self._send(10, payload)
        elif opcode == 8:
            self._code = int.from_bytes(payload[:2], "big") if payload else 1005
            self._send(8, payload[:2])

    def _send(self, opcode: int, payload: bytes) -> None:
        # A mask of zeros leaves the payload as it is.
        self._transport.write(bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload)

    def connection_lost(self, error: Exception | None) -> None:
        """Report that the TCP connection ended."""
        if self._is_open:
            self._client.closed(self._code)
        else:
            self._client.failed()


class Pages:
    """A client that requests one page after the other.

    Args:
        address: of the server.
        path: called with the number of the request.
        rate: maximum number of requests per second.
        keeps_alive: whether to keep the connection as long as the server does.

    Attributes:
        answered: requests that got 200.
        failures: what happened to the others.
        slowest: seconds of the slowest request.
    """

    def __init__(self, address: str, path: str, rate: float, *, keeps_alive: bool) -> None:
        self._host, _, self._port = address.partition(":")
        self._path = path
        self._pause = 1 / rate
        self._keeps_alive = keeps_alive
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.answered = 0
        self.failures: list[str] = []
        self.slowest = 0.0

    async def ask(self) -> None:
        """Request pages until cancelled."""
        while True:
            started = time.monotonic()
            try:
                # A failed request is repeated: a message that was never sent is not missed.
                await self._get(self._path.format(number=self.answered + 1))
                self.answered += 1
            except (OSError, EOFError, ValueError) as error:
                self.failures.append(f"{self._path}: {type(error).__name__}: {error}")
                self._hang_up()
            seconds = time.monotonic() - started
            self.slowest = max(self.slowest, seconds)
            await asyncio.sleep(max(self._pause - seconds, 0))

    async def _get(self, path: str) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, int(self._port))
        reader, writer = self._streams
        connection = "keep-alive" if self._keeps_alive else "close"
        head = f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\nConnection: {connection}\r\n\r\n"
        writer.write(head.encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        if not answer.startswith("http/1.1 200 "):
            raise ValueError(answer.partition("\r\n")[0])
        await reader.readexactly(int(answer.partition("content-length: ")[2].split()[0]))
        if "connection: close" in answer:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def reload(server: Server, crowd: Crowd) -> float:
    """Reload gunicorn; return how many seconds later all clients had reconnected."""
    expected = {client: client.closes + 1 for client in crowd.clients}
    started = time.monotonic()
    os.kill(server.pid, signal.SIGHUP)
    await crowd.wait(
        lambda: all(client.closes >= times for client, times in expected.items()),
        "not all sockets were closed",
    )
    closed = time.monotonic() - started
    await crowd.wait(crowd.are_all_open, "not all clients have reconnected")
    back = time.monotonic() - started
    print(f"all closed after {closed:.2f} s, all back after {back:.2f} s", flush=True)
    return back


async def deploy(server: Server, options: argparse.Namespace) -> list[str]:
    """Reload under load; return a list of problems."""
    address = server.address
    crowd = Crowd(address, options.clients)
    pages = [
        Pages(address, "/say/{number}/", options.rate, keeps_alive=False),
        Pages(address, "/", options.rate, keeps_alive=False),
        Pages(address, "/", options.rate, keeps_alive=True),
    ]
    crowd.come()
    await crowd.wait(crowd.are_all_open, "not all clients have connected")
    asking = [asyncio.create_task(each.ask()) for each in pages]
    back = []
    for _ in range(options.reloads):
        # Before and after each reload, all clients receive the messages.
        await everybody_hears(crowd, pages[0])
        back.append(await reload(server, crowd))
    await everybody_hears(crowd, pages[0])
    for task in asking:
        task.cancel()
    wrong = report(crowd, pages, back, options)
    crowd.leave()
    return wrong


async def everybody_hears(crowd: Crowd, speaker: Pages) -> None:
    """Wait until all clients have received a message that is still to be sent."""
    number = speaker.answered + 2
    await crowd.wait(
        lambda: all((client.last or 0) >= number for client in crowd.clients),
        f"not all clients have received message {number}",
    )


def report(
    crowd: Crowd, pages: list[Pages], back: list[float], options: argparse.Namespace
) -> list[str]:
    """Print the results; return a list of problems."""
    failures = [failure for each in pages for failure in each.failures]
    print(
        f"{options.clients} clients, {options.reloads} reloads, {options.workers} workers: "
        f"closed with {dict(crowd.codes)}, {crowd.failed_handshakes} handshakes failed\n"
        f"{sum(each.answered for each in pages)} pages, {len(failures)} failed, the slowest took "
        f"{max(each.slowest for each in pages):.2f} s\n"
        f"{crowd.heard} messages received, {crowd.missed} missed on open sockets, {crowd.between} "
        f"sent while a client had no socket, {crowd.twice} received twice"
    )
    limit = options.drain + options.within
    wrong = [f"a page failed: {failure}" for failure in failures[:10]]
    if set(crowd.codes) != {1012}:
        wrong.append(f"sockets closed with other codes than 1012: {dict(crowd.codes)}")
    if crowd.missed:
        wrong.append(f"{crowd.missed} messages were missed on open sockets")
    wrong += [f"reconnected after {each:.2f} s, not {limit:g} s" for each in back if each > limit]
    return wrong


def main() -> None:
    """Deploy and check."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--reloads", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rate", type=float, default=10.0, help="pages a second, of each kind")
    parser.add_argument("--drain", type=float, default=5.0, help="WEBSOCKET_DRAIN_SECONDS")
    parser.add_argument(
        "--within", type=float, default=2.0, help="seconds after the drain until all are back"
    )
    options = parser.parse_args()
    leave_on_sigterm()
    allow_many_files()
    server_core, core = pick_cores()
    worker = "django_wsmux.worker.WebSocketWorker"
    contestant = Contestant(
        "deploy",
        gunicorn(worker, "wsmux_site", "-w", str(options.workers)),
        {
            "BENCH_REDIS": f"local://?namespace=deploy{os.getpid()}",
            "BENCH_DRAIN_SECONDS": str(options.drain),
        },
    )
    try:
        with tempfile.TemporaryDirectory(prefix="django-wsmux-bench-") as directory:
            scratch = Path(directory)
            prepare(scratch)
            # Several workers get all cores.
            with running(
                contestant, scratch, server_core if options.workers == 1 else None
            ) as server:
                if core is not None and options.workers == 1:
                    os.sched_setaffinity(0, {core})
                wrong = asyncio.run(deploy(server, options))
    except BenchError as error:
        sys.exit(f"bench/deploy.py: {error}")
    if wrong:
        sys.exit("\n".join(f"bench/deploy.py: {each}" for each in wrong))
    print("nothing was lost")


if __name__ == "__main__":
    main()
