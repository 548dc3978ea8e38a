"""Sequence: which messages of a stream are delivered, in any order of arrival."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from django_wsmux.history.sequence import Sequence, Verdict, offset_in, position_of
from django_wsmux.history.store import IDLE_SECONDS, Entry, Reading
from django_wsmux.protocol.positions import Position, epoch_of

EPOCH = epoch_of("store", 100)


def reading(top: int, *, since: int = 0, first: int = 1, epoch: str = EPOCH) -> Reading:
    """Return the row of a stream, and its messages after an offset."""
    entries = tuple(Entry(n, 0.0, b"%d" % n) for n in range(max(since + 1, first), top + 1))
    return Reading("store", 1000, epoch, top, first, False, entries)


def began(top: int = 0) -> Sequence[int]:
    """Return a sequence that has begun after a message."""
    sequence: Sequence[int] = Sequence()
    assert not sequence.has_begun
    assert not sequence.advance(reading(top), sequence.news)
    assert sequence.position == (EPOCH, top)
    assert not sequence.is_behind
    return sequence


def test_in_order() -> None:
    """The next message is delivered; a delivered message is dropped."""
    sequence = began(4)
    assert sequence.accept(EPOCH, 5, 5) is Verdict.DELIVER
    assert sequence.accept(EPOCH, 5, 5) is Verdict.DROP
    assert sequence.accept(EPOCH, 4, 4) is Verdict.DROP
    assert sequence.early() is None


def test_early() -> None:
    """Messages that arrive early are delivered after the missing one."""
    sequence = began()
    assert sequence.accept(EPOCH, 2, 2) is Verdict.HOLE
    assert sequence.accept(EPOCH, 3, 3) is Verdict.HOLE
    assert sequence.is_behind
    assert sequence.accept(EPOCH, 1, 1) is Verdict.DELIVER
    assert [sequence.early(), sequence.early(), sequence.early()] == [2, 3, None]
    assert not sequence.is_behind


def test_before_the_first_reading() -> None:
    """Nothing is delivered before the store has been read."""
    sequence: Sequence[int] = Sequence()
    assert sequence.accept(EPOCH, 1, 1) is Verdict.STALE
    assert sequence.is_behind


def test_doubt_during_a_reading() -> None:
    """A reading that began before a doubt does not end it."""
    sequence = began()
    news = sequence.news
    sequence.doubt()
    sequence.advance(reading(0), news)
    assert sequence.is_stale
    sequence.advance(reading(0), sequence.news)
    assert not sequence.is_stale


def test_old_reading() -> None:
    """A reading that is older than the last delivered message changes nothing."""
    sequence = began(5)
    sequence.accept(EPOCH, 6, 6)
    assert not sequence.advance(reading(5), sequence.news)
    assert sequence.position == (EPOCH, 6)


def test_trimmed() -> None:
    """A hole whose messages were deleted is a gap before the oldest message."""
    sequence = began(5)
    sequence.accept(EPOCH, 20, 20)
    assert sequence.advance(reading(20, since=5, first=11), sequence.news)
    assert sequence.position == (EPOCH, 10)
    assert sequence.is_behind


def test_new_epoch() -> None:
    """Another epoch is a gap before its first message; late messages of the old one are stale."""
    sequence = began(5)
    later = epoch_of("store", 200)
    assert sequence.accept(later, 1, 1) is Verdict.STALE
    assert sequence.advance(reading(1, epoch=later), sequence.news)
    assert sequence.position == (later, 0)
    sequence.delivered(1)
    assert sequence.accept(EPOCH, 6, 6) is Verdict.STALE
    assert not sequence.advance(reading(1, epoch=later), sequence.news)
    assert sequence.position == (later, 1)
    assert not sequence.is_behind


def test_first_message_of_a_group() -> None:
    """A row that is made after the sequence has begun is not a gap; a forgotten stream is."""
    sequence: Sequence[int] = Sequence()
    sequence.advance(Reading("store", 50), sequence.news)
    assert sequence.position == (epoch_of("store", 50), 0)
    before = sequence.position
    assert sequence.accept(EPOCH, 1, 1) is Verdict.STALE
    assert not sequence.advance(reading(1), sequence.news)
    assert sequence.position == (EPOCH, 0)
    assert offset_in(reading(1)._replace(is_forgotten=True), before) is None


def test_deleted_row() -> None:
    """A deleted row is a gap, once."""
    sequence = began(5)
    sequence.doubt()
    assert sequence.advance(Reading("other", 2000), sequence.news)
    assert sequence.position == (epoch_of("other", 2000), 0)
    assert not sequence.advance(Reading("other", 3000), sequence.news)


def test_noted() -> None:
    """The changes in the store reveal a lost last message, and another epoch."""
    sequence = began(5)
    assert not sequence.note(EPOCH, 5)
    assert sequence.note(EPOCH, 6)
    sequence = began(5)
    assert sequence.note(epoch_of("store", 200), 1)
    assert sequence.is_stale


def test_offsets() -> None:
    """A position continues if the messages after it are kept, and is a gap otherwise."""
    row = reading(10, first=4)
    assert offset_in(row, Position(EPOCH, 10)) == 10
    assert offset_in(row, Position(EPOCH, 3)) == 3
    assert offset_in(row, Position(EPOCH, 2)) is None
    assert offset_in(row, Position(EPOCH, 11)) is None
    assert offset_in(row, Position(epoch_of("store", 99), 3)) is None
    assert offset_in(row, Position(epoch_of("other", 100), 3)) is None


def test_before_the_first_message() -> None:
    """The position before the first message continues if the row was made later."""
    row = reading(10)
    assert offset_in(row, Position(epoch_of("store", 99), 0)) == 0
    assert offset_in(row, Position(EPOCH, 0)) == 0
    assert offset_in(row, Position(epoch_of("store", 101), 0)) is None
    assert offset_in(row, Position(epoch_of("store", 1001), 0)) is None
    assert offset_in(row, Position(epoch_of("other", 99), 0)) is None
    assert offset_in(reading(10, first=2), Position(epoch_of("store", 99), 0)) is None
    nothing = Reading("store", 1000)
    assert offset_in(nothing, Position(epoch_of("store", 99), 0)) == 0
    later = Reading("store", 1000 + (IDLE_SECONDS + 1) * 1_000_000)
    assert offset_in(later, Position(epoch_of("store", 99), 0)) is None
    assert position_of(nothing) == (epoch_of("store", 1000), 0)


@given(st.lists(st.integers(1, 12), max_size=60), st.data())
def test_any_order(arrivals: list[int], data: st.DataObject) -> None:
    """Each message is delivered once and in order, for any arrivals and any readings."""
    sequence = began()
    delivered: list[int] = []
    top = 0
    for offset in arrivals:
        top = max(top, offset)
        if sequence.accept(EPOCH, offset, offset) is Verdict.DELIVER:
            delivered.append(offset)
            while (early := sequence.early()) is not None:
                delivered.append(early)
        elif sequence.is_behind and data.draw(st.booleans()):
            found = reading(top, since=sequence.offset)
            assert not sequence.advance(found, sequence.news)
            for entry in found.entries:
                sequence.delivered(entry.offset)
                delivered.append(entry.offset)
    assert delivered == list(range(1, len(delivered) + 1))
    if not sequence.is_behind:
        assert len(delivered) == top


def test_messages_while_the_store_is_read() -> None:
    """Messages that arrive meanwhile neither void a reading nor keep it from ending a doubt."""
    sequence = began(5)
    sequence.doubt()
    news = sequence.news
    assert sequence.accept(EPOCH, 7, 7) is Verdict.STALE
    assert not sequence.is_void(news)
    assert not sequence.advance(reading(6, since=5), news)
    assert not sequence.is_stale
    assert sequence.is_behind
    sequence.delivered(6)
    assert sequence.early() == 7


def test_void() -> None:
    """A reading from before the stream was forgotten is void."""
    sequence = began(5)
    news = sequence.news
    sequence.doubt()
    assert not sequence.is_void(news)
    sequence.doubt(is_forgotten=True)
    assert sequence.is_void(news)


def test_early_messages_after_a_gap() -> None:
    """Messages that came early and are older than what is kept take no memory."""
    sequence = began(5)
    for offset in range(10, 20):
        assert sequence.accept(EPOCH, offset, offset) is Verdict.HOLE
    assert sequence.advance(reading(200, first=100), sequence.news)
    assert (sequence.offset, sequence.target) == (99, 200)
    assert sequence._early is None
