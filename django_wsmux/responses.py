"""Responses to a handshake: those that accept it, and helpers for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.http import HttpResponse, HttpResponseBase

from .connection.websocket import WebSocket
from .handlers import context

__all__ = [
    "Conversation",
    "SwitchingProtocols",
    "WebSocketResponse",
    "add_length",
    "refusal_reason",
]

#: Runs once the socket is open; its result is ignored unless it is an HttpResponse.
Conversation = Callable[[WebSocket], object]


class SwitchingProtocols(HttpResponse):
    """The response of an event view that accepts the handshake.

    It passes back through the project's middleware, so the 101 has the cookies and headers that
    are set there.

    Args:
        subprotocols: names in order of preference; the first that the client offers is chosen.
        compression: ``False`` declines the compression that the client offers.
        realtime: ``False`` declines the subprotocol ``wsmux.v1``.
    """

    status_code = 101

    def __init__(
        self,
        *,
        subprotocols: Sequence[str] = (),
        compression: bool = True,
        realtime: bool = True,
    ) -> None:
        super().__init__()
        del self.headers["Content-Type"]
        self.subprotocols = subprotocols
        self.compression = compression
        self.realtime = realtime
        self.request_context = context.current()


class WebSocketResponse(SwitchingProtocols):
    """The response that accepts the handshake and then runs a conversation.

    After the response has passed the middleware, ``conversation`` runs in a greenlet of its own,
    outside of any middleware and transaction, with the language, time zone and script prefix that
    are active now.

    Args:
        conversation: called with the open ``WebSocket``. When it returns, the socket is closed
            with 1000; when it raises, with 1011.
        subprotocols: names in order of preference; the first that the client offers is chosen.
        compression: ``False`` declines the compression that the client offers.
        realtime: ``False`` declines the subprotocol ``wsmux.v1``.

    Example::

        def chat(request, slug):
            room = get_object_or_404(Room, slug=slug)      # a 404 before the socket opens
            return WebSocketResponse(lambda websocket: talk(request, websocket, room))
    """

    #: Whether the conversation calls a view and may return its response.
    calls_view = False

    def __init__(
        self,
        conversation: Conversation,
        *,
        subprotocols: Sequence[str] = (),
        compression: bool = True,
        realtime: bool = True,
    ) -> None:
        super().__init__(subprotocols=subprotocols, compression=compression, realtime=realtime)
        self.conversation = conversation


def refusal_reason(response: HttpResponseBase) -> str:
    """Return a response's status as the reason of a close frame."""
    reason = f"{response.status_code} {response.reason_phrase}"
    # Section 5.5: at most 123 bytes, without a truncated character.
    return reason.encode(errors="replace")[:123].decode(errors="ignore")


def add_length(response: HttpResponseBase) -> None:
    """Add a Content-Length to a response, since some clients wait for it.

    ``CommonMiddleware`` adds it only if it is installed and the response passes it.
    """
    if (
        isinstance(response, HttpResponse)
        and response.status_code not in (101, 204, 304)
        and not response.has_header("Content-Length")
    ):
        response.headers["Content-Length"] = str(len(response.content))
