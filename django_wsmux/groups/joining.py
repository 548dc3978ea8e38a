"""Joins groups with a history: replays the messages that a client missed, or tells it of a gap.

The replay is complete or does not happen: all its messages are read, and are within the limits,
before the decision is made. The socket's messages are held back meanwhile, so later messages follow
the replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..connection.counters import count, counters
from ..exceptions import BackendUnavailable
from ..history.sequence import offset_in
from ..history.store import Reading
from ..protocol import positions
from ..protocol.frames import TEXT
from ..protocol.positions import Position, moment_of
from ..protocol.prepared import PreparedMessage
from ..protocol.v1 import BROUGHT_KEY, Brought, shown
from . import envelope
from .excluding import variant_for
from .members import Key, name_of, prefix_of
from .numbered import is_of, most_of, numbered_of
from .pubsub import members, pubsub
from .results import NOT_ASKED, Recovery
from .sequencer import limit, sequencer
from .tracked import Tracked

if TYPE_CHECKING:
    from ..connection.connection import Connection

__all__ = ["Place", "join", "place_of", "rejoin"]

_EXCLUDED: Final = attrgetter("excluded")

#: The position of a member without a known position; any message after it causes a gap.
_NOWHERE: Final = Position("0.0", 0)


class Place(NamedTuple):
    """Where a client is among the messages of a group.

    Attributes:
        since: the last position that it has, or ``None``.
        alias: the name of the group that it sees; ``None`` for its own name.
        is_silent: it knows that it is in the group, so it is told only of a gap.
    """

    since: Position | None
    alias: str | None = None
    is_silent: bool = False


class _Waiting:
    """Admits a member that has waited for the store."""

    __slots__ = ("_tracked", "_websocket", "place")

    def __init__(self, tracked: Tracked, websocket: Connection, place: Place) -> None:
        self._tracked = tracked
        self._websocket = websocket
        self.place = place

    def __call__(self) -> None:
        websocket, tracked = self._websocket, self._tracked
        websocket.hold()
        try:
            with sequencer.turn(tracked):
                if websocket in tracked.waiting:
                    _admit(tracked, websocket, self.place)
        finally:
            websocket.release()


def join(
    key: Key,
    websocket: Connection,
    info: Any = None,
    since: Position | None = None,
    alias: str | None = None,
) -> Recovery:
    """Add a socket to a group with a history, and replay the messages that its client missed.

    Args:
        key: the key of the group.
        websocket: the socket.
        info: the member's ``info``.
        since: the last position that the client has; ``None`` for the position that it sent.
        alias: the name of the group that the client sees; ``None`` for its own name.

    Raises:
        BackendUnavailable: this process can never receive from others. The socket did not join.
    """
    if since is None:
        since = _brought(key, websocket, alias)
    is_member = members.has(key, websocket)
    websocket.hold()
    try:
        pubsub.add(key, websocket, info)
        tracked = sequencer.tracked(key)
        if is_member and since is None:
            # Its messages continue.
            if alias is not None and tracked is not None:
                position = None if websocket in tracked.waiting else str(tracked.position)
                websocket.hooks.group_renamed(websocket, name_of(key), alias, position)
            return NOT_ASKED
        if tracked is None or not members.has(key, websocket):
            return NOT_ASKED  # closed meanwhile
        recovery = _admit_soon(tracked, websocket, Place(since, alias))
        if recovery is None:
            websocket.hooks.group_joined(websocket, name_of(key), alias, None, None)
        return recovery or NOT_ASKED
    finally:
        websocket.release()


def place_of(key: Key, websocket: Connection, held: Sequence[PreparedMessage]) -> Place | None:
    """Return where a member is, to continue in another process; ``None`` without a history.

    Args:
        key: the key of the group.
        websocket: the member.
        held: messages that it has not got yet.
    """
    tracked = sequencer.tracked(key)
    if tracked is None:
        return None
    waiting = tracked.waiting.get(websocket)
    if isinstance(waiting, _Waiting):
        return waiting.place
    for message in held:
        found = numbered_of(key, message)
        if found is not None:
            return Place(Position(found.epoch, found.offset - 1), is_silent=True)
    return Place(tracked.behind.get(websocket, tracked.position), is_silent=True)


def rejoin(key: Key, websocket: Connection, info: Any, place: Place) -> None:
    """Add a socket that comes from another process to a group with a history.

    Args:
        key, websocket, info: see ``join()``.
        place: the result of ``place_of()`` there.

    Raises:
        BackendUnavailable: this process can never receive from others. The socket did not join.
    """
    websocket.hold()
    try:
        pubsub.add(key, websocket, info)
        tracked = sequencer.tracked(key)
        if tracked is not None and members.has(key, websocket):
            _admit_soon(tracked, websocket, place)
    finally:
        websocket.release()


def _admit_soon(tracked: Tracked, websocket: Connection, place: Place) -> Recovery | None:
    """Admit a member now; return ``None`` if it waits until the store can be read."""
    try:
        with sequencer.turn(tracked):
            # If members wait for the store, do not wait for it here: others follow.
            if not tracked.waiting:
                return _admit(tracked, websocket, place)
    except BackendUnavailable:
        pass
    if place.since is None and not tracked.is_value:
        # Other processes may send messages meanwhile. The client has no position to continue from.
        place = place._replace(since=_NOWHERE)
    with sequencer.lock:
        if sequencer.is_over(tracked) or not members.has(tracked.key, websocket):
            return NOT_ASKED  # left or closed meanwhile
        tracked.note_waiting(websocket, _Waiting(tracked, websocket, place))
        websocket.discard_held(partial(is_of, tracked.key))
    sequencer.read_later(tracked)
    return None


def _brought(key: Key, websocket: Connection, alias: str | None) -> Position | None:
    """Return the position that the client sent for a group, only once."""
    brought: Brought | None = websocket.environ.get(BROUGHT_KEY)
    if brought is None:
        return None
    name = _name(key, alias, brought)
    if name[0] == "@" and name not in brought.names:
        return None  # a position without a name is for a group that the view joins
    text = brought.take(name)
    return None if text is None else positions.parse(text)


def _name(key: Key, alias: str | None, brought: Brought) -> str:
    """Return the name under which a client sent the position of a group, if it did."""
    name = shown(name_of(key))
    # A page that does not know the alias uses the name itself.
    return alias if alias and name not in {*brought.names, *brought.recovered} else name


def _admit(tracked: Tracked, websocket: Connection, place: Place) -> Recovery:
    """Make a member live. The caller holds the turn of the group, and the socket's messages.

    Raises:
        BackendUnavailable: the store cannot be read.
    """
    reading, since = None, place.since
    most = websocket.options.max_unsent_bytes
    while True:
        with sequencer.lock:
            # The lock is kept until the member is live: otherwise the window may change.
            if sequencer.is_over(tracked) or not members.has(tracked.key, websocket):
                tracked.end_waiting(websocket)
                return NOT_ASKED  # left or closed meanwhile
            if reading is None:
                is_ready = _is_covered(tracked, since, most)
            else:
                is_ready = _is_current(tracked, reading)
            if is_ready:
                return _make_live(tracked, websocket, place, reading)
        reading = _read(tracked, most, is_row_enough=since is None and not tracked.is_value)


def _make_live(
    tracked: Tracked, websocket: Connection, place: Place, reading: Reading | None
) -> Recovery:
    """Send the messages that a member missed, or tell it of a gap; the lock must be held.

    Args:
        tracked: the group.
        websocket: the member.
        place: where its client is.
        reading: a current reading; ``None`` if the window has all messages that the member needs.
    """
    since, alias, is_silent = place
    if reading is not None:
        tracked.refill(reading)
    start = _start_of(tracked, since, reading)
    messages = [] if start is None else tracked.window.after(start)
    most = websocket.options.max_unsent_bytes
    if tracked.window.payload > most and not tracked.is_value and sum(map(len, messages)) > most:
        start, messages = None, []
    own: list[PreparedMessage] = [*messages]
    if any(map(_EXCLUDED, messages)):
        variants = [variant_for(each, each.excluded, websocket) for each in messages]
        own = [each for each in variants if each is not None]
    websocket.replay(own, partial(_is_repeated, tracked.key, tracked.position))
    tracked.end_waiting(websocket)
    tracked.end_behind(websocket)
    sequencer.use(tracked)
    recovered = None if since is None else start is not None
    brought: Brought | None = websocket.environ.get(BROUGHT_KEY)
    if brought is not None:
        brought.note(_name(tracked.key, alias, brought), recovered)
    counters["history_replayed"] += len(own)
    if recovered is False:
        count("history_gaps")
    name, position = name_of(tracked.key), str(tracked.position)
    if not is_silent:
        websocket.hooks.group_joined(websocket, name, alias, position, recovered)
    elif recovered is False:
        websocket.hooks.group_gap(websocket, name, position)
    return Recovery(recovered, len(own))


def _read(tracked: Tracked, max_bytes: int, *, is_row_enough: bool) -> Reading:
    """Read the store, and deliver missing messages to the live members.

    Args:
        tracked: the group.
        max_bytes: a member that missed more is told of a gap.
        is_row_enough: whether no messages are needed.
    """
    most = 0 if is_row_enough else limit()
    news = tracked.news
    # The store counts envelopes.
    head = len(envelope.pack(TEXT, name_of(tracked.key), b"", prefix_of(tracked.key)))
    enough = max_bytes + most * head + 1
    reading = sequencer.store().read(tracked.stream, 0, most, max_bytes=enough, newest=True)
    sequencer.apply(tracked, reading, news)
    if tracked.is_behind:
        sequencer.catch_up(tracked)
    return reading


def _is_current(tracked: Tracked, reading: Reading) -> bool:
    """Return whether a reading and the window have all messages up to the last delivered one."""
    if tracked.is_stale:
        return False
    if reading.epoch != tracked.epoch:
        return not (reading.epoch or tracked.offset)
    return not reading.entries or tracked.window.start <= reading.top


def _is_covered(tracked: Tracked, since: Position | None, max_bytes: int) -> bool:
    """Return whether the window suffices for a member, so that the store need not be read."""
    window = tracked.window
    if not tracked.has_begun or tracked.is_stale:
        return False
    if tracked.is_value:
        is_known = since == tracked.position
        return is_known or not tracked.offset or bool(len(window))
    if since is None:
        return True
    if since.epoch != tracked.epoch:
        # An earlier epoch is a gap, whatever the store contains.
        return bool(since.offset) and moment_of(since.epoch)[1] < moment_of(tracked.epoch)[1]
    if since.offset < window.start:
        # So are more messages than the limits allow.
        most = most_of(tracked.key)
        return len(window) >= most or window.payload > max_bytes
    if since.offset > tracked.offset:
        return False
    # Messages that are older than the setting allows may have been deleted.
    oldest = window.first_after(since.offset)
    return oldest is None or tracked.is_kept(oldest)


def _start_of(tracked: Tracked, since: Position | None, reading: Reading | None) -> int | None:
    """Return the offset after which a member's messages begin; ``None`` for a gap."""
    if tracked.is_value:
        # Only the newest message, unless the client has it.
        return tracked.offset if since == tracked.position else max(tracked.offset - 1, 0)
    if since is None:
        return tracked.offset
    if reading is not None and reading.epoch in (tracked.epoch, ""):
        start = offset_in(reading, since)
        is_same = since.epoch == tracked.epoch and since.offset <= tracked.offset
        if start is None and is_same and since.offset > reading.top:
            start = since.offset  # delivered since the store was read
    else:
        start = since.offset if since.epoch == tracked.epoch else None
    if start is None or not tracked.window.start <= start <= tracked.offset:
        return None
    return start


def _is_repeated(key: Key, position: Position, message: PreparedMessage) -> bool:
    """Return whether a message of a group is not newer than a position."""
    found = numbered_of(key, message)
    if found is None:
        return False
    return found.epoch != position.epoch or found.offset <= position.offset
