"""The interfaces between a WebSocket, the transport below it and the framework above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from ..protocol.prepared import PreparedMessage

__all__ = [
    "CLOSED",
    "CLOSING",
    "CONNECTING",
    "MARK",
    "OPEN",
    "DefaultHooks",
    "Detached",
    "Hooks",
    "Releasable",
    "Transport",
]

# The states of a connection, in order.
CONNECTING: Final = 0
OPEN: Final = 1
CLOSING: Final = 2
CLOSED: Final = 3


#: Attribute of a greenlet that must not wait without ``Hooks.before_wait()``.
MARK: Final = "_django_wsmux_connected"


class Releasable(Protocol):
    """A resource that a WebSocket holds until its descriptor is closed."""

    #: Whether the socket that holds it is open.
    is_open: bool

    def release(self) -> None:
        """Release the resource; does nothing the second time."""


class Detached(NamedTuple):
    """The state of a connection that moves to another process, or to another object.

    Attributes:
        fd: the descriptor, which belongs to the owner of this object.
        unread: bytes from the peer that are not parsed yet.
        unsent: bytes that the peer has not taken yet. They are sent before all others.
        codec_state: further state of the parser, as values of JSON.
    """

    fd: int
    unread: bytes
    unsent: bytes
    codec_state: dict[str, Any]


class Transport(Protocol):
    """The link from a WebSocket to its peer and its view, such as ``GeventTransport``."""

    #: Bytes handed to ``write()`` that the peer has not taken yet.
    unsent: int

    def start(self) -> None:
        """Start reading; bytes are passed to ``Connection.data_received()``."""

    def write(self, data: bytes) -> None:
        """Send what the peer takes now, and queue the rest. Never waits, never raises."""

    def send_message(self, message: str | bytes, opcode: int) -> int:
        """Write a message in one frame; return the size of the frame.

        Raises:
            UnicodeEncodeError: the text contains a lone surrogate.
        """

    def drain(self, limit: int) -> None:
        """Wait until at most ``limit`` bytes are unsent, or the connection is lost."""

    def sweep_in(self, seconds: float) -> None:
        """Make the keepalive check its connections in ``seconds`` at the latest."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Resume reading."""

    def soon(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after other sockets have had their turn."""

    def wait(self, timeout: float | None) -> bool | str | bytes:
        """Wait for ``wake()``; return False if ``timeout`` seconds pass first.

        A transport may return the next message itself instead of queueing it.
        """

    def wake(self) -> None:
        """Wake the view that waits in ``wait()``, if any."""

    def submit(self, job: Callable[..., bool]) -> None:
        """Call ``job`` until it returns False, where it may wait beside jobs of other sockets."""

    def close(self, timeout: float, *, linger: bool) -> None:
        """Send what is queued, then close; with ``linger``, first wait for the peer to close.

        After ``timeout`` seconds the descriptor is closed in any case.
        """

    def abort(self) -> None:
        """Close at once, and discard what is queued."""

    def close_after(self, timeout: float) -> None:
        """Close after ``timeout`` seconds unless ``close()`` has finished before."""

    def disown(self) -> None:
        """Give up the socket in a forked child, without notice to the peer or the view."""

    def spawn(self, function: Callable[[], None]) -> Callable[[], None]:
        """Start ``function`` beside the view; return a function that ends it."""

    def detach(self) -> Detached:
        """Give up the socket so that another process can continue it.

        The socket leaves its groups and is closed for its view, which is not told. Nothing is sent.

        Raises:
            CannotMove: the socket cannot be moved, or not now. Nothing has changed.
        """


class Hooks(Protocol):
    """The part of a connection that the framework provides.

    Each ``websocket`` is a ``Connection``. The type is not named here because its module imports
    this one.
    """

    def open(self, websocket: Any) -> None:
        """Accept the handshake: called when a view uses the socket before the 101 is sent.

        It may leave the socket as it is; messages then wait for the 101.
        """

    #: Called when only the 101 has been sent, so that it can send the first message. Must not wait.
    #: Not called for a socket that another process has opened. ``None`` sends nothing.
    opened: Callable[[Any], None] | None

    #: Called with the code before a close frame that is not an answer to the peer's, so that it can
    #: send a last message. Must neither wait nor raise. ``None`` sends nothing.
    closing: Callable[[Any, int], None] | None

    def heartbeat(self, websocket: Any) -> bytes:
        """Return whole frames to send before a ping of the keepalive, in one write with it."""

    # Events of the socket in groups with numbered messages. These methods must neither wait nor
    # raise.

    def group_joined(
        self,
        websocket: Any,
        name: str,
        alias: str | None,
        position: str | None,
        recovered: bool | None,
    ) -> None:
        """Note that the socket has joined a group.

        Args:
            websocket: the socket, which may not be open yet.
            name: the group's name, without its prefix.
            alias: the name that the client sees; ``None`` for the group's own name.
            position: the position of the newest message; ``None`` if the store cannot be read yet,
                and ``""`` if the group's messages are not numbered: then only the alias is noted.
            recovered: whether the client gets all messages that it missed; ``None`` if it asked for
                none, or if that is not known yet.
        """

    def group_renamed(self, websocket: Any, name: str, alias: str, position: str | None) -> None:
        """Note that a member is to see another alias of a group, whose messages are numbered.

        Args:
            websocket: the socket, which may not be open yet.
            name: the group's name, without its prefix.
            alias: the name that the client sees from now on.
            position: the position of the newest message; ``None`` if the store cannot be read yet.
        """

    def group_left(self, websocket: Any, name: str) -> None:
        """Note that the socket has left a group, but is not closed."""

    def group_gap(self, websocket: Any, name: str, position: str) -> None:
        """Note that messages up to a position were missed and will not be sent."""

    def group_dropped(self, websocket: Any, message: PreparedMessage) -> None:
        """Note that a peer is too slow for a message, numbered or BARE, which was dropped."""

    def group_handled(self, websocket: Any, message: PreparedMessage) -> None:
        """Note that an event view has handled a numbered message in ``group_receive()``."""

    def before_wait(self) -> None:
        """Prepare for the view's wait for a message, in a greenlet that has ``MARK``."""

    def receive(self, websocket: Any, message: str | bytes) -> None:
        """Pass a message to an event view. Never raises."""

    def group_receive(self, websocket: Any, message: PreparedMessage) -> None:
        """Pass a group message to an event view. Never raises."""

    def disconnect(self, websocket: Any) -> None:
        """Tell an event view of the close, after its last message. Never raises."""

    def is_disconnecting(self, websocket: Any) -> bool:
        """Return whether an event view is in its ``disconnect()``."""

    @property
    def user_id(self) -> str | None:
        """The primary key of the signed-in user, as a string."""

    def leave(self, websocket: Any) -> None:
        """Leave the groups: nothing can be sent any more. Must not wait."""

    def refresh_user(self) -> None:
        """Reload the request's user."""

    def retire(self) -> None:
        """Clean up in a greenlet that handled messages and is about to end."""

    def run_helper(self, websocket: Any, function: Callable[[], object]) -> None:
        """Run ``function`` as a helper of the view, and report what it raises."""

    def dump_json(self, value: Any, **options: Any) -> str:
        """Return a value as JSON text; ``options`` are those of ``json.dumps``."""

    def requests(self, websocket: Any) -> Iterator[Any]:
        """Yield the messages of a function view that are JSON objects with a ``type``."""


class DefaultHooks:
    """Defaults for the optional part of ``Hooks``: they do nothing."""

    __slots__ = ()

    opened: Callable[[Any], None] | None = None
    closing: Callable[[Any, int], None] | None = None

    def heartbeat(self, websocket: Any) -> bytes:
        """Return no frames to send before a ping."""
        return b""

    def group_joined(
        self,
        websocket: Any,
        name: str,
        alias: str | None,
        position: str | None,
        recovered: bool | None,
    ) -> None:
        """Do nothing."""

    def group_renamed(self, websocket: Any, name: str, alias: str, position: str | None) -> None:
        """Do nothing."""

    def group_left(self, websocket: Any, name: str) -> None:
        """Do nothing."""

    def group_gap(self, websocket: Any, name: str, position: str) -> None:
        """Do nothing."""

    def group_dropped(self, websocket: Any, message: PreparedMessage) -> None:
        """Do nothing."""

    def group_handled(self, websocket: Any, message: PreparedMessage) -> None:
        """Do nothing."""
