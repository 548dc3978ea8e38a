"""The ends of the unix stream sockets between the processes of one machine."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from itertools import islice
from typing import Final

from .packets import Kind, pack
from .waiting import close

__all__ = ["MAX_PACKET", "SCARCE", "BrokenStream", "Incoming", "Link", "StaleSocket", "frame"]

_LENGTH: Final = struct.Struct("!I")

#: Bytes read at once; about what a unix socket holds by default on Linux.
_READ_SIZE: Final = 262_144

#: Frames handed to one writev(); POSIX guarantees 16, Linux and macOS take 1,024.
_BATCH: Final = 256

#: Bytes that a packet may have: a length beyond them is rubbish.
MAX_PACKET: Final = 2**28

#: What is wrong when descriptors, memory or buffers have run out, for a while.
SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


#: What is wrong when there is nothing to do for the moment.
_FULL: Final = SCARCE | {errno.EAGAIN, errno.EWOULDBLOCK}


class StaleSocket(Exception):
    """Nobody listens on a socket: its process ended without removing it."""


class BrokenStream(Exception):
    """What arrives is no sequence of packets, so nobody knows where the next one begins."""


def frame(packet: bytes) -> bytes:
    """Return a packet as it goes through a stream: its length first, in four bytes."""
    return _LENGTH.pack(len(packet)) + packet


class Link:
    """The connection on which one process sends to another; never waits.

    What the peer does not take at once is queued up to a limit, beyond it dropped and counted, and
    the peer is told how much in the place where it is missing.

    Args:
        path: the peer's socket.
        peer: the peer's id.
        sender: the own id.
        limit: bytes to queue at most. One packet is queued however large it is.

    Attributes:
        is_dead: the peer has gone.
        dropped: packets given up so far.
    """

    def __init__(self, path: str, peer: bytes, sender: bytes, limit: int) -> None:
        self.peer = peer
        self.is_dead = False
        self.dropped = 0
        self.watched_for = 0
        self._path = path
        self._sender = sender
        self._limit = limit
        self._queue: deque[bytes | memoryview] = deque()
        self._queued = 0
        self._untold = 0
        self.fd = -1
        self._connect()

    @property
    def backlog(self) -> int:
        """Bytes that the peer has not taken."""
        return self._queued

    def _connect(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            try:
                sock.connect(self._path)
            except BlockingIOError:
                return  # a stopped process with a full backlog; flush() tries again
            except (ConnectionRefusedError, FileNotFoundError) as error:
                raise StaleSocket from error
            self.fd = sock.detach()

    def send(self, data: bytes) -> bool:
        """Send a frame or queue it; False when it was given up."""
        if self._untold and self._queued <= self._limit // 2:
            self._tell_gap()
        if self._untold or (self._queue and self._queued + len(data) > self._limit):
            self._untold += 1
            self.dropped += 1
            return False
        if self._queue or self.fd < 0:
            self._append(data)
        else:
            sent = self._write((data,))
            if sent < len(data):
                self._append(memoryview(data)[sent:] if sent else data)
        return not self.is_dead

    def flush(self) -> None:
        """Send of the queue what the peer takes."""
        if self.fd < 0:
            try:
                self._connect()
            except StaleSocket:
                self.is_dead = True
            except OSError as error:
                # When a descriptor is free again it is tried again.
                self.is_dead = error.errno not in SCARCE
        while self._queue and self.fd >= 0 and not self.is_dead:
            sent = self._write(tuple(islice(self._queue, _BATCH)))
            if not sent:
                return
            self._queued -= sent
            self._take_off(sent)
            if not self._queue and self._untold:
                self._tell_gap()

    def close(self) -> None:
        """Close the descriptor; nothing may watch it any more."""
        self.is_dead = True
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1

    def _write(self, parts: tuple[bytes | memoryview, ...]) -> int:
        # os.write and writev are the plain calls in a process patched by gevent, too.
        try:
            return os.write(self.fd, parts[0]) if len(parts) == 1 else os.writev(self.fd, parts)
        except OSError as error:
            self.is_dead = error.errno not in _FULL
            return 0

    def _append(self, data: bytes | memoryview) -> None:
        self._queue.append(data)
        self._queued += len(data)

    def _take_off(self, sent: int) -> None:
        while sent:
            head = self._queue[0]
            if sent < len(head):
                self._queue[0] = memoryview(head)[sent:]
                return
            sent -= len(head)
            self._queue.popleft()

    def _tell_gap(self) -> None:
        missed = self._untold.to_bytes(8, "big")
        self._untold = 0
        self._append(frame(pack(Kind.GAP, self._sender, "", missed)))


class Incoming:
    """The connection on which another process sends to this one."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)
        self._rest = bytearray()
        self._needed = _LENGTH.size

    def read(self) -> list[bytes] | None:
        """Return the packets that have arrived whole; ``None`` at the end of the stream.

        Raises:
            BrokenStream: what has arrived is no packet.
        """
        try:
            data = os.read(self.fd, _READ_SIZE)
        except OSError as error:
            return [] if error.errno in _FULL else None
        if not data:
            return None
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        return self._split(data)

    def _split(self, data: bytes) -> list[bytes]:
        packets = []
        position = 0
        while len(data) - position >= _LENGTH.size:
            start = position + _LENGTH.size
            size: int = _LENGTH.unpack_from(data, position)[0]
            if size > MAX_PACKET:
                raise BrokenStream(f"{size} bytes; {MAX_PACKET} are the limit")
            end = start + size
            if end > len(data):
                # Nothing is parsed, or copied, again before the whole of a large packet is there.
                self._needed = end - position
                break
            packets.append(data[start:end])
            position = end
        else:
            self._needed = _LENGTH.size
        self._rest += data[position:]
        return packets

    def close(self) -> None:
        """Close the descriptor; nothing may watch it any more."""
        close(self.fd)
