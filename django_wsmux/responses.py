"""The responses to a handshake: those that say yes, and what is common to all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.http import HttpResponse, HttpResponseBase

from . import surroundings
from .server.websocket import WebSocket

__all__ = [
    "Conversation",
    "SwitchingProtocols",
    "WebSocketResponse",
    "add_length",
    "refusal_reason",
]

#: What is run once the socket is open; what it returns is ignored unless it is an HttpResponse.
Conversation = Callable[[WebSocket], object]


class SwitchingProtocols(HttpResponse):
    """Accept the handshake: an event view returns it, as its view will be called for messages.

    The response passes back through the project's middleware, so cookies and headers set there
    travel on the 101.

    Args:
        subprotocols: names in order of preference; the first that the client offers is chosen.
        compression: ``False`` declines what the client offers.
    """

    status_code = 101

    def __init__(self, *, subprotocols: Sequence[str] = (), compression: bool = True) -> None:
        super().__init__()
        del self.headers["Content-Type"]
        self.subprotocols = subprotocols
        self.compression = compression
        self.surroundings = surroundings.current()


class WebSocketResponse(SwitchingProtocols):
    """Accept the handshake; talk once it has gone out.

    After the response has passed the middleware ``conversation`` runs in a greenlet of its own,
    outside of any middleware and transaction, with the language, time zone and script prefix of
    this moment.

    Args:
        conversation: called with the open ``WebSocket``. When it returns the socket is closed
            with 1000, when it raises with 1011.
        subprotocols: names in order of preference; the first that the client offers is chosen.
        compression: ``False`` declines what the client offers.

    Example::

        def chat(request, slug):
            room = get_object_or_404(Room, slug=slug)      # a 404 before the socket opens
            return WebSocketResponse(lambda websocket: talk(request, websocket, room))
    """

    #: Whether the conversation may end with a response: that of a view which it has called.
    calls_view = False

    def __init__(
        self,
        conversation: Conversation,
        *,
        subprotocols: Sequence[str] = (),
        compression: bool = True,
    ) -> None:
        super().__init__(subprotocols=subprotocols, compression=compression)
        self.conversation = conversation


def refusal_reason(response: HttpResponseBase) -> str:
    """Return a response's status as the reason of a close frame."""
    reason = f"{response.status_code} {response.reason_phrase}"
    # Section 5.5: 123 bytes at most, and no half character.
    return reason.encode(errors="replace")[:123].decode(errors="ignore")


def add_length(response: HttpResponseBase) -> None:
    """Give a response a Content-Length, which some clients wait for.

    ``CommonMiddleware`` does it where it is installed, and where it is reached.
    """
    if (
        isinstance(response, HttpResponse)
        and response.status_code not in (101, 204, 304)
        and not response.has_header("Content-Length")
    ):
        response.headers["Content-Length"] = str(len(response.content))
