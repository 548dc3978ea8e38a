"""Sends a group's message to its members, in slices: other sockets have their turn between them.

A message to a few members is sent to all of them at once, and so is any message where there is no
hub. For many members, at most ``_SLICE`` seconds are spent; the rest of the delivery is put off to
the next turn of the hub. Neither sender nor members notice, because of what holds at any time:

- A delivery that is put off has a number. A socket has two: ``_owed`` is the number of the newest
  delivery that it is still to get, and ``_given`` that of the newest that it has got. If ``_owed``
  is 0, it is owed nothing, and ``_given`` means nothing.
- Whatever sends to a socket, closes it, moves it, holds it back, passes on what its peer sends, or
  makes it leave a group, first calls ``settle()`` if ``_owed`` is not 0. So a socket gets its
  messages in the order in which they were sent, as if none was ever put off.
- Each socket gets its deliveries in the order of their numbers. While it is being served,
  ``settle()`` does nothing for it, so what is sent because of a message follows that message.
- Nothing waits, and an error in one member does not affect the others.
- No view runs in ``deliver()``, not even one whose socket turns out to be lost: what it sends must
  not reach other members before the message. It runs soon afterwards.

Deliveries that are put off one after the other, to the same members, go to each of them in one
write. This changes nothing else: where a peer does not take all, each message is queued or refused
by itself.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from . import guard, hub_thread
from .framing import PLAIN
from .interfaces import OPEN
from .link import owe, serve

if TYPE_CHECKING:
    from ..protocol.prepared import PreparedMessage

__all__ = ["Admit", "Delivery", "deliver", "disown", "is_delivering", "settle"]

#: Returns whether a member gets a message that was put off.
Admit = Callable[[Any], bool]

#: Seconds of the hub for deliveries, until others have their turn.
_SLICE = 0.001

#: How many members C serves without a look at the clock.
_STEP = 64

#: Messages to at most this many members are never put off.
_FEW = 64

#: How many messages go to a member in one write, and how many bytes: more would be copied.
_JOINED = 32
_JOINED_BYTES = 2**14

#: How many messages to members may be put off. A sender that is ahead by more serves the oldest.
_MOST = 2**18


class Delivery:
    """A message on its way to the members of a group.

    Args:
        members: the members, a list that no one changes.
        message: the message.
        admit: see ``deliver()``.

    Attributes:
        number: its number if it is put off, else 0.
        at: the index of the next member.
    """

    __slots__ = ("_rest", "admit", "at", "members", "message", "number")

    def __init__(self, members: list[Any], message: PreparedMessage, admit: Admit | None) -> None:
        self.members = members
        self.message = message
        self.admit = admit
        self.number = self.at = 0
        self._rest: frozenset[Any] | None = None

    def __contains__(self, member: Any) -> bool:
        """Return whether a member was among the rest when the delivery was put off."""
        if self._rest is None:
            self._rest = frozenset(self.members[self.at :])
        return member in self._rest

    def serve(self, member: Any) -> None:
        """Send the message to one member, whatever its state is; for ``link.serve()``."""
        is_served = member in _served
        try:
            is_late = bool(self.number)
            if not is_late and _pending and member._owed:
                is_late = True
                settle(member)
            _served.add(member)
            if self.admit is None or not is_late or self.admit(member):
                member.deliver(self.message)
        except Exception:
            guard.report()
        finally:
            if not is_served:
                _served.discard(member)

    def serve_all(self, member: Any, following: tuple[Delivery, ...], joined: bytes) -> bool:
        """Send a member this message and those that follow in one write, if it can get them all.

        Args:
            member: the member, which is owed this message.
            following: the deliveries whose messages follow.
            joined: the frames of all.

        Returns:
            Whether it got them.
        """
        newest = following[-1].number
        if (
            member._owed < newest
            or member._framing is not PLAIN
            or member._direct < 0
            or member._state != OPEN
            or member._held is not None
            or member._is_intercepting
        ):
            return False
        member._given = newest
        if member._owed == newest:
            member._owed = 0
        sent = member._transport.send_once(joined)
        if sent < len(joined):
            self.finish_all(member, following, sent)
        else:
            member._messages_out += len(following) + 1
            member._bytes_out += len(joined)
        return True

    def finish_all(self, member: Any, following: tuple[Delivery, ...], sent: int) -> None:
        """Finish a write of several messages, of which the peer has not taken all.

        Each message is then queued or refused as if it had been sent alone.

        Args:
            member: the member.
            following: the deliveries whose messages follow in the write.
            sent: how many bytes are sent; negative if that has failed.
        """
        at, left = 0, max(sent, 0)
        try:
            frames = [self.message.plain, *(each.message.plain for each in following)]
            while at < len(following) and left >= len(frames[at]):
                left -= len(frames[at])
                at += 1
            member._messages_out += at + 1
            member._bytes_out += sum(map(len, frames[: at + 1]))
            member._transport.finish_write(frames[at], min(left, sent))
        except Exception:
            guard.report()
        for each in following[at:]:
            each.serve(member)


# The deliveries that are put off, and how many messages to members they were.
_pending: Final[deque[Delivery]] = deque()
_left = 0

# The number of the newest of them, and whether the hub will continue.
_number = 0
_is_scheduled = False

# How many calls of deliver() are running, one in another.
_depth = 0

# The members that are being served: more than one if a message causes another one.
_served: Final[set[Any]] = set()


def deliver(members: list[Any], message: PreparedMessage, admit: Admit | None = None) -> None:
    """Send a message to members; the thread of the hub must call it. Never waits.

    Args:
        members: the members, a list that no one changes.
        message: the message.
        admit: asked for each member that gets the message late, or late ones just before it: what
            they have changed in the meantime may keep it from this one.
    """
    global _depth
    delivery = Delivery(members, message, admit)
    _depth += 1
    try:
        if len(members) <= _FEW or not hub_thread.has_hub():
            serve(delivery, math.inf, _STEP)
        elif _pending or not serve(delivery, _SLICE, _STEP):
            _put_off(delivery)
    finally:
        _depth -= 1


def is_delivering() -> bool:
    """Return whether a message is on its way to members that nothing shows to be owed it."""
    return _depth > 0


def _put_off(delivery: Delivery) -> None:
    global _number, _left
    _number += 1
    delivery.number = _number
    owe(delivery.members, delivery.at, _number)
    _pending.append(delivery)
    _left += len(delivery.members)
    try:
        while _left > _MOST and _pending:
            _serve_oldest(math.inf)
    finally:
        _schedule()


def _serve_oldest(seconds: float) -> None:
    global _left
    delivery = _pending[0]
    # It may be served in there, too: by someone who sends because of its message.
    if (
        serve(delivery, seconds, _STEP, *_following(delivery))
        and _pending
        and _pending[0] is delivery
    ):
        _pending.popleft()
        _left -= len(delivery.members)


def _following(delivery: Delivery) -> tuple[tuple[Delivery, ...], bytes]:
    """Return the deliveries to send together with the oldest one, and the frames of all."""
    found, frames = [], [delivery.message.plain]
    size = len(frames[0])
    for each in islice(_pending, 1, _JOINED) if delivery.admit is None else ():
        size += len(each.message.plain)
        if size > _JOINED_BYTES or each.admit is not None or each.members != delivery.members:
            break
        found.append(each)
        frames.append(each.message.plain)
    return tuple(found), b"".join(frames)


def _schedule() -> None:
    global _is_scheduled
    if _pending and not _is_scheduled:
        _is_scheduled = True
        hub_thread.soon(_continue)


def _continue() -> None:
    global _is_scheduled
    _is_scheduled = False
    until = time.monotonic() + _SLICE
    try:
        while _pending:
            _serve_oldest(until - time.monotonic())
            if time.monotonic() >= until:
                break
    finally:
        _schedule()


def settle(member: Any) -> None:
    """Send a socket at once what it is owed. Never waits.

    Does nothing in a thread that sockets do not belong to: they refuse what it wants to do next.
    """
    if not (_pending and member._owed) or member in _served or hub_thread.is_foreign():
        return
    for delivery in tuple(_pending):
        if member._given < delivery.number and member in delivery:
            member._given = delivery.number
            if member._owed == delivery.number:
                member._owed = 0
            delivery.serve(member)
            if not member._owed:
                break


def disown() -> None:
    """Forget all deliveries, in a forked child: the sockets belong to the parent."""
    global _left, _is_scheduled
    _pending.clear()
    _served.clear()
    _left, _is_scheduled = 0, False
