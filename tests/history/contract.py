"""The tests that every store of histories must pass.

A subclass overrides the fixture ``store``, and ``make_idle()``. Stores that several processes share
subclass ``SharedStoreContract`` and override ``another()``, too.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from django.test import override_settings

from django_wsmux.history.store import MAX_KEYS, Changed, Keep, Reading, Store, Stream
from django_wsmux.protocol.positions import Position, moment_of, parse
from tests.services import wait_until_said

__all__ = [
    "SOON",
    "SharedStoreContract",
    "StoreContract",
    "bodies",
    "everything",
    "fill",
    "offsets",
    "stream",
    "wait_until",
]

#: A short time in seconds for tests, on any machine.
SOON = 0.01


def stream(
    name: str = "room.1", messages: int = 200, seconds: float = 600, bytes: int = 2**20
) -> Stream:
    """Return a group with these limits."""
    return Stream(name, Keep(messages, seconds, bytes), f"channel-of-{name}")


def everything(store: Store, of: Stream) -> Reading:
    """Read all messages of a stream."""
    return store.read(of, 0, 10**6)


def offsets(reading: Reading) -> list[int]:
    """Return the offsets of the messages that were read."""
    return [entry.offset for entry in reading.entries]


def bodies(reading: Reading) -> list[bytes]:
    """Return the messages that were read."""
    return [entry.message for entry in reading.entries]


def fill(store: Store, of: Stream, count: int, size: int = 0) -> None:
    """Append messages that contain their numbers, from 1 on."""
    for number in range(1, count + 1):
        assert store.append(of, str(number).encode().ljust(size)) is not None


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for a condition that becomes true in any case, for example when time passes."""
    wait_until_said(condition)


class StoreContract:
    """The tests of a store."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        """Return an empty store; override it."""
        raise NotImplementedError("override the fixture store")

    def another(self, store: Store) -> Store:
        """Return a second handle of the same store, as another process would have one."""
        return store

    def make_idle(self, store: Store, of: Stream) -> None:
        """Change the stored data as if ``IDLE_SECONDS`` had passed since the last message."""
        raise NotImplementedError("override make_idle()")

    # Numbers

    def test_no_row(self, store: Store) -> None:
        """A stream without messages has no epoch; reading writes nothing."""
        seen, _ = store.changed("")
        for since, limit in ((None, 0), (0, 10)):
            reading = store.read(stream(), since, limit)
            assert reading == Reading(reading.store, reading.now)
            assert re.fullmatch("[0-9a-z]{1,24}", reading.store)
        assert store.changed(seen)[1] == []
        store.append(stream(), b"later")
        assert moment_of(store.read(stream()).epoch)[1] >= reading.now

    def test_numbers(self, store: Store) -> None:
        """Offsets are dense from 1 on, in each stream; the epoch does not change."""
        first = store.append(stream(), b"a")
        assert first is not None
        assert first.offset == 1
        for number in range(2, 30):
            appended = store.append(stream(), b"b")
            assert appended == (first.epoch, number, first.is_published)
            other = store.append(stream("room.2"), b"c")
            assert other is not None
            assert other.offset == number - 1
        reading = everything(store, stream())
        assert reading.epoch == first.epoch
        assert (reading.top, reading.first) == (29, 1)
        assert offsets(reading) == list(range(1, 30))
        assert not reading.is_forgotten

    def test_epoch(self, store: Store) -> None:
        """An epoch is the store, and the moment when the row was made by the store's clock."""
        before = store.read(stream())
        appended = store.append(stream(), b"a")
        assert appended is not None
        after = store.read(stream())
        assert before.store == after.store
        assert after.epoch == appended.epoch
        assert parse(str(Position(appended.epoch, 1))) == Position(appended.epoch, 1)
        where, moment = moment_of(appended.epoch)
        assert where == after.store
        assert before.now <= moment <= after.now

    def test_sent(self, store: Store) -> None:
        """A message has the time when it was stored, to a millisecond."""
        before = store.read(stream()).now
        fill(store, stream(), 3)
        reading = everything(store, stream())
        times = [entry.sent * 1e6 for entry in reading.entries]
        assert times == sorted(times)
        assert before - 1000 <= times[0] <= times[-1] <= reading.now + 1000

    @pytest.mark.parametrize(
        "message", [b"", b"\0", b"\xff\xfe\n'\"", b"text", bytes(range(256)) * 1200], ids=len
    )
    def test_bytes_of_messages(self, store: Store, message: bytes) -> None:
        """Any bytes come back as they were."""
        store.append(stream(), message)
        assert bodies(everything(store, stream())) == [message]

    def test_names(self, store: Store) -> None:
        """The name of a group may be any text; similar names are different groups."""
        names = [
            "a",
            "A",
            "a ",
            "a\0",
            "a\0b",
            "a'\"",
            "a%",
            "a*",
            "{a}",
            "ä",
            "a\u0308",
            "\U0001f600",
        ]
        names += ["\ud800", "x" * 2000, "@user:1", "a:b", "a-1", "1"]
        seen, _ = store.changed("")
        for number, name in enumerate(names, 1):
            fill(store, stream(name), number)
        for number, name in enumerate(names, 1):
            assert store.read(stream(name)).top == number
        assert {each.name: each.top for each in store.changed(seen)[1]} == {
            name: number for number, name in enumerate(names, 1)
        }

    # Keys

    def test_key(self, store: Store) -> None:
        """A second message with a key is not stored and gets no number; keys are per stream."""
        assert store.append(stream(), b"a", key="paid") is not None
        assert self.another(store).append(stream(), b"b", key="paid") is None
        assert store.append(stream("room.2"), b"c", key="paid") is not None
        assert store.append(stream(), b"d", key="Paid") is not None
        reading = everything(store, stream())
        assert bodies(reading) == [b"a", b"d"]
        assert offsets(reading) == [1, 2]

    def test_repeated_key_is_no_change(self, store: Store) -> None:
        """A message that was not stored changes nothing."""
        store.append(stream(), b"a", key="paid")
        seen = self.settled(store)
        assert store.append(stream(), b"b", key="paid") is None
        assert store.changed(seen)[1] == []

    def test_key_expires(self, store: Store) -> None:
        """A key is remembered for its own seconds, regardless of the stream's limits."""
        short = stream(messages=1, seconds=SOON)
        store.append(short, b"a", key="short", key_seconds=SOON)
        store.append(short, b"b", key="long")
        wait_until(lambda: store.append(short, b"c", key="short", key_seconds=SOON))
        store.sweep()
        assert store.append(short, b"d", key="long") is None

    def test_release(self, store: Store) -> None:
        """A released key expires after the seconds of the call; other keys are unchanged."""
        of = stream()
        for key in ("long", "longer", "short"):
            store.append(of, b"a", key=key, key_seconds=600 if key == "short" else 10**6)
        store.release(of, ["short", "unknown"], 10**6)
        store.release(of, ["long", "unknown"], SOON)
        store.release(stream("room.2"), ["longer"], SOON)
        wait_until(lambda: store.append(of, b"b", key="long"))
        store.sweep()
        for key in ("long", "longer", "short"):
            assert store.append(of, b"c", key=key) is None

    def test_key_of_expired_messages(self, store: Store) -> None:
        """A key outlives its message, also after a sweep."""
        short = stream(seconds=SOON)
        store.append(short, b"a", key="paid")
        wait_until(lambda: not everything(store, short).entries)
        store.sweep()
        assert store.append(short, b"b", key="paid") is None

    def test_many_keys(self, store: Store) -> None:
        """A stream remembers ``MAX_KEYS`` keys; the oldest are deleted first."""
        for number in range(MAX_KEYS + 1):
            assert store.append(stream(messages=1), b"a", key=str(number)) is not None
        store.sweep()
        assert store.append(stream(messages=1), b"b", key=str(MAX_KEYS)) is None
        assert store.append(stream(messages=1), b"b", key=str(MAX_KEYS // 2)) is None
        assert store.append(stream(messages=1), b"b", key="0") is not None

    # Limits

    def test_messages(self, store: Store) -> None:
        """Only the newest messages are kept."""
        few = stream(messages=3)
        for top in range(1, 12):
            store.append(few, str(top).encode())
            reading = everything(store, few)
            assert offsets(reading) == list(range(max(1, top - 2), top + 1))
            assert (reading.top, reading.first) == (top, max(1, top - 2))

    def test_one_message(self, store: Store) -> None:
        """With ``messages: 1`` the newest is kept."""
        fill(store, stream(messages=1), 300)
        reading = everything(store, stream(messages=1))
        assert bodies(reading) == [b"300"]
        assert (reading.top, reading.first) == (300, 300)

    def test_bytes(self, store: Store) -> None:
        """Only the newest messages are kept, up to the limit of bytes."""
        small = stream(bytes=1000)
        for top in range(1, 9):
            store.append(small, b"x" * 300)
            reading = everything(store, small)
            assert offsets(reading) == list(range(max(1, top - 2), top + 1))
            assert (reading.top, reading.first) == (top, max(1, top - 2))
        store.append(small, b"y" * 1000)
        assert offsets(everything(store, small)) == [9]

    def test_message_above_bytes(self, store: Store) -> None:
        """A message that exceeds the limit of bytes is numbered, but not kept."""
        small = stream(bytes=1000)
        store.append(small, b"x")
        store.append(small, b"y" * 1001)
        reading = everything(store, small)
        assert (reading.top, reading.first, reading.entries) == (2, 3, ())
        store.append(small, b"z")
        assert bodies(everything(store, small)) == [b"z"]

    def test_other_limits(self, store: Store) -> None:
        """A reader with smaller limits than the sender's gets messages within its own limits."""
        fill(store, stream(), 10, size=100)
        for keep in (stream(messages=3), stream(bytes=399)):
            reading = everything(store, keep)
            assert offsets(reading) == [8, 9, 10]
            assert reading.first == 8
        fill(store, stream(messages=2), 1)
        assert offsets(everything(store, stream(messages=2))) == [10, 11]

    def test_seconds(self, store: Store) -> None:
        """Messages that are too old are not returned, and do not count as kept."""
        fill(store, stream(), 5)
        short = stream(seconds=SOON)
        wait_until(lambda: not everything(store, short).entries)
        reading = everything(store, short)
        assert (reading.top, reading.first) == (5, 6)
        assert offsets(everything(store, stream())) == [1, 2, 3, 4, 5]

    # Reading

    @pytest.mark.parametrize(
        ("since", "limit", "max_bytes", "newest", "expected"),
        [
            (None, 100, 10**6, False, []),
            (None, 100, 10**6, True, []),
            (0, 0, 10**6, False, []),
            (0, 100, 10**6, False, [4, 5, 6, 7, 8, 9, 10]),
            (3, 100, 10**6, False, [4, 5, 6, 7, 8, 9, 10]),
            (6, 100, 10**6, False, [7, 8, 9, 10]),
            (10, 100, 10**6, False, []),
            (11, 100, 10**6, False, []),
            (10**15, 100, 10**6, False, []),
            (0, 3, 10**6, False, [4, 5, 6]),
            (6, 3, 10**6, False, [7, 8, 9]),
            (0, 3, 10**6, True, [8, 9, 10]),
            (8, 3, 10**6, True, [9, 10]),
            (0, 100, 200, False, [4, 5]),
            (0, 100, 201, False, [4, 5, 6]),
            (0, 100, 1, False, [4]),
            (0, 100, 201, True, [8, 9, 10]),
            (0, 100, 1, True, [10]),
            (0, 2, 10**6, True, [9, 10]),
            (0, 2, 201, False, [4, 5]),
        ],
    )
    def test_read(
        self,
        store: Store,
        since: int | None,
        limit: int,
        max_bytes: int,
        newest: bool,
        expected: list[int],
    ) -> None:
        """A reader gets the requested messages and the row."""
        kept = stream(messages=7)
        fill(store, kept, 10, size=100)
        reading = store.read(kept, since, limit, max_bytes=max_bytes, newest=newest)
        assert offsets(reading) == expected
        assert bodies(reading) == [str(number).encode().ljust(100) for number in expected]
        assert (reading.top, reading.first) == (10, 4)

    # Forgetting

    def test_forget(self, store: Store) -> None:
        """A forgotten stream has no messages and a later epoch, and begins at 1 again."""
        fill(store, stream(), 5)
        fill(store, stream("room.2"), 2)
        old = store.read(stream()).epoch
        epoch = self.another(store).forget(stream())
        assert moment_of(epoch)[0] == moment_of(old)[0]
        assert moment_of(epoch)[1] > moment_of(old)[1]
        reading = everything(store, stream())
        assert reading == Reading(reading.store, reading.now, epoch, 0, 1, True, ())
        appended = store.append(stream(), b"again")
        assert appended is not None
        assert appended[:2] == (epoch, 1)
        reading = everything(store, stream())
        assert reading.is_forgotten
        assert bodies(reading) == [b"again"]
        assert offsets(everything(store, stream("room.2"))) == [1, 2]

    def test_forget_nothing(self, store: Store) -> None:
        """A stream without a row can be forgotten: the earlier position is no longer valid."""
        epoch = store.forget(stream())
        reading = store.read(stream())
        assert (reading.epoch, reading.is_forgotten, reading.top) == (epoch, True, 0)

    def test_forget_often(self, store: Store) -> None:
        """Each epoch is later than the last one, however fast they follow."""
        handles = store, self.another(store)
        store.append(stream(), b"a")
        epochs = [store.read(stream()).epoch]
        epochs += [handles[number % 2].forget(stream()) for number in range(60)]
        moments = [moment_of(epoch)[1] for epoch in epochs]
        assert all(earlier < later for earlier, later in pairwise(moments))
        assert store.read(stream()).epoch == epochs[-1]

    # Changes

    def settled(self, store: Store) -> str:
        """Return a value for ``changed()`` after which no old change is returned."""
        seen = store.changed("")[0]

        def is_quiet() -> bool:
            nonlocal seen
            seen, found = store.changed(seen)
            return not found

        wait_until(is_quiet)
        return seen

    def test_changed(self, store: Store) -> None:
        """Messages are found by the next call, and not by all later ones."""
        assert store.changed("")[1] == []
        fill(store, stream("old"), 3)
        assert store.changed("")[1] == []
        seen = self.settled(store)
        fill(self.another(store), stream(), 3)
        fill(store, stream("room.2"), 1)
        seen, found = store.changed(seen)
        assert sorted(found) == [
            Changed(name, store.read(stream(name)).epoch, top)
            for name, top in (("room.1", 3), ("room.2", 1))
        ]
        seen = self.settled(store)
        store.append(stream(), b"a")
        assert [(each.name, each.top) for each in store.changed(seen)[1]] == [("room.1", 4)]

    def test_changed_by_forget(self, store: Store) -> None:
        """A new epoch is a change."""
        fill(store, stream(), 3)
        seen = self.settled(store)
        epoch = self.another(store).forget(stream())
        assert store.changed(seen)[1] == [Changed("room.1", epoch, 0)]
        seen = self.settled(store)
        epoch = store.forget(stream("nothing was sent"))
        assert store.changed(seen)[1] == [Changed("nothing was sent", epoch, 0)]

    def test_changed_for_each(self, store: Store) -> None:
        """Processes are independent: each of them finds every change."""
        other = self.another(store)
        seen = [self.settled(store), self.settled(other)]
        fill(store, stream(), 1)
        for handle, since in zip((store, other), seen, strict=True):
            assert [each.name for each in handle.changed(since)[1]] == ["room.1"]

    def test_changed_many(self, store: Store) -> None:
        """Each changed stream is found, with its newest offset."""
        for number in range(300):
            fill(store, stream(f"room.{number}"), 1)
        seen = self.settled(store)
        for _ in range(2):
            for number in range(0, 300, 2):
                store.append(stream(f"room.{number}"), b"b")
        found = {each.name: each.top for each in store.changed(seen)[1]}
        assert found == {f"room.{number}": 3 for number in range(0, 300, 2)}

    # Sweeping

    def test_sweep_keeps(self, store: Store) -> None:
        """Data that has not expired is kept."""
        fill(store, stream(), 5)
        before = everything(store, stream())
        store.sweep()
        assert everything(store, stream())[2:] == before[2:]

    def test_sweep_messages(self, store: Store) -> None:
        """Expired messages are deleted; the offsets and the epoch continue."""
        short = stream(seconds=SOON)
        fill(store, short, 5)
        epoch = store.read(short).epoch

        def are_deleted() -> bool:
            store.sweep()
            return not everything(store, stream()).entries

        wait_until(are_deleted)
        reading = everything(store, stream())
        assert (reading.epoch, reading.top, reading.first) == (epoch, 5, 6)
        appended = store.append(stream(), b"a")
        assert appended is not None
        assert appended[:2] == (epoch, 6)
        assert offsets(everything(store, stream())) == [6]

    def test_sweep_rows(self, store: Store) -> None:
        """A row that was idle for long is deleted; later messages have a later epoch."""
        short = stream(seconds=SOON)
        fill(store, short, 5)
        fill(store, stream("room.2"), 1)
        old = store.read(short).epoch
        wait_until(lambda: not everything(store, short).entries)
        self.make_idle(store, short)

        def is_deleted() -> bool:
            store.sweep()
            return not store.read(short).epoch

        wait_until(is_deleted)
        assert store.read(stream("room.2")).top == 1
        appended = store.append(short, b"a")
        assert appended is not None
        assert appended.offset == 1
        assert moment_of(appended.epoch)[1] > moment_of(old)[1]

    def test_sweep_bytes(self, store: Store) -> None:
        """Beyond ``WEBSOCKET_HISTORY_BYTES``, the oldest messages of all streams are deleted."""
        names = [f"room.{number}" for number in range(20)]
        for name in names:
            fill(store, stream(name), 10, size=1000)
        with override_settings(WEBSOCKET_HISTORY_BYTES=10**6):
            store.sweep()
        assert [len(everything(store, stream(name)).entries) for name in names] == [10] * 20
        with override_settings(WEBSOCKET_HISTORY_BYTES=50_000):
            store.sweep()
        readings = [everything(store, stream(name)) for name in names]
        counts = [len(reading.entries) for reading in readings]
        assert 1000 * sum(counts) <= 50_000
        assert counts == sorted(counts)
        assert counts[0] == 0
        assert counts[-1] > 0
        for reading in readings:
            assert reading.top == 10
            assert offsets(reading) == list(range(reading.first, 11))

    # Together

    def test_threads(self, store: Store) -> None:
        """Threads of two processes number messages without gaps or duplicates, in one order."""
        handles = store, self.another(store)
        found: list[tuple[int, bytes]] = []
        failures: list[BaseException] = []
        names = stream(messages=1000), stream("room.2", messages=1000)

        def work(which: int) -> None:
            try:
                for number in range(50):
                    message = f"{which} {number}".encode()
                    appended = handles[which % 2].append(names[0], message)
                    assert appended is not None
                    found.append((appended.offset, message))
                    assert handles[which % 2].append(names[1], message) is not None
            except BaseException as error:
                failures.append(error)
                raise

        threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
        seen = store.changed("")[0]
        last: dict[str, int] = {}
        for thread in threads:
            thread.start()
        is_over = False
        while not is_over:
            is_over = not any(thread.is_alive() for thread in threads)
            seen, changes = handles[1].changed(seen)
            last.update({each.name: each.top for each in changes})
        for thread in threads:
            thread.join()
        assert not failures
        reading = everything(store, names[0])
        assert sorted(found) == [(entry.offset, entry.message) for entry in reading.entries]
        assert offsets(reading) == list(range(1, 201))
        assert offsets(everything(store, names[1])) == list(range(1, 201))
        assert last == {"room.1": 200, "room.2": 200}

    def test_keys_of_threads(self, store: Store) -> None:
        """If several threads send with one key at once, one succeeds."""
        handles = store, self.another(store)
        stored: list[int] = []

        def work(which: int) -> None:
            for number in range(30):
                if handles[which % 2].append(stream(), b"a", key=str(number)) is not None:
                    stored.append(number)

        threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(stored) == list(range(30))
        assert store.read(stream()).top == 30

    def test_close(self, store: Store) -> None:
        """A store that was closed opens again."""
        store.append(stream(), b"a")
        for _ in range(2):
            store.close()
        appended = store.append(stream(), b"b")
        assert appended is not None
        assert appended.offset == 2


class SharedStoreContract(StoreContract):
    """The tests of a store that several processes share."""

    def another(self, store: Store) -> Store:
        """Return a second handle of the same store, as another process would have one."""
        raise NotImplementedError("override another()")

    def test_fork(self, store: Store) -> None:
        """A forked child and its parent continue with one sequence."""
        fill(store, stream(), 3)
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    fill(store, stream(), 20)
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        fill(store, stream(), 20)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        fill(store, stream(), 1)
        assert offsets(everything(store, stream())) == list(range(1, 65))
        assert store.read(stream()).epoch == self.another(store).read(stream()).epoch

    def test_close_of_one(self, store: Store) -> None:
        """A process that ends leaves the history to the others."""
        other = self.another(store)
        fill(other, stream(), 3)
        epoch = other.read(stream()).epoch
        other.close()
        assert store.read(stream()).epoch == epoch
        assert bodies(everything(store, stream())) == [b"1", b"2", b"3"]
