"""The thread of gevent's hub, to which the sockets of a process belong.

Native threads (gevent's ``threadpool``, unpatched ``threading``, a library's own) run beside it.
Two threads that write to one socket would mix their frames, so a socket refuses all but its own. A
group's messages are handed over, as no one waits for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

__all__ = ["ADVICE", "adopt", "forget", "hand_over", "is_foreign", "require"]

#: What to do instead.
ADVICE: Final = (
    "this is not the thread of gevent's hub, to which the socket belongs: send by Group.send(), or "
    "get hub = gevent.get_hub() in the view and call "
    "hub.loop.run_callback_threadsafe(gevent.spawn, websocket.send, message) here"
)

# How to tell threads apart, even in a patched process; which one is the hub's; how to call it.
_get_ident: Callable[[], int] | None = None
_owner = 0
_call: Callable[..., object] | None = None


def adopt(get_ident: Callable[[], int], call: Callable[..., object]) -> None:
    """Note that sockets belong to the current thread.

    Args:
        get_ident: returns the number of a native thread.
        call: has a function called, with arguments, in the current thread soon.
    """
    global _get_ident, _owner, _call
    _get_ident, _owner, _call = get_ident, get_ident(), call


def forget() -> None:
    """Forget the thread, in a forked child: it may be another one's copy."""
    global _get_ident, _call
    _get_ident = _call = None


def is_foreign() -> bool:
    """Return whether sockets belong to another thread."""
    return _get_ident is not None and _get_ident() != _owner


def require() -> None:
    """Refuse a thread that sockets do not belong to.

    Raises:
        RuntimeError: it is another one.
    """
    if is_foreign():
        raise RuntimeError(ADVICE)


def hand_over(function: Callable[..., object], *args: Any) -> None:
    """Have something called in the thread of the hub; returns at once."""
    assert _call is not None
    _call(function, *args)
