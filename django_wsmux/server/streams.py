"""Non-blocking byte streams over a taken-over descriptor: plain TCP or TLS.

``recv()`` and ``send()`` raise ``BlockingIOError`` instead of waiting; waiting is done on the hub,
in ``transport.py``. gevent's own socket objects are left behind with the server, as they wait by
themselves and keep two watchers each.
"""

from __future__ import annotations

import _socket
import socket
import ssl
from typing import Any, Protocol

__all__ = ["Stream", "TLSStream", "detach"]


class Stream(Protocol):
    """What a transport needs of a socket; ``_socket.socket`` is one."""

    def recv(self, size: int, /) -> bytes: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
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
    """

    __slots__ = ("_anchor", "_raw", "_session")

    def __init__(self, session: Any, anchor: object, raw: _socket.socket) -> None:
        self._session = session
        self._anchor = anchor
        self._raw = raw

    def recv(self, size: int, /) -> bytes:
        """Return what is decrypted, or can be at once; empty at the end of the stream."""
        chunks = []
        try:
            chunks.append(self._session.read(size))
            # A TLS record comes whole: what read() left of it is in memory, where the
            # descriptor's readiness says nothing of it.
            while pending := self._session.pending():
                chunks.append(self._session.read(pending))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            if not chunks:
                raise BlockingIOError from error
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass
        return b"".join(chunks)

    def send(self, data: bytes | memoryview, /) -> int:
        """Return how many bytes were taken."""
        try:
            return int(self._session.write(data))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error

    def fileno(self) -> int:
        return self._raw.fileno()

    def shutdown(self, how: int, /) -> None:
        self._raw.shutdown(how)

    def close(self) -> None:
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
