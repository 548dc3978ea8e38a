"""Where messages can be traced, by a tracer of the application's monitoring.

There is none by default, and each message asks whether there is. A tracer is set before sockets
open, by assigning to ``tracer`` in this module.
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
        """Return what ``handle(message)`` returns, which must be called once.

        It is called in the context of the view. What the view raises passes through.
        """

    def publish(self, name: str, send: Callable[[bool], None], fail_silently: bool) -> None:
        """Call ``send(fail_silently)``, which sends a message to the group of that name."""


#: The tracer of this process.
tracer: Tracer | None = None
