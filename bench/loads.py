"""The clients of ``instructions.py``: they do exactly as much as they are told.

``wsload.c`` puts load on a server for some time; here the number of messages counts.
"""

from __future__ import annotations

import json
import socket
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Client", "Echo", "Fanout", "Handshakes", "Load", "Pages", "Run"]

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

#: The bit of a compressed message.
RSV1 = 0x40

#: The end of a compressed message, which permessage-deflate leaves out.
TAIL = b"\x00\x00\xff\xff"

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"
V1 = "Sec-WebSocket-Protocol: wsmux.v1"

#: Puts a load on the server that many times.
Run = Callable[[int], None]


class Load(Protocol):
    """What a server is made to do.

    Attributes:
        units: what one time of it counts for, such as the messages on all connections.
        warm: the load first runs so many times, for what Python and Django do only once.
        few, many: the load runs so many times; the difference is what is measured.
    """

    @property
    def units(self) -> int:
        """What one time of it counts for, such as the messages on all connections."""

    @property
    def warm(self) -> int:
        """How many times it runs before anything is counted."""

    @property
    def few(self) -> int:
        """How many times it runs for the first count."""

    @property
    def many(self) -> int:
        """How many times it runs for the second count."""

    def connected(self, client: Client) -> AbstractContextManager[Run]:
        """Connect; return what runs the load on the server."""


@dataclass(frozen=True)
class Client:
    """Where and how to connect.

    Attributes:
        address: HOST:PORT of the server.
        headers: headers of each request, such as the session.
        patience: seconds to wait for an answer.
        rest: waits until the server is idle.
    """

    address: str
    headers: Sequence[str]
    patience: float
    rest: Callable[[], None]

    def connect(self) -> socket.socket:
        """Return a connection."""
        host, _, port = self.address.partition(":")
        return socket.create_connection((host, int(port)), self.patience)

    def request(self, path: str, *more: str) -> bytes:
        """Return a request without a body."""
        lines = [f"GET {path} HTTP/1.1", f"Host: {self.address}", *self.headers, *more, "", ""]
        return "\r\n".join(lines).encode()

    def open(self, path: str, *more: str) -> WebSocket:
        """Return an open WebSocket."""
        return WebSocket(self, path, *more)


class WebSocket:
    """A client's WebSocket.

    Args:
        client: where to connect.
        path: path of the view.
        more: further headers.
    """

    def __init__(self, client: Client, path: str, *more: str) -> None:
        self._sock = client.connect()
        self._got = bytearray()
        upgrade = (
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            f"Origin: http://{client.address}",
        )
        self._sock.sendall(client.request(path, *upgrade, *more))
        while b"\r\n\r\n" not in self._got:
            self._read()
        head, _, rest = bytes(self._got).partition(b"\r\n\r\n")
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise ValueError(f"{path}: {head[:200]!r}")
        for line in more:
            # A server that declines what is to be measured would make the figure a lie.
            if line.partition(":")[0].lower().encode() not in head.lower():
                raise ValueError(f"{path}: declines {line!r}")
        self._got = bytearray(rest)

    def send(self, data: bytes) -> None:
        """Send what ``frame()`` has returned."""
        self._sock.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """Return the first byte and the payload of the next message; answer pings."""
        first, payload = self._frame()
        while first & 15 == PING:
            self.send(frame(payload, PONG))
            first, payload = self._frame()
        if first & 15 == CLOSE:
            raise ValueError(f"the server has closed a socket: {payload!r}")
        return first, payload

    def _frame(self) -> tuple[int, bytes]:
        """Return the first byte and the payload of the next frame."""
        self._need(2)
        first, size, head = self._got[0], self._got[1], 2
        if size >= 126:
            head = 4 if size == 126 else 10
            self._need(head)
            size = int.from_bytes(self._got[2:head], "big")
        self._need(head + size)
        payload = bytes(self._got[head : head + size])
        del self._got[: head + size]
        return first, payload

    def close(self) -> None:
        """Close, and wait until the server has closed the connection."""
        self.send(frame(b"\x03\xe8", CLOSE))
        while self._sock.recv(4096):
            pass
        self._sock.close()

    def abandon(self) -> None:
        """Close the connection."""
        self._sock.close()

    def _need(self, size: int) -> None:
        while len(self._got) < size:
            self._read()

    def _read(self) -> None:
        data = self._sock.recv(2**18)
        if not data:
            raise ValueError(f"the server has closed a connection after {bytes(self._got[:200])!r}")
        self._got += data


def frame(data: bytes, opcode: int = TEXT, bits: int = 0) -> bytes:
    """Return a client's frame: masked, as one message."""
    size = len(data)
    if size < 126:
        head = bytes([0x80 | size])
    elif size < 2**16:
        head = bytes([0xFE]) + size.to_bytes(2, "big")
    else:
        head = bytes([0xFF]) + size.to_bytes(8, "big")
    mask = b"\x11\x22\x33\x44"
    pattern = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(data, "big") ^ int.from_bytes(pattern, "big")
    return bytes([0x80 | bits | opcode]) + head + mask + masked.to_bytes(size, "big")


def deflated(data: bytes) -> bytes:
    """Return the payload of a compressed message."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


@dataclass(frozen=True)
class Echo:
    """Messages that come back, one in flight on each of several connections.

    Attributes:
        path: path of the view.
        message: what is sent.
        conns: number of connections.
        warm, few, many: see ``Load``.
        is_binary: as a binary message.
        compressed: with permessage-deflate.
        v1: with the subprotocol ``wsmux.v1``.
    """

    path: str
    message: str
    conns: int = 20
    warm: int = 10
    few: int = 10
    many: int = 110
    is_binary: bool = False
    compressed: bool = False
    v1: bool = False

    @property
    def units(self) -> int:
        """See ``Load``."""
        return self.conns

    @contextmanager
    def connected(self, client: Client) -> Iterator[Run]:
        """See ``Load``."""
        more = [DEFLATE] * self.compressed + [V1] * self.v1
        data = self.message.encode()
        opcode = BINARY if self.is_binary else TEXT
        sent = frame(deflated(data), opcode, RSV1) if self.compressed else frame(data, opcode)
        with opened(client, self.conns, self.path, *more) as sockets:
            for each in sockets:
                if self.v1:
                    each.receive()  # the welcome
                each.send(sent)
                self._verify(*each.receive())

            def run(times: int) -> None:
                for _ in range(times):
                    for each in sockets:
                        each.send(sent)
                    for each in sockets:
                        each.receive()

            yield run

    def _verify(self, first: int, payload: bytes) -> None:
        """Raise unless a frame is what was sent."""
        if self.compressed:
            if not first & RSV1:
                raise ValueError("the answer is not compressed")
            payload = zlib.decompressobj(-15).decompress(payload + TAIL)
        text = payload.decode()
        if (json.loads(text)["text"] if self.v1 else text) != self.message:
            raise ValueError(f"the answer is not what was sent: {text[:200]!r}")


@dataclass(frozen=True)
class Fanout:
    """Messages of one socket to the members of a group.

    Attributes:
        path: path of the members' view.
        speaker: path of the view that sends.
        members: number of members.
        warm, few, many: see ``Load``.
        v1: the members use the subprotocol ``wsmux.v1``.
    """

    path: str
    speaker: str
    members: int = 200
    warm: int = 3
    few: int = 5
    many: int = 25
    v1: bool = False

    @property
    def units(self) -> int:
        """See ``Load``."""
        return self.members

    @contextmanager
    def connected(self, client: Client) -> Iterator[Run]:
        """See ``Load``."""
        sent = frame(b"x" * 128)
        more = [V1] * self.v1
        with (
            opened(client, self.members, self.path, *more) as sockets,
            opened(client, 1, self.speaker) as (speaker,),
        ):
            if self.v1:
                for each in sockets:
                    each.receive()  # the welcome

            def run(times: int) -> None:
                for _ in range(times):
                    speaker.send(sent)
                    for each in sockets:
                        each.receive()

            client.rest()  # all members have joined
            yield run


@dataclass(frozen=True)
class _OneByOne:
    """Connections, one after the other.

    Attributes:
        path: path of the view.
        warm, few, many: see ``Load``.
    """

    path: str
    warm: int = 20
    few: int = 5
    many: int = 25
    units: int = 1

    @contextmanager
    def connected(self, client: Client) -> Iterator[Run]:
        """See ``Load``."""

        def run(times: int) -> None:
            for _ in range(times):
                self._use(client)

        yield run

    def _use(self, client: Client) -> None:
        raise NotImplementedError


class Handshakes(_OneByOne):
    """Sockets that open and close, one after the other."""

    def _use(self, client: Client) -> None:
        client.open(self.path).close()


class Pages(_OneByOne):
    """Plain pages, each on its own connection."""

    def _use(self, client: Client) -> None:
        get(client, self.path)


def get(client: Client, path: str) -> None:
    """Request a page, and check that it is the one of the signed-in user."""
    got = b""
    with client.connect() as sock:
        sock.sendall(client.request(path, "Connection: close"))
        while data := sock.recv(2**16):
            got += data
    if b" 200 " not in got.partition(b"\r\n")[0] or b"hello ann" not in got:
        raise ValueError(f"{path}: {got[:200]!r}")


@contextmanager
def opened(client: Client, count: int, path: str, *more: str) -> Iterator[list[WebSocket]]:
    """Hold open sockets for the duration of the block."""
    with ExitStack() as stack:
        sockets = []
        for _ in range(count):
            sockets.append(client.open(path, *more))
            stack.callback(sockets[-1].abandon)
        yield sockets
