"""What a WebSocket asks of the layer below it and of the framework above."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

__all__ = [
    "CLOSED",
    "CLOSING",
    "CONNECTING",
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


class Releasable(Protocol):
    """What a WebSocket holds until its descriptor is closed."""

    #: An open socket holds it.
    is_open: bool

    def release(self) -> None:
        """Give it back; does nothing the second time."""


class Detached(NamedTuple):
    """A connection between two processes, or two sockets of one: all that its bytes depend on.

    Attributes:
        fd: the descriptor, which belongs to the owner of this object.
        unread: bytes of the peer of which no message has been made yet.
        unsent: bytes for the peer that it has not taken yet. They go out before all else.
        codec_state: what else the parser knows: values of JSON.
    """

    fd: int
    unread: bytes
    unsent: bytes
    codec_state: dict[str, Any]


class Transport(Protocol):
    """How a WebSocket reaches its peer and its view; ``GeventTransport`` is one."""

    #: Bytes handed to ``write()`` that the peer has not taken yet.
    unsent: int

    def start(self) -> None:
        """Begin to read; what arrives goes to ``Connection.data_received``."""

    def write(self, data: bytes) -> None:
        """Send now what the peer takes now, queue the rest. Never waits, never raises."""

    def send_message(self, message: str | bytes, opcode: int) -> int:
        """Do the same with a message in a frame of its own; return the size of the frame.

        Raises:
            UnicodeEncodeError: the text holds a lone surrogate.
        """

    def drain(self, limit: int) -> None:
        """Wait until at most ``limit`` bytes are unsent, or the connection is lost."""

    def sweep_in(self, seconds: float) -> None:
        """Have the keepalive look at its connections by then."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Read again."""

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back when others have had their turn."""

    def wait(self, timeout: float | None) -> bool | str | bytes:
        """Wait for ``wake()``; False when ``timeout`` seconds have passed first.

        A transport may return the next message itself rather than have it wait in line.
        """

    def wake(self) -> None:
        """Let the view go on that waits in ``wait()``, if one does."""

    def submit(self, job: Callable[..., bool]) -> None:
        """Call ``job`` where it may wait, beside other sockets' jobs, until it returns False."""

    def close(self, timeout: float, *, linger: bool) -> None:
        """Send what is queued, then close; with ``linger`` the peer is heard out first.

        After ``timeout`` seconds the descriptor is closed in any case.
        """

    def abort(self) -> None:
        """Close at once, whatever is queued."""

    def close_after(self, timeout: float) -> None:
        """Close in ``timeout`` seconds unless ``close()`` comes before."""

    def disown(self) -> None:
        """Let go of the socket in a forked child, without a word to the peer or the view."""

    def spawn(self, function: Callable[[], None]) -> Callable[[], None]:
        """Start ``function`` beside the view; return what ends it."""

    def detach(self) -> Detached:
        """Let go of the socket so that another process can go on with it.

        It has left its groups then and is closed for its view, which is not told. Nothing is sent.

        Raises:
            CannotMove: the socket cannot be moved, or not now. Nothing has changed.
        """


class Hooks(Protocol):
    """What the framework adds to a connection.

    Each ``websocket`` is a ``Connection``, which is not named here: it imports this module.
    """

    def open(self, websocket: Any) -> None:
        """Accept the handshake: called when a view uses the socket before the 101 is sent.

        It may leave the socket as it is: what is sent then waits for the 101.
        """

    #: Called when the 101 has gone out, and nothing else: what it sends is the first message. Must
    #: not wait. Not called for a socket that another process has opened. ``None`` sends nothing.
    opened: Callable[[Any], None] | None

    #: Called with the code before a close frame that the peer has not asked for: what it sends
    #: comes before that frame. Must neither wait nor raise. ``None`` sends nothing.
    closing: Callable[[Any, int], None] | None

    def heartbeat(self, websocket: Any) -> bytes:
        """Return whole frames that go out before a ping of the keepalive, in one write with it."""

    def before_wait(self) -> None:
        """The view is about to wait for a message."""

    def receive(self, websocket: Any, message: str | bytes) -> None:
        """Have an event view handle a message. Never raises."""

    def group_receive(self, websocket: Any, message: str | bytes) -> None:
        """Have an event view handle a message of a group. Never raises."""

    def disconnect(self, websocket: Any) -> None:
        """Tell an event view of the close, after its last message. Never raises."""

    def is_disconnecting(self, websocket: Any) -> bool:
        """Return whether an event view is just being told of the close."""

    @property
    def user_id(self) -> str | None:
        """Primary key of the signed-in user, as a string."""

    def leave(self, websocket: Any) -> None:
        """Nothing can be sent any more; must not wait."""

    def refresh_user(self) -> None:
        """Have the request's user read anew."""

    def retire(self) -> None:
        """A greenlet that handled messages is about to end."""

    def run_helper(self, websocket: Any, function: Callable[[], object]) -> None:
        """Run ``function`` as a helper of the view, and report what it raises."""

    def dump_json(self, value: Any, **options: Any) -> str:
        """Return a value as JSON text; ``options`` are those of ``json.dumps``."""


class DefaultHooks:
    """What ``Hooks`` may leave out: these send nothing."""

    __slots__ = ()

    opened: Callable[[Any], None] | None = None
    closing: Callable[[Any, int], None] | None = None

    def heartbeat(self, websocket: Any) -> bytes:
        """Return nothing to go out before a ping."""
        return b""
