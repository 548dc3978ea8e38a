"""The hook for a tracer of the application's monitoring.

There is no tracer by default; this is checked for each message. To set a tracer, assign to
``tracer`` in this module before sockets open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Tracer", "tracer"]


class Tracer(Protocol):
    """Sees messages of event views and of groups."""

    def receive(
        self, websocket: Any, handle: Callable[[Any], object], message: str | bytes
    ) -> object:
        """Call ``handle(message)`` once and return its result.

        Called in the context of the view. Must not catch the exceptions of the view.
        """

    def publish(self, name: str, send: Callable[[bool], None], fail_silently: bool) -> None:
        """Call ``send(fail_silently)``, which sends a message to the group ``name``."""


#: The tracer of this process.
tracer: Tracer | None = None
