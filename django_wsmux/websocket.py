"""The type of the socket that a view holds, for annotations::

def chat(request: HttpRequest, websocket: WebSocket) -> None: ...
"""

from .connection.websocket import WebSocket

__all__ = ["WebSocket"]
