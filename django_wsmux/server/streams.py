"""Non-blocking byte streams over a taken-over descriptor: plain TCP or TLS.

``recv_into()`` and ``send()`` raise ``BlockingIOError`` instead of waiting; waiting is done on the
hub, in ``transport.py``. gevent's own socket objects are left behind with the server, as they wait
by themselves and keep two watchers each.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import socket
import ssl
from typing import Any, NoReturn, Protocol

__all__ = ["JoiningSocket", "Stream", "TLSStream", "detach", "detach_plain", "leave_behind"]


class Stream(Protocol):
    """What a transport needs of a socket; ``_socket.socket`` is one."""

    def recv_into(self, buffer: bytearray | memoryview, /) -> int: ...
    def send(self, data: bytes | bytearray | memoryview, /) -> int: ...
    def sendmsg(self, parts: tuple[bytes, bytes], /) -> int: ...
    def fileno(self) -> int: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


class TLSStream:
    """A TLS session that goes on over the descriptor it was negotiated on.

    Args:
        session: the ``_ssl._SSLSocket`` that holds the state of TLS.
        anchor: the socket object that the session was made for. The session knows it by a weak
            reference and refuses to work without it, so it is kept here.
        raw: owns the descriptor.

    Attributes:
        wants_read: the last ``send()`` waits for something to read, as when TLS 1.2 renegotiates.
    """

    __slots__ = ("_anchor", "_raw", "_session", "wants_read")

    def __init__(self, session: Any, anchor: object, raw: _socket.socket) -> None:
        self._session = session
        self._anchor = anchor
        self._raw = raw
        self.wants_read = False

    @property
    def pending(self) -> int:
        """Bytes that are decrypted but not read, of which the descriptor says nothing."""
        return int(self._session.pending()) if self._session is not None else 0

    def recv_into(self, buffer: bytearray | memoryview, /) -> int:
        """Return how many bytes were read; 0 at the end of the stream."""
        try:
            return int(self._session.read(len(buffer), buffer))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return 0

    def send(self, data: bytes | bytearray | memoryview, /) -> int:
        """Return how many bytes were taken."""
        self.wants_read = False
        try:
            return int(self._session.write(data))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            self.wants_read = isinstance(error, ssl.SSLWantReadError)
            raise BlockingIOError from error

    def sendmsg(self, parts: tuple[bytes, bytes], /) -> int:
        """Return how many bytes were taken; TLS copies them anyway."""
        return self.send(b"".join(parts))

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._raw.fileno()

    def shutdown(self, how: int, /) -> None:
        """Shut TCP down."""
        self._raw.shutdown(how)

    def close(self) -> None:
        """Close the descriptor."""
        self._session = None
        self._raw.close()


def detach(sock: Any) -> Stream:
    """Take the descriptor out of a gevent socket and return it as a stream.

    The gevent object is left closed, its watchers stopped, so whatever the server does to it
    afterwards touches nothing.

    Args:
        sock: ``gevent.socket.socket`` or ``gevent.ssl.SSLSocket``.
    """
    # gevent 24.10 to 26.9, _socket3.py and ssl.py: the C socket is _sock, the TLS state _sslobj.
    session, anchor = getattr(sock, "_sslobj", None), sock._sock
    family, kind, proto = sock.family, sock.type, sock.proto
    raw = _socket.socket(family, kind, proto, sock.detach())
    raw.setblocking(False)
    if family != socket.AF_UNIX:
        # A message is not to wait for the acknowledgement of the one before.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if session is None:
        return raw
    sock._sslobj = None
    return TLSStream(session, anchor, raw)


class _Nowhere:
    """What a gevent socket has instead of its descriptor, for a server that goes on with it.

    What the server sends, the end of an answer, goes nowhere. When it then reads the next request
    it is told that the peer is not connected.

    Args:
        sock: the gevent socket, before its descriptor is taken.
    """

    def __init__(self, sock: Any) -> None:
        self.family, self.type, self.proto = sock.family, sock.type, sock.proto

    def getsockopt(self, *args: Any) -> int:
        """Return a size of 0 for buffers, which gevent asks for to choose its own."""
        return 0

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        """Return how many bytes were taken: all of them."""
        return len(data)

    def recv(self, *args: Any) -> NoReturn:
        """Raise, as there is nothing to read.

        Raises:
            OSError: ``ENOTCONN``, which gunicorn (23 to 27, ``base_async.py``) takes for a client
                that has gone.
        """
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    recv_into = shutdown = getsockname = getpeername = setsockopt = recv

    def fileno(self) -> int:
        """Return what closed sockets return."""
        return -1

    def close(self) -> None:
        """Do nothing."""

    def __bool__(self) -> bool:
        # gevent's close() asks whether there is a descriptor.
        return False


def leave_behind(sock: Any) -> Stream:
    """Take the descriptor out of a gevent socket that its server goes on with.

    Args:
        sock: ``gevent.socket.socket`` or ``gevent.ssl.SSLSocket``.
    """
    left_behind = _Nowhere(sock)
    stream = detach(sock)
    sock._sock = left_behind
    return stream


class JoiningSocket(_socket.socket):
    """TCP where the system has no ``sendmsg()``: on Windows."""

    def sendmsg(self, parts: tuple[bytes, bytes], /) -> int:  # type: ignore[override]
        """Return how many bytes were taken."""
        return self.send(b"".join(parts))


def detach_plain(sock: socket.socket) -> Stream:
    """Take the descriptor out of one of Python's own sockets and return it as a stream.

    The object is left closed, so whatever the server does to it afterwards touches nothing.
    """
    kind = _socket.socket if hasattr(_socket.socket, "sendmsg") else JoiningSocket
    raw = kind(sock.family, sock.type, sock.proto, sock.detach())
    raw.setblocking(False)
    # Refused where the peer is gone already (macOS), which shows soon enough.
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return raw
