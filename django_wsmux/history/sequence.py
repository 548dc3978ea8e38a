"""Decides what a process does with the next message of a stream. No I/O.

Each process delivers each message of a stream once, in the order of the offsets, even if the
transport loses, duplicates or reorders messages::

    next offset        deliver it, and those after it that came early
    lower or equal     a duplicate: drop it
    higher             a hole: keep it for a moment, since the missing one may only be late
    another epoch      unknown: the row of the store decides

A ``Reading`` of the store fills a hole, or begins a new epoch.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, Generic, NamedTuple, TypeVar

from ..protocol.positions import Position, epoch_of, moment_of
from .store import IDLE_SECONDS, Reading

__all__ = [
    "DELIVER",
    "DROP",
    "HOLE",
    "STALE",
    "News",
    "Sequence",
    "Verdict",
    "offset_in",
    "position_of",
]

Message = TypeVar("Message")

#: The most messages that are kept while one before them is missing.
_MAX_EARLY: Final = 64


class Verdict(Enum):
    """What to do with a message that has arrived."""

    DELIVER = auto()
    DROP = auto()
    #: The store must be read, unless the missing message comes at once.
    HOLE = auto()
    #: The store must be read.
    STALE = auto()


# Looking up a member of an enum costs several times as much as a global name.
DELIVER: Final = Verdict.DELIVER
DROP: Final = Verdict.DROP
HOLE: Final = Verdict.HOLE
STALE: Final = Verdict.STALE


def position_of(reading: Reading) -> Position:
    """Return the position of the newest message, or a position of this moment if there is none."""
    if reading.epoch:
        return Position(reading.epoch, reading.top)
    return Position(epoch_of(reading.store, reading.now), 0)


def offset_in(reading: Reading, since: Position) -> int | None:
    """Return the offset in the stream's current epoch from which a receiver continues.

    Args:
        reading: the row of the stream.
        since: the last position of the receiver. Offset 0 may be the position before the first
            message of a stream that had no row: the receiver continues if the row was made later,
            and the stream was never forgotten since.

    Returns:
        The offset; ``None`` if messages are missing, or may be missing.
    """
    offset = since.offset
    if since.epoch != reading.epoch:
        store, moment = moment_of(since.epoch)
        if offset or store != reading.store or moment > reading.now:
            return None
        if reading.now - moment > IDLE_SECONDS * 1_000_000:
            return None  # a row may have existed meanwhile
        if reading.epoch and (reading.is_forgotten or moment_of(reading.epoch)[1] < moment):
            return None
    if offset > reading.top or offset + 1 < reading.first:
        return None
    return offset


class News(NamedTuple):
    """Counts the reasons to read the store.

    Attributes:
        doubts: messages of another epoch.
        forgotten: how often the stream was forgotten.
        messages: messages that were not delivered.
    """

    doubts: int
    forgotten: int
    messages: int


_NO_NEWS: Final = News(0, 0, 0)


class Sequence(Generic[Message]):
    """The state of a stream's delivery in one process.

    Attributes:
        epoch: the epoch of the last delivered message; ``""`` before ``begin()``.
        offset: the offset of that message.
        target: the highest offset of the epoch that is known to exist.
        news: the reasons to read the store. Note them before a reading, and pass them to
            ``advance()``.
    """

    # There are as many streams as sockets, perhaps: what most of them lack is made when needed.
    __slots__ = ("_early", "_is_stale", "epoch", "news", "offset", "target")

    def __init__(self) -> None:
        self.epoch = ""
        self.offset = 0
        self.target = 0
        self.news = _NO_NEWS
        self._is_stale = True
        self._early: dict[int, Message] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the store has been read at least once."""
        return bool(self.epoch)

    @property
    def position(self) -> Position:
        """The position of the last delivered message."""
        return Position(self.epoch, self.offset)

    @property
    def is_stale(self) -> bool:
        """Whether the row of the store must be read before anything else is delivered."""
        return self._is_stale

    @property
    def is_behind(self) -> bool:
        """Whether messages are known to exist that were not delivered."""
        return self._is_stale or self.target > self.offset

    def doubt(self, *, is_forgotten: bool = False) -> None:
        """Deliver nothing more until the row of the store has been read.

        Args:
            is_forgotten: whether the stream was forgotten. Readings that began earlier are void.
        """
        self._is_stale = True
        doubts, forgotten, messages = self.news
        self.news = News(doubts + 1, forgotten + is_forgotten, messages)

    def is_void(self, news: News) -> bool:
        """Return whether the stream was forgotten after a reading began."""
        return news.forgotten != self.news.forgotten

    def _note_message(self, offset: int) -> None:
        self.news = self.news._replace(messages=self.news.messages + 1)
        self.target = max(self.target, offset)

    def accept(self, epoch: str, offset: int, message: Message) -> Verdict:
        """Decide on a message that has arrived; after DELIVER, call ``early()``."""
        if epoch != self.epoch:
            # Messages may also arrive before the first reading.
            self.doubt()
            return STALE
        if offset <= self.offset:
            return DROP
        if offset == self.offset + 1 and not self._is_stale:
            self.delivered(offset)
            return DELIVER
        self._note_message(offset)
        if self._early is None:
            self._early = {}
        if len(self._early) < _MAX_EARLY:
            self._early[offset] = message
        return STALE if self._is_stale else HOLE

    def early(self) -> Message | None:
        """Return the next message if it arrived early, and count it as delivered."""
        message = None if self._early is None else self._early.get(self.offset + 1)
        if message is not None:
            self.delivered(self.offset + 1)
        return message

    def note(self, epoch: str, top: int) -> bool:
        """Note the stream's newest position in the store; return whether messages are missing."""
        if epoch != self.epoch:
            self.doubt()
        elif top > self.target:
            self._note_message(top)
        return self.is_behind

    def advance(self, reading: Reading, news: News) -> bool:
        """Compare a reading with the delivered messages; return whether there is a gap.

        Afterwards the entries above ``offset`` are to be delivered; call ``delivered()`` for each.
        After a gap the sequence has begun again before the oldest message that is kept. The first
        reading begins after its newest message, and has no gap.

        Args:
            reading: the reading.
            news: ``news`` from before the reading.
        """
        is_latest = news == self.news
        if news.doubts == self.news.doubts:
            self._is_stale = False
        if self.has_begun and reading.epoch == self.epoch and reading.top <= self.offset:
            # More messages may have been delivered during the reading.
            if is_latest:
                self.target = self.offset
            return False
        is_gap = False
        epoch, start = position_of(reading)
        if self.has_begun:
            found = offset_in(reading, self.position)
            is_gap = found is None
            start = reading.first - 1 if found is None else found
            if not reading.epoch and not is_gap:
                epoch = self.epoch
        if is_gap or epoch != self.epoch:
            # After a gap they may be older than what is delivered next.
            self._early = None
        if epoch != self.epoch:
            self.target = 0
        self.epoch, self.offset = epoch, start
        self.target = reading.top if is_latest else max(self.target, reading.top)
        return is_gap

    def delivered(self, offset: int) -> None:
        """Note that an entry of a reading is delivered."""
        self.offset = offset
        if offset >= self.target:
            self.target = offset
        if self._early is not None:
            self._early.pop(offset, None)
            if not self._early:
                self._early = None
