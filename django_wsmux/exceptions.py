"""Every error that this package raises of its own.

::

    geventwebsocket.exceptions.WebSocketError
    +-- ConnectionClosed                         the socket is closed; code and reason say how

gevent-websocket's class is the base so that code written for it catches what it knows. A setting
that is not right is Django's ``ImproperlyConfigured``; a wrong argument is a ``ValueError`` or
``TypeError``.
"""

from __future__ import annotations

from geventwebsocket.exceptions import WebSocketError

__all__ = ["ConnectionClosed", "WebSocketError"]


class ConnectionClosed(WebSocketError):  # type: ignore[misc]  # gevent-websocket has no types
    """The WebSocket is closed, so nothing can be sent on it.

    A view need not catch it: a view that ends with it is simply done.

    Attributes:
        code: close code of the side that closed first; 1006 when the connection was lost
            without a close frame (RFC 6455 section 7.1.5).
        reason: the text that came with it, or ``""``.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"WebSocket closed with {code}" + (f": {reason}" if reason else ""))
