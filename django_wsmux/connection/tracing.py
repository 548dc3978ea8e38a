"""The hook for a tracer, which follows messages through views, groups and processes.

There is no tracer by default; this is checked for each message. ``monitoring.tracing`` is the
tracer of ``WEBSOCKET_TRACING``. To set another one, assign to ``tracer`` in this module before
sockets open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ..protocol.prepared import PreparedMessage

__all__ = ["Tracer", "tracer"]


class Tracer(Protocol):
    """Sees messages of views and of groups.

    A method that calls a function calls it once, returns its result, and must not catch what it
    raises. Nothing else that a tracer raises is caught.
    """

    def opens(self, websocket: Any) -> None:
        """Note that a view is about to be called with a socket, in its handshake."""

    def state(self, websocket: Any) -> str:
        """Return what ``restore()`` needs if the socket moves to another process; may be ``""``."""

    def restore(self, websocket: Any, state: str) -> None:
        """Note that a socket has come from another process."""

    def receive(
        self, websocket: Any, handle: Callable[[Any], object], message: str | bytes | None
    ) -> object:
        """Call ``handle(message)``, in the context of the view, with a message of the client.

        The message is ``None`` if the view still has to receive it.
        """

    def group_receive(
        self,
        websocket: Any,
        handle: Callable[[Any], object],
        prepared: PreparedMessage,
        message: str | bytes,
    ) -> object:
        """Call ``handle(message)``, in the context of the view, with a message of a group."""

    def name(self, kind: str) -> None:
        """Note that the message which is handled now has a type that its view declares."""

    def messages(self, websocket: Any) -> Iterator[str | bytes]:
        """Return an iterator over the messages of a function view."""

    def converse(self, websocket: Any, function: Callable[..., object], *args: object) -> object:
        """Call ``function(*args)``: other code of a view, such as a function view or a helper."""

    def publisher(
        self, name: str, send: Callable[[bool, str], None], *, is_stored: bool = False
    ) -> Callable[[bool], None]:
        """Return a function that sends a message to the group ``name`` as a part of this moment.

        Args:
            name: the group's name.
            send: called with ``fail_silently`` and the ``traceparent`` of the message.
            is_stored: whether ``send()`` leaves the message in the outbox.

        Returns:
            A function with the argument ``fail_silently``, which may be called later.
        """

    def fail(self, error: BaseException) -> None:
        """Note that the message which is sent now was not sent, although no error is raised."""


#: The tracer of this process.
tracer: Tracer | None = None
