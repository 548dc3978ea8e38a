"""Non-blocking byte streams over a descriptor taken from the server: plain TCP or TLS.

``recv_into()`` and ``send()`` raise ``BlockingIOError`` instead of waiting; ``gevent.py`` waits
on the hub. gevent's own socket objects stay with the server, because they wait by themselves and
keep two watchers each.
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
    """The methods of a socket that a transport uses; ``_socket.socket`` has them."""

    def recv_into(self, buffer: bytearray | memoryview, /) -> int: ...
    def send(self, data: bytes | bytearray | memoryview, /) -> int: ...
    def sendmsg(self, parts: tuple[bytes, bytes], /) -> int: ...
    def fileno(self) -> int: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


class TLSStream:
    """A TLS session that continues on the descriptor on which it was negotiated.

    Args:
        session: the ``_ssl._SSLSocket`` with the state of TLS.
        anchor: the socket object for which the session was made. The session has a weak reference
            to it and does not work without it, so it is kept here.
        raw: the owner of the descriptor.

    Attributes:
        wants_read: the last ``send()`` must read first, as when TLS 1.2 renegotiates.
    """

    __slots__ = ("_anchor", "_raw", "_session", "wants_read")

    def __init__(self, session: Any, anchor: object, raw: _socket.socket) -> None:
        self._session = session
        self._anchor = anchor
        self._raw = raw
        self.wants_read = False

    @property
    def pending(self) -> int:
        """The number of decrypted but unread bytes, which do not make the descriptor readable."""
        return int(self._session.pending()) if self._session is not None else 0

    def recv_into(self, buffer: bytearray | memoryview, /) -> int:
        """Read into a buffer; return the number of bytes, 0 at the end of the stream."""
        try:
            return int(self._session.read(len(buffer), buffer))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return 0

    def send(self, data: bytes | bytearray | memoryview, /) -> int:
        """Send bytes; return how many were taken."""
        self.wants_read = False
        try:
            return int(self._session.write(data))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            self.wants_read = isinstance(error, ssl.SSLWantReadError)
            raise BlockingIOError from error

    def sendmsg(self, parts: tuple[bytes, bytes], /) -> int:
        """Send both parts; return how many bytes were taken. TLS copies them anyway."""
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

    The gevent object is closed and its watchers are stopped, so the server cannot affect the stream
    through it.

    Args:
        sock: ``gevent.socket.socket`` or ``gevent.ssl.SSLSocket``.
    """
    # gevent 24.10 to 26.9, _socket3.py and ssl.py: the C socket is _sock, the TLS state _sslobj.
    session, anchor = getattr(sock, "_sslobj", None), sock._sock
    # Not the attributes of the gevent object, which converts them to members of enumerations.
    family, kind, proto = anchor.family, anchor.type, anchor.proto
    raw = _socket.socket(family, kind, proto, sock.detach())
    raw.setblocking(False)
    if family != socket.AF_UNIX:
        # A message must not wait for the acknowledgement of the previous one.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if session is None:
        return raw
    sock._sslobj = None
    return TLSStream(session, anchor, raw)


class _Nowhere:
    """Replaces the descriptor of a gevent socket that its server keeps using.

    The server still sends the end of a response, which is discarded. When it then reads the next
    request, it gets the error that the peer is not connected.

    Args:
        sock: the C socket of the gevent socket, before its descriptor is taken.
    """

    def __init__(self, sock: Any) -> None:
        self.family, self.type, self.proto = sock.family, sock.type, sock.proto

    def getsockopt(self, *args: Any) -> int:
        """Return 0 as the buffer size, from which gevent chooses its own."""
        return 0

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        """Discard the bytes; return how many were taken: all of them."""
        return len(data)

    def recv(self, *args: Any) -> NoReturn:
        """Raise an error: there is nothing to read.

        Raises:
            OSError: ``ENOTCONN``, from which gunicorn (23 to 27, ``base_async.py``) concludes that
                the client has gone.
        """
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    recv_into = shutdown = getsockname = getpeername = setsockopt = recv

    def fileno(self) -> int:
        """Return -1, as closed sockets do."""
        return -1

    def close(self) -> None:
        """Do nothing."""

    def __bool__(self) -> bool:
        # gevent's close() checks whether there is a descriptor.
        return False


def leave_behind(sock: Any) -> Stream:
    """Take the descriptor out of a gevent socket that its server keeps using.

    Args:
        sock: ``gevent.socket.socket`` or ``gevent.ssl.SSLSocket``.
    """
    left_behind = _Nowhere(sock._sock)
    stream = detach(sock)
    sock._sock = left_behind
    return stream


class JoiningSocket(_socket.socket):
    """A TCP socket for systems without ``sendmsg()``: Windows."""

    def sendmsg(self, parts: tuple[bytes, bytes], /) -> int:  # type: ignore[override]
        """Send both parts; return how many bytes were taken."""
        return self.send(b"".join(parts))


def detach_plain(sock: socket.socket) -> Stream:
    """Take the descriptor out of one of Python's own sockets and return it as a stream.

    The object is closed, so the server cannot affect the stream through it.
    """
    kind = _socket.socket if hasattr(_socket.socket, "sendmsg") else JoiningSocket
    raw = kind(sock.family, sock.type, sock.proto, sock.detach())
    raw.setblocking(False)
    # Fails if the peer has gone already (macOS), which the stream shows soon.
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return raw
