"""The ends of the unix stream sockets between the processes of a machine."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from itertools import islice
from typing import Final

from .packets import Kind, pack
from .selector import close

__all__ = ["MAX_PACKET", "SCARCE", "BrokenStream", "Incoming", "Link", "StaleSocket", "frame"]

_LENGTH: Final = struct.Struct("!I")

#: Bytes read at once: about the default buffer of a unix socket on Linux.
_READ_SIZE: Final = 262_144

#: Frames passed to one writev(); POSIX guarantees 16, Linux and macOS accept 1,024.
_BATCH: Final = 256

#: Largest size of a packet in bytes: a larger length is garbage.
MAX_PACKET: Final = 2**28

#: Error numbers when descriptors, memory or buffers have run out for a while.
SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


#: Error numbers when nothing can be read or written at the moment.
_FULL: Final = SCARCE | {errno.EAGAIN, errno.EWOULDBLOCK}


class StaleSocket(Exception):
    """No process listens on a socket: its process ended without removing it."""


class BrokenStream(Exception):
    """The stream is not a sequence of packets, so the start of the next one is unknown."""


def frame(packet: bytes) -> bytes:
    """Return a packet for the stream: its length in four bytes, then the packet."""
    return _LENGTH.pack(len(packet)) + packet


class Link:
    """The connection on which this process sends to another; never waits.

    Packets that the peer does not take at once are queued up to a limit. Beyond it they are dropped
    and counted, and a packet with their number is queued in their place.

    Args:
        path: the path of the peer's socket.
        peer: the id of the peer.
        sender: the id of this process.
        limit: most bytes to queue. One packet is always queued, however large it is.

    Attributes:
        is_dead: the peer has gone.
        dropped: the number of dropped packets.
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
        self._unreported = 0
        self.fd = -1
        self._connect()

    @property
    def backlog(self) -> int:
        """The number of queued bytes that the peer has not taken."""
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
        """Send or queue a frame; return False if it was dropped."""
        if self._unreported and self._queued <= self._limit // 2:
            self._tell_gap()
        if self._unreported or (self._queue and self._queued + len(data) > self._limit):
            self._unreported += 1
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
        """Send as much of the queue as the peer takes."""
        if self.fd < 0:
            try:
                self._connect()
            except StaleSocket:
                self.is_dead = True
            except OSError as error:
                # It is tried again later, when a descriptor may be free.
                self.is_dead = error.errno not in SCARCE
        while self._queue and self.fd >= 0 and not self.is_dead:
            sent = self._write(tuple(islice(self._queue, _BATCH)))
            if not sent:
                return
            self._queued -= sent
            self._take_off(sent)
            if not self._queue and self._unreported:
                self._tell_gap()

    def close(self) -> None:
        """Close the descriptor, which must not be watched any more."""
        self.is_dead = True
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1

    def _write(self, parts: tuple[bytes | memoryview, ...]) -> int:
        # gevent does not patch os.write and os.writev.
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
        missed = self._unreported.to_bytes(8, "big")
        self._unreported = 0
        self._append(frame(pack(Kind.GAP, self._sender, "", missed)))


class Incoming:
    """The connection on which another process sends to this one."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)
        self._rest = bytearray()
        self._needed = _LENGTH.size

    def read(self) -> list[bytes] | None:
        """Return the packets that have arrived completely; ``None`` at the end of the stream.

        Raises:
            BrokenStream: the bytes are not a packet.
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
                raise BrokenStream(f"packet of {size} bytes, limit {MAX_PACKET}")
            end = start + size
            if end > len(data):
                # Nothing is parsed or copied again until all of a large packet has arrived.
                self._needed = end - position
                break
            packets.append(data[start:end])
            position = end
        else:
            self._needed = _LENGTH.size
        self._rest += data[position:]
        return packets

    def close(self) -> None:
        """Close the descriptor, which must not be watched any more."""
        close(self.fd)
