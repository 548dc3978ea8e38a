"""HTML over the wire: the site whose sockets get it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.test import override_settings
from django.urls import path

from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.views import WebSocketView

__all__ = ["SITE", "Room", "content", "joined", "received", "urlpatterns"]


class Room(WebSocketView):
    """Joins the group that the URL names, and sends each text back as HTML."""

    def get_groups(self) -> list[str]:
        """Return the name."""
        return [self.kwargs["room"]]

    def receive_text(self, text: str) -> None:
        """Send it as HTML, or the id of the client."""
        if text == "my id":
            self.send_json({"client": self.websocket.client_id})
        else:
            self.websocket.send_html(text)


urlpatterns = [path("rooms/<str:room>/", Room.as_view())]

TEMPLATES = {
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "DIRS": [Path(__file__).parent / "templates"],
}

SITE: dict[str, Any] = {
    "TEMPLATES": [TEMPLATES],
    "WEBSOCKET_URLCONF": __name__,
    "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
}


@contextmanager
def joined(*rooms: str, subprotocols: tuple[str, ...] = ()) -> Iterator[list[ClientWebSocket]]:
    """Open a socket in each of these groups."""
    sockets = []
    with override_settings(**SITE):
        try:
            for room in rooms:
                ws = WebSocketClient().websocket(f"/rooms/{room}/", subprotocols)
                sockets.append(ws)
                if ws.subprotocol:
                    ws.receive()  # the welcome
            yield sockets
        finally:
            for ws in sockets:
                ws.close()


def content(ws: ClientWebSocket) -> str:
    """Return the HTML of the next message, which must be content of ``wsmux.v1``."""
    message = ws.receive_json()
    assert set(message) <= {"at", "in", "content", "not"}, message
    html: str = message["content"]
    return html


def received(ws: ClientWebSocket) -> list[str | bytes]:
    """Return all messages that a socket has got since the last call."""
    return [ws.receive() for _ in ws.peek()]
