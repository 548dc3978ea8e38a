"""The sockets of ``deploy_site``."""

from __future__ import annotations

from django.http import HttpRequest
from django.urls import path

from django_wsmux.views import WebSocketView

__all__ = ["urlpatterns"]


class Board(WebSocketView):
    """Receive the messages of two groups, one with a history; answer with a count of messages."""

    groups = ("plain", "kept")

    def connect(self, request: HttpRequest) -> None:
        """Look at the user, as most views do."""
        self.is_known = request.user.is_authenticated
        self.count = 0

    def receive(self, message: str | bytes) -> None:
        """Send back a message, and how many there were."""
        self.count += 1
        self.send(f"e{message} {self.count}")


class FixedBoard(Board):
    """The same, but it is closed with 1012."""

    handover = False


urlpatterns = [path("board/", Board.as_view()), path("fixed/", FixedBoard.as_view())]
