"""The base of connections: what the handling of a common message touches.

In C, where there is a compiler: then ``receive()``, ``send()`` and iteration of a common message
run without a Python frame of ours. Otherwise in Python, which does the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import update_wrapper
from typing import Any, Final, TypeVar

__all__ = [
    "WHY_NOT",
    "Link",
    "adopt",
    "fast_receive",
    "fast_send",
    "forget",
    "in_words",
    "is_compiled",
    "messages",
    "owe",
    "readable",
    "serve",
]

Function = TypeVar("Function", bound=Callable[..., Any])


class _Link:
    """What the handling of a message touches; a base of ``Connection``.

    Attributes:
        codec: parses the bytes of the peer.
        hooks: the hooks of the framework.
        options: the limits of the connection.
        is_event_driven: whether messages go to an event view.
    """

    __slots__ = (
        "_bytes_in",
        "_bytes_out",
        "_descriptor",
        "_direct",
        "_framing",
        "_given",
        "_held",
        "_inbox",
        "_is_alive",
        "_is_busy",
        "_is_intercepting",
        "_is_paused",
        "_is_watched",
        "_messages_in",
        "_messages_out",
        "_owed",
        "_readiness",
        "_state",
        "_transport",
        "_waiter",
        "codec",
        "hooks",
        "is_event_driven",
        "options",
    )

    codec: Any
    hooks: Any
    options: Any
    is_event_driven: bool
    #: See ``interfaces.Transport``.
    _transport: Any
    #: See ``framing.py``.
    _framing: Any
    #: Messages that the view has not received yet; None or empty if there are none.
    _inbox: Any
    #: See ``held.py``.
    _held: Any
    #: What ``fileno()`` returns the descriptor of.
    _readiness: Any
    #: The greenlet that waits for a message.
    _waiter: Any
    #: See ``inbox.Traffic``.
    _messages_in: int
    _bytes_in: int
    _messages_out: int
    _bytes_out: int
    #: The numbers of the newest delivery that the socket is still to get, 0 if there is none, and
    #: of the newest that it got: see ``fanout.py``.
    _owed: int
    _given: int
    #: The descriptor to read plain frames from; -1 if the transport must read.
    _descriptor: int
    #: The descriptor to send plain frames to at once; -1 if the transport must send.
    _direct: int
    #: See ``interfaces.py``.
    _state: int
    #: Whether the peer has shown a sign of life since the last keepalive ping.
    _is_alive: bool
    #: Whether an event view is handling a message.
    _is_busy: bool
    #: Whether the view sees group messages before the peer does: see ``group_receive.py``.
    _is_intercepting: bool
    #: Whether reading is paused until the view has room.
    _is_paused: bool
    #: Whether the reactor watches the connection.
    _is_watched: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._inbox = self._held = self._readiness = self._waiter = None
        self._messages_in = self._bytes_in = self._messages_out = self._bytes_out = 0
        self._owed = self._given = 0
        self._descriptor = self._direct = -1
        self._state = 0
        self._is_alive = True
        self._is_busy = self.is_event_driven = self._is_intercepting = False
        self._is_paused = self._is_watched = False
        return self

    def _give_back(self) -> None:
        """Pass what has arrived of a frame to the codec, which has it here."""


def _adopt(hub: Any, buffer: bytearray, mark: str, plain: object) -> None:
    """Do nothing: Python does not need to know the thread."""


def _forget() -> None:
    """Do nothing."""


def _readable(link: Any) -> None:
    link._transport._readable()


def _owe(members: list[Any], start: int, number: int) -> None:
    for member in members[start:]:
        if not member._owed:
            member._given = number - 1
        member._owed = number


def _serve(
    delivery: Any,
    seconds: float,
    step: int,
    following: tuple[Any, ...] = (),
    joined: bytes = b"",
) -> bool:
    until = time.monotonic() + seconds
    members, number = delivery.members, delivery.number
    while delivery.at < len(members):
        member = members[delivery.at]
        delivery.at += 1
        if number and (not member._owed or member._given >= number):
            continue
        if not (following and delivery.serve_all(member, following, joined)):
            if number:
                member._given = number
                if member._owed == number:
                    member._owed = 0
            delivery.serve(member)
        if time.monotonic() >= until:
            break
    return bool(delivery.at >= len(members))


def _messages(link: Any) -> Iterator[str | bytes]:
    return iter(link.receive, None)


def _why_not(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == f"{__package__}._reactor":
        return "it was not compiled when the package was installed"
    return f"it cannot be loaded: {error}"


try:
    from ._reactor import Link, adopt, forget, messages, owe, readable, receive, send, serve

    WHY_NOT = ""
except ImportError as error:
    Link, adopt, forget = _Link, _adopt, _forget  # type: ignore[misc]
    messages, owe, readable, serve = _messages, _owe, _readable, _serve
    WHY_NOT = _why_not(error)

#: Whether the C extension is in use; if not, ``WHY_NOT`` is the reason.
is_compiled: Final[bool] = not WHY_NOT


def fast_receive(function: Function) -> Function:
    """Make C handle the common call of ``receive()``, and the function all others."""
    return _wrapped(receive, function) if is_compiled else function


def fast_send(function: Function) -> Function:
    """Make C handle the common call of ``send()``, and the function all others."""
    return _wrapped(send, function) if is_compiled else function


def _wrapped(kind: Any, function: Function) -> Function:
    wrapper: Any = update_wrapper(kind(function), function)
    return wrapper  # type: ignore[no-any-return]


def in_words() -> str:
    """Return which implementation is in use, and why: "C", or "Python, since it was not ..."."""
    language = "C" if is_compiled else f"Python, since {WHY_NOT}"
    return (
        language if sys.platform == "linux" else f"{language}; without epoll, as on all but Linux"
    )
