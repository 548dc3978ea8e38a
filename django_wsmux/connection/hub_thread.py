"""The thread of gevent's hub, which owns the sockets of a process.

Native threads (gevent's ``threadpool``, unpatched ``threading``, a library's own) run beside it. If
two threads wrote to one socket, their frames would be mixed, so a socket refuses all other threads.
Group messages are handed over to the hub, because no one waits for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

__all__ = ["ADVICE", "adopt", "forget", "hand_over", "has_hub", "is_foreign", "require", "soon"]

#: The advice in the error.
ADVICE: Final = (
    "the socket belongs to the thread of gevent's hub, and this is another one: use Group.send(), "
    "or get hub = gevent.get_hub() in the view and call "
    "hub.loop.run_callback_threadsafe(gevent.spawn, websocket.send, message) here"
)

# Returns the native thread, even in a patched process; the hub's thread; calls into that thread.
_get_ident: Callable[[], int] | None = None
_owner = 0
_call: Callable[..., object] | None = None
_soon: Callable[[Callable[[], None]], object] | None = None


def adopt(
    get_ident: Callable[[], int],
    call: Callable[..., object],
    soon: Callable[[Callable[[], None]], object],
) -> None:
    """Make the current thread the owner of the sockets.

    Args:
        get_ident: returns the id of the native thread.
        call: schedules a call of a function, with arguments, in the current thread.
        soon: schedules a call of a function in the hub after other sockets have had their turn.
    """
    global _get_ident, _owner, _call, _soon
    _get_ident, _owner, _call, _soon = get_ident, get_ident(), call, soon


def forget() -> None:
    """Forget the thread, in a forked child, which may run in a copy of another one."""
    global _get_ident, _call, _soon
    _get_ident = _call = _soon = None


def is_foreign() -> bool:
    """Return whether sockets belong to another thread."""
    return _get_ident is not None and _get_ident() != _owner


def require() -> None:
    """Check that sockets belong to this thread.

    Raises:
        RuntimeError: they belong to another thread.
    """
    if is_foreign():
        raise RuntimeError(ADVICE)


def hand_over(function: Callable[..., object], *args: Any) -> None:
    """Schedule a call in the thread of the hub, and return at once."""
    assert _call is not None
    _call(function, *args)


def has_hub() -> bool:
    """Return whether there is a hub, for ``soon()``."""
    return _soon is not None


def soon(function: Callable[[], None]) -> None:
    """Schedule a call in the hub, after other sockets have had their turn."""
    assert _soon is not None
    _soon(function)
