"""The response that says yes to a handshake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.http import HttpResponse
from django.urls import get_script_prefix, set_script_prefix
from django.utils import timezone, translation

from .server.websocket import WebSocket

__all__ = ["Conversation", "WebSocketResponse"]

#: What is run once the socket is open; what it returns is ignored unless it is an HttpResponse.
Conversation = Callable[[WebSocket], object]


class WebSocketResponse(HttpResponse):
    """Accept the handshake; talk once it has gone out.

    The response passes back through the project's middleware, so cookies and headers set there
    travel on the 101. After that ``conversation`` runs in a greenlet of its own, outside of any
    middleware and transaction, with the language, time zone and script prefix of this moment.

    Args:
        conversation: called with the open ``WebSocket``. When it returns the socket is closed
            with 1000, when it raises with 1011.
        subprotocols: names in order of preference; the first that the client offers is chosen.

    Example::

        def chat(request, slug):
            room = get_object_or_404(Room, slug=slug)      # a 404 before the socket opens
            return WebSocketResponse(lambda websocket: talk(request, websocket, room))
    """

    status_code = 101

    def __init__(self, conversation: Conversation, *, subprotocols: Sequence[str] = ()) -> None:
        super().__init__()
        del self.headers["Content-Type"]
        self.conversation = conversation
        self.subprotocols = subprotocols
        self._surroundings: tuple[str, Any, str | None] = (
            get_script_prefix(),
            timezone.get_current_timezone(),
            translation.get_language(),
        )

    def run(self, websocket: WebSocket) -> object:
        """Run the conversation in the surroundings of the view that accepted it."""
        script_prefix, time_zone, language = self._surroundings
        set_script_prefix(script_prefix)
        timezone.activate(time_zone)
        if language is None:
            translation.deactivate_all()
        else:
            translation.activate(language)
        return self.conversation(websocket)
