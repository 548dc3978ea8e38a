"""The names of gevent-websocket's WebSocket, for code written for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ..protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

if TYPE_CHECKING:
    from .websocket import WebSocket

__all__ = ["GeventWebSocketNames"]


class _Handler:
    """Stands for gevent-websocket's handler, whose ``socket`` is passed to select()."""

    __slots__ = ("socket",)

    def __init__(self, websocket: WebSocket) -> None:
        self.socket = websocket


class GeventWebSocketNames:
    """The part of ``geventwebsocket.websocket.WebSocket`` 0.10 that views use."""

    __slots__ = ()

    OPCODE_CONTINUATION = CONTINUATION
    OPCODE_TEXT = TEXT
    OPCODE_BINARY = BINARY
    OPCODE_CLOSE = CLOSE
    OPCODE_PING = PING
    OPCODE_PONG = PONG

    environ: dict[str, Any]

    @property
    def handler(self) -> _Handler:
        """An object for ``websocket.handler.socket.fileno()``, which is ``websocket.fileno()``."""
        return _Handler(cast("WebSocket", self))

    @property
    def path(self) -> str:
        """The path of the handshake's URL."""
        return str(self.environ.get("PATH_INFO", ""))

    @property
    def origin(self) -> str | None:
        """The ``Origin`` header of the handshake."""
        return self.environ.get("HTTP_ORIGIN")

    @property
    def protocol(self) -> str | None:
        """The subprotocols that the client offered; ``subprotocol`` is the negotiated one."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL")

    @property
    def version(self) -> str | None:
        """The ``Sec-WebSocket-Version`` header of the handshake."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_VERSION")
