"""Which open sockets an operator means, and a page of them in an order.

A question carries both to each process, which then looks at its own sockets: a few hundred at a
time, with other work in between. It answers with the rows of a page and with numbers, however many
sockets it has.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeVar

from ..connection.connection import Connection
from ..connection.registry import open_sockets, slices
from ..groups.members import Key, name_of, prefix_of
from ..groups.pubsub import members
from ..protocol.environ import wire_path

__all__ = [
    "ORDERS",
    "Filter",
    "Page",
    "Position",
    "id_of",
    "is_match",
    "opened_of",
    "position_of",
    "take_page",
]

#: Sockets to look at before others have their turn: takes less than a millisecond.
_SLICE: Final = 250

#: The time since 1970 when ``time.monotonic()`` was 0.
_EPOCH: Final = time.time() - time.monotonic()

_SALT: Final = secrets.randbits(64)

#: The place of a socket in an order: its value, when it opened, its id.
Position = tuple[float, float, str]

_Item = TypeVar("_Item")

#: Orders by name, as the value of an ``OpenSocket``, or what stands for it. A name with a minus
#: before it is the reverse order.
ORDERS: Final[dict[str, Callable[[Connection], float]]] = {
    "age": lambda websocket: -opened_of(websocket),
    "messages_in": lambda websocket: websocket.traffic.messages_in,
    "messages_out": lambda websocket: websocket.traffic.messages_out,
    "bytes_in": lambda websocket: websocket.traffic.bytes_in,
    "bytes_out": lambda websocket: websocket.traffic.bytes_out,
    "unread": lambda websocket: websocket.unread,
    "unsent": lambda websocket: websocket.unsent,
}


def id_of(websocket: Connection) -> str:
    """Return what identifies a socket in the answers of this process, as long as it is open."""
    hooks: Any = websocket.hooks
    # The address of the object alone would be that of another socket later.
    return f"{hash((_SALT, id(websocket), hooks.opened_at)) & (2**64 - 1):016x}"


def opened_of(websocket: Connection) -> float:
    """Return when a socket opened, in seconds since 1970."""
    hooks: Any = websocket.hooks
    opened: float = _EPOCH + hooks.opened_at
    return opened


def is_match(name: str, pattern: str) -> bool:
    """Return whether a pattern, as in ``WEBSOCKET_HISTORY``, stands for the name of a group."""
    if name == pattern:
        return True
    return pattern.startswith("@") >= name.startswith("@") and fnmatchcase(name, pattern)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which sockets are meant: those that fit all that is given.

    Attributes:
        group: name of a group that they are in, or a pattern; ``None`` for any.
        prefix: prefix of that group, or of the user's; ``None`` for any.
        user_id: primary key of their user, as a string.
        text: part of their path, or of the address of their peer, in any case.
        older_than: they are open for so many seconds at least.
        younger_than: they are open for less than so many seconds.
        ids: they have one of these ids; see ``OpenSocket``.
        ago: the answer is as of so many seconds ago, without the sockets that have opened since.
    """

    group: str | None = None
    prefix: str | None = None
    user_id: str | None = None
    text: str = ""
    older_than: float = 0.0
    younger_than: float | None = None
    ids: Collection[str] | None = None
    ago: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the filter as keyword arguments in values of JSON."""
        return {**asdict(self), "ids": None if self.ids is None else list(self.ids)}

    def matching(self) -> Iterator[Connection]:
        """Yield the sockets of this process; let other greenlets run in between."""
        # A socket may have joined before its 101, and may close while others are looked at.
        for some in slices(self._candidates(), _SLICE):
            yield from (each for each in some if each in open_sockets and self._has(each))

    def _candidates(self) -> list[Connection]:
        if self.group is None:
            return list(open_sockets)
        keys = [key for key in members.groups() if self._is_wanted(key)]
        return list(dict.fromkeys(each for key in keys for each in members.of(key)))

    def _is_wanted(self, key: Key) -> bool:
        assert self.group is not None
        return self.prefix in (None, prefix_of(key)) and is_match(name_of(key), self.group)

    def _has(self, websocket: Connection) -> bool:
        hooks: Any = websocket.hooks
        age = hooks.age - self.ago
        if age < self.older_than or (self.younger_than is not None and age >= self.younger_than):
            return False
        if self.user_id is not None and (
            hooks.user_id != self.user_id or self.prefix not in (None, hooks.prefix)
        ):
            return False
        if self.text:
            text = self.text.casefold()
            if text not in wire_path(websocket.environ).casefold() and text not in hooks.address:
                return False
        return self.ids is None or id_of(websocket) in self.ids


class Page(NamedTuple):
    """Some sockets of this process.

    Attributes:
        total: how many match.
        preceding: how many of them stand before the page, or at its ``after``.
        sockets: those of the page, in its order.
    """

    total: int
    preceding: int
    sockets: list[Connection]


def position_of(order: str, value: float, opened: float, socket_id: str) -> Position:
    """Return the place of a socket in an order.

    Args:
        order: name of the order.
        value: what it is in that order.
        opened: when it opened.
        socket_id: its id.
    """
    return (-value if order.startswith("-") else value), opened, socket_id


def take_page(
    found: Iterable[Connection],
    limit: int,
    order: str = "-age",
    after: Position | None = None,
    before: Position | None = None,
) -> Page:
    """Return a page of sockets.

    Args:
        found: the sockets.
        limit: how many the page has at most.
        order: a name of ``ORDERS``, perhaps with a minus before it.
        after: the page begins behind this place.
        before: or it ends before this place.
    """
    value_of = ORDERS[order.removeprefix("-")]
    total = preceding = 0
    best: list[tuple[Position, Connection]] = []
    for websocket in found:
        total += 1
        at = position_of(order, value_of(websocket), opened_of(websocket), id_of(websocket))
        if after is not None and at <= after:
            preceding += 1
        elif before is None or at < before:
            best.append((at, websocket))
            preceding += before is not None
        if len(best) >= limit + 2 * _SLICE:
            best = _cut(best, limit, at_end=before is not None)
    best = _cut(best, limit, at_end=before is not None)
    if before is not None:
        preceding -= len(best)
    return Page(total, preceding, [websocket for _, websocket in best])


def _cut(
    rows: list[tuple[Position, _Item]], limit: int, *, at_end: bool
) -> list[tuple[Position, _Item]]:
    """Return the first or the last rows, in order."""
    rows.sort(key=itemgetter(0))
    return rows[max(len(rows) - limit, 0) :] if at_end else rows[:limit]
