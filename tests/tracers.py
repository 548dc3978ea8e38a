"""A tracer that does nothing, as a base of those in tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django_wsmux.connection.link import messages
from django_wsmux.protocol.prepared import PreparedMessage

__all__ = ["Silent"]


class Silent:
    """Implements ``connection.tracing.Tracer``."""

    def opens(self, websocket: Any) -> None:
        """Do nothing."""

    def state(self, websocket: Any) -> str:
        """Return nothing."""
        return ""

    def restore(self, websocket: Any, state: str) -> None:
        """Do nothing."""

    def receive(self, websocket: Any, handle: Callable[[Any], object], message: Any) -> object:
        """Handle a message."""
        return handle(message)

    def group_receive(
        self,
        websocket: Any,
        handle: Callable[[Any], object],
        prepared: PreparedMessage,
        message: str | bytes,
    ) -> object:
        """Handle a message of a group."""
        return handle(message)

    def name(self, kind: str) -> None:
        """Do nothing."""

    def messages(self, websocket: Any) -> Iterator[str | bytes]:
        """Return the messages of a function view."""
        return messages(websocket)

    def converse(self, websocket: Any, function: Callable[..., object], *args: object) -> object:
        """Call a function."""
        return function(*args)

    def publisher(
        self, name: str, send: Callable[[bool, str], None], *, is_stored: bool = False
    ) -> Callable[[bool], None]:
        """Return a function that sends a message."""
        return lambda fail_silently: send(fail_silently, "")

    def fail(self, error: BaseException) -> None:
        """Do nothing."""
