"""What an open socket needs of its handshake, its view and its past in another process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from django.http import HttpResponseBase

from ..connection.websocket import WebSocket
from ..groups.group import Group
from .request import WebSocketRequest

__all__ = ["Acceptor", "EventView", "Origin"]


class Acceptor(Protocol):
    """Sends the 101 when a view uses the socket before returning.

    Attributes:
        joined: alias, position and ``recovered`` of each group that the socket joined before the
            101; see ``Hooks.group_joined()``.
    """

    joined: dict[str, tuple[str | None, str | None, bool | None]]

    def accept_early(self) -> None:
        """See ``Handshake``."""


class Origin(Protocol):
    """Makes the request of a socket that comes from another process: see ``remaking.Origin``."""

    def request(self, websocket: WebSocket) -> WebSocketRequest:
        """Return the request; wait for it."""


class EventView(Protocol):
    """The methods of a ``WebSocketView`` that are called for its socket."""

    keep_request: bool
    handover: bool
    subprotocols: Sequence[str]
    compression: bool
    #: Handles a group's message, if the view defines it.
    group_receive: Any

    def connect(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase | None:
        """Decide on the handshake: ``None`` accepts."""

    def receive(self, message: str | bytes) -> object:
        """Handle a message."""

    def disconnect(self, code: int, reason: str) -> object:
        """Handle the close of the socket."""

    def missed(self, group: Group) -> object:
        """Handle messages of a group that the client will never get."""

    def release_request(self) -> None:
        """Drop the request."""
