"""Thousands of clients of ``deploy.py`` in one process, cheap enough to leave the CPU to gunicorn.

asyncio's own transports would cost several times as much for each message.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import random
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from harness import HEADERS, BenchError

__all__ = ["Crowd", "Pages"]

#: Close codes after which a client reconnects, as the project's client does.
COMES_BACK = {1006, 1012, 1013}
#: Maximum of the random pause in seconds before the first attempt to reconnect, and before any.
PAUSE, LONGEST_PAUSE = 1.0, 32.0
#: Clients that connect at the same time.
AT_ONCE = 50
#: Seconds between an answer and the next message of a client that talks.
TALK_PAUSE = 0.1
#: Seconds to wait for events that must happen.
PATIENCE = 180.0

BROWSER = (
    *HEADERS,
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    "Cache-Control: no-cache",
    "Pragma: no-cache",
    "Accept-Encoding: gzip, deflate, br, zstd",
)


class Crowd:
    """All clients, and what they have seen.

    Args:
        address: HOST:PORT of the server.
        path: of the view.
        keys: the session key of each client; empty for a client that is not signed in.
        talkers: how many of them talk.

    Attributes:
        clients: the clients, open or not.
        open: clients that hold an open socket.
        codes: how often sockets closed with each code.
        failed_handshakes: attempts that did not get a 101.
        sockets: all that were ever open.
        echoes: answers that were received.
        wrong_echoes: answers that were not the expected ones, in words.
        problem: what a client could not understand.
    """

    def __init__(self, address: str, path: str, keys: Sequence[str], talkers: int = 0) -> None:
        host, _, port = address.partition(":")
        self.address = host, int(port)
        self.head = (
            f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nOrigin: http://{address}\r\nSec-WebSocket-Version: 13\r\n"
            + "".join(f"{header}\r\n" for header in BROWSER)
        )
        self.open: set[Client] = set()
        self.codes: Counter[int] = Counter()
        self.failed_handshakes = self.echoes = 0
        self.wrong_echoes: list[str] = []
        self.problem: BenchError | None = None
        self.sockets: list[Socket] = []
        self.is_over = False
        self.clients: list[Client] = []
        self._talkers = talkers
        self._epoll = select.epoll()
        self._by_fd: dict[int, Socket] = {}
        self._due: deque[Client] = deque()
        self._connecting = 0
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._handle)
        self.add(keys)

    def add(self, keys: Sequence[str]) -> None:
        """Connect more clients."""
        for key in keys:
            client = Client(self, key, talks=len(self.clients) < self._talkers)
            self.clients.append(client)
            self.queue(client)

    def queue(self, client: Client) -> None:
        """Connect a client as soon as few others are connecting."""
        self._due.append(client)
        self._connect_some()

    def leave(self) -> None:
        """Disconnect all clients for good."""
        self.is_over = True
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        for each in self._by_fd.values():
            each.sock.close()
        self._epoll.close()

    async def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait until the condition is true."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.problem is not None:
                raise self.problem
            if time.monotonic() > deadline:
                raise BenchError(f"timed out: {what}; {len(self.open)} are open")
            await asyncio.sleep(0.02)

    async def settle(self) -> None:
        """Wait until all clients hold a socket."""
        await self.wait(self.are_all_open, "not all clients are connected")

    def are_all_open(self) -> bool:
        """Return whether all clients hold a socket."""
        return len(self.open) == len(self.clients)

    # Talking

    def start_talking(self) -> None:
        """Let the clients that talk begin."""
        for client in self.clients[: self._talkers]:
            client.say_in(random.random() * TALK_PAUSE)

    def take_waits(self) -> list[float]:
        """Return each talker's longest wait for an answer since the last call, in seconds."""
        return [client.take_wait() for client in self.clients[: self._talkers]]

    # Sockets

    def _connect_some(self) -> None:
        while self._due and self._connecting < AT_ONCE:
            self._connecting += 1
            each = Socket(self._due.popleft())
            self._by_fd[each.fd] = each
            self._epoll.register(each.fd, select.EPOLLOUT)

    def connected(self) -> None:
        """Let the next client connect: one has succeeded or failed."""
        self._connecting -= 1
        asyncio.get_running_loop().call_soon(self._connect_some)

    def read(self, each: Socket) -> None:
        """Read from a socket from now on."""
        self._epoll.modify(each.fd, select.EPOLLIN)

    def forget(self, each: Socket) -> None:
        """Close a socket."""
        del self._by_fd[each.fd]
        each.sock.close()

    def _handle(self) -> None:
        # asyncio calls this again as long as more sockets are ready.
        for fd, _ in self._epoll.poll(0, 256):
            try:
                self._by_fd[fd].ready()
            except BenchError as error:
                self.problem = error


class Client:
    """A user with a page open, which holds one socket after the other.

    Args:
        crowd: it belongs to.
        key: of its session, or empty.
        talks: whether it sends messages, and expects an answer to each.
    """

    def __init__(self, crowd: Crowd, key: str, *, talks: bool) -> None:
        self.crowd = crowd
        self.key = key
        self._talks = talks
        self._attempts = 0
        self._socket: Socket | None = None
        # Messages sent on this socket; when the last one was sent, if it is not answered.
        self._said = 0
        self._said_at: float | None = None
        self._longest = 0.0

    def opened(self, opened: Socket) -> None:
        """Note that the handshake succeeded."""
        self._attempts = 0
        self._socket = opened
        self._said = 0
        self._said_at = None
        self.crowd.open.add(self)
        self.crowd.sockets.append(opened)

    def failed(self) -> None:
        """Try again: the handshake was refused, or no server answered."""
        self.crowd.failed_handshakes += 1
        self._come_back()

    def closed(self, code: int) -> None:
        """Note that the open socket was closed."""
        self._socket = None
        self.crowd.open.discard(self)
        self.crowd.codes[code] += 1
        if code in COMES_BACK:
            self._come_back()

    def _come_back(self) -> None:
        longest = min(PAUSE * 2**self._attempts, LONGEST_PAUSE)
        self._attempts += 1
        loop = asyncio.get_running_loop()
        loop.call_later(random.random() * longest, self._queue)

    def _queue(self) -> None:
        if not self.crowd.is_over:
            self.crowd.queue(self)

    def say_in(self, seconds: float) -> None:
        """Send the next message after a pause."""
        asyncio.get_running_loop().call_later(seconds, self._say)

    def _say(self) -> None:
        if self.crowd.is_over:
            return
        if self._socket is None:
            self.say_in(TALK_PAUSE)
            return
        self._said += 1
        self._said_at = time.monotonic()
        self._socket.send(1, b"%d" % self._said)

    def answered(self, answer: bytes) -> None:
        """Check an answer; it has the count that the view remembers."""
        expected = b"%d %d" % (self._said, self._said)
        if answer != expected or self._said_at is None:
            self.crowd.wrong_echoes.append(f"{answer!r} instead of {expected!r}")
            return
        self.crowd.echoes += 1
        self._longest = max(self._longest, time.monotonic() - self._said_at)
        self._said_at = None
        self.say_in(TALK_PAUSE)

    def take_wait(self) -> float:
        """Return the longest wait since the last call, that of an open question included."""
        longest, self._longest = self._longest, 0.0
        if self._said_at is not None:
            longest = max(longest, time.monotonic() - self._said_at)
        return longest


class Heard:
    """The numbers of a group that came on one socket, from the first on.

    Messages of several processes may come in another order than they were sent.

    Attributes:
        last: the highest.
        missing: numbers below it that have not come.
        count: how many came.
        doubled: how many came again.
    """

    __slots__ = ("_first", "count", "doubled", "last", "missing")

    def __init__(self) -> None:
        self._first = self.last = self.count = self.doubled = 0
        self.missing: set[int] = set()

    def note(self, number: int) -> None:
        """Note a number."""
        self.count += 1
        if not self.last:
            self._first = self.last = number
        elif number > self.last:
            self.missing.update(range(self.last + 1, number))
            self.last = number
        elif number in self.missing:
            self.missing.discard(number)
        elif number >= self._first:
            self.doubled += 1


class Socket:
    """One WebSocket, which understands only short unfragmented frames.

    Attributes:
        sock: the socket.
        fd: its descriptor.
        heard: what came from each group: ``p`` without history, ``k`` with one.
    """

    __slots__ = ("_buffer", "_client", "_code", "_state", "fd", "heard", "sock")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._buffer = b""
        # 0: connecting, 1: waits for the response, 2: open, 3: ended.
        self._state = 0
        # RFC 6455, section 7.1.5: 1006 unless a close frame arrives.
        self._code = 1006
        self.heard = {112: Heard(), 107: Heard()}
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd = self.sock.fileno()
        self.sock.connect_ex(client.crowd.address)

    def ready(self) -> None:
        """Continue: there is something to read, or the connection is made."""
        try:
            if self._state == 0:
                self._request()
                return
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self._buffer += data
        if self._state == 1 and not self._is_accepted():
            return
        while (frame := self._next_frame()) is not None:
            self._take(*frame)

    def _request(self) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        client = self._client
        head = f"{client.crowd.head}Sec-WebSocket-Key: {key}\r\n"
        if client.key:
            head += f"Cookie: sessionid={client.key}; csrftoken={'x' * 32}\r\n"
        self.sock.sendall(f"{head}\r\n".encode())
        self._state = 1
        client.crowd.read(self)

    def _is_accepted(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(b"HTTP/1.1 101 "):
            self._end()
            return False
        self._state = 2
        self._buffer = rest
        self._client.crowd.connected()
        self._client.opened(self)
        return True

    def _next_frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, size = buffer[0], buffer[1]
        if first & 0xF0 != 0x80 or size > 125:
            raise BenchError("the server has sent a long, compressed or fragmented message")
        if len(buffer) < 2 + size:
            return None
        self._buffer = buffer[2 + size :]
        return first & 15, buffer[2 : 2 + size]

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == 1:
            group = self.heard.get(payload[0])
            if group is None:
                self._client.answered(payload[1:])
            else:
                group.note(int(payload[1:]))
        elif opcode == 9:
            self.send(10, payload)
        elif opcode == 8:
            self._code = int.from_bytes(payload[:2], "big") if payload else 1005
            self.send(8, payload[:2])

    @property
    def is_open(self) -> bool:
        """Whether the socket has opened and not ended."""
        return self._state == 2

    def send(self, opcode: int, payload: bytes) -> None:
        """Send a short frame; its mask of zeros leaves the payload as it is."""
        frame = bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload
        with contextlib.suppress(OSError):  # the end is read soon
            self.sock.sendall(frame)

    def _end(self) -> None:
        crowd = self._client.crowd
        crowd.forget(self)
        if self._state == 2:
            self._state = 3
            self._client.closed(self._code)
        else:
            crowd.connected()
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
                # A failed request is repeated: a message that was never sent is not lost.
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
