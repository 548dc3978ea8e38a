"""The type of a view's socket, for annotations.

Example::

    def chat(request: HttpRequest, websocket: WebSocket) -> None: ...
"""

from .connection.websocket import WebSocket

__all__ = ["WebSocket"]
