"""The tests that every store of presence must pass.

A subclass overrides the fixture ``store``, and ``pass_time()``. Stores that several processes share
subclass ``SharedPresenceContract`` and override ``another()``, too. While a test runs, processes
and memories of leavings live for ``LONG`` seconds, so that no test depends on its duration.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from django_wsmux.presence.store import NO_GROUP, Entry, PresenceStore, Reading

__all__ = [
    "GROUP",
    "HERE",
    "LONG",
    "THERE",
    "PresenceContract",
    "SharedPresenceContract",
    "entries",
    "infos",
    "keys",
    "number_of",
]

#: Seconds after the last sign of life of a process until its rows no longer count, and for which a
#: leaving is remembered.
LONG = 100_000.0

GROUP = "room.1"

#: Two processes.
HERE, THERE = "here", "there"

NAMES = [
    "a",
    "A",
    "a ",
    " a",
    "a'\"\\",
    "a%",
    "a*",
    "{a}",
    "a:b",
    "a.1",
    "-",
    "1",
    "ä",
    "a\u0308",
    "\U0001f600",
    "x" * 200,
    "\U0001f600" * 200,
]


def entries(*keys: str, info: str = "null") -> list[Entry]:
    """Return an entry for each key; the connection of ``ann.2`` has this id and the key ``ann``."""
    return [Entry(key, key.partition(".")[0], info) for key in keys]


def keys(reading: Reading) -> list[str]:
    """Return the keys that are present or have joined."""
    return [person.key for person in reading.joined]


def infos(reading: Reading) -> dict[str, str]:
    """Return the info of each key."""
    return {person.key: person.info for person in reading.joined}


def number_of(version: str) -> int:
    """Return the number of a version."""
    return int(version.partition(".")[2])


class PresenceContract:
    """The tests of a store."""

    @pytest.fixture(autouse=True)
    def patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Do not let time pass."""
        monkeypatch.setattr(PresenceStore, "leaving_seconds", LONG)
        monkeypatch.setattr(PresenceStore, "left_seconds", LONG)

    @pytest.fixture
    def store(self) -> Iterator[PresenceStore]:
        """Return an empty store; override it."""
        raise NotImplementedError("override the fixture store")

    def another(self, store: PresenceStore) -> PresenceStore:
        """Return a second handle of the same store, as another process would have one."""
        return store

    def pass_time(self, store: PresenceStore, seconds: float) -> None:
        """Change the stored data as if some time had passed for all groups and processes."""
        raise NotImplementedError("override pass_time()")

    def whole(self, store: PresenceStore, group: str = GROUP) -> list[str]:
        """Return the keys that are present."""
        reading = store.read(group)
        assert reading.is_whole
        assert reading.left == ()
        return keys(reading)

    # Joining and leaving

    def test_empty(self, store: PresenceStore) -> None:
        """A group that was never used has a version; nothing has changed since."""
        reading = store.read(GROUP)
        assert reading == Reading(NO_GROUP, True, ())
        assert store.read(GROUP, reading.version) == Reading(NO_GROUP, False, ())
        assert store.read(GROUP, "other.12") == reading
        assert store.changed({GROUP: reading.version}) == []
        assert store.leave(GROUP, ["ann"], HERE) == ""
        assert store.enter(GROUP, [], HERE) == ""
        assert store.expire() == []
        store.enter(GROUP, entries("ann"), HERE)
        assert store.changed({GROUP: reading.version}) == [GROUP]
        assert store.read(GROUP, reading.version).is_whole

    def test_first_and_last(self, store: PresenceStore) -> None:
        """A key joins with its first connection, and leaves with its last one."""
        other = self.another(store)
        assert store.enter(GROUP, entries("ann.1"), HERE)
        assert other.enter(GROUP, entries("ann.2"), THERE) == ""
        assert store.enter(GROUP, entries("ann.3"), HERE) == ""
        assert self.whole(store) == self.whole(other) == ["ann"]
        assert store.leave(GROUP, ["ann.1", "ann.3"], HERE) == ""
        assert self.whole(store) == ["ann"]
        left = other.leave(GROUP, ["ann.2"], THERE)
        assert left == store.read(GROUP).version
        assert self.whole(store) == self.whole(other) == []
        assert other.leave(GROUP, ["ann.2"], THERE) == ""

    def test_again(self, store: PresenceStore) -> None:
        """Entering a connection again changes nothing."""
        version = store.enter(GROUP, entries("ann", "bob"), HERE)
        assert store.enter(GROUP, entries("bob", "ann"), HERE) == ""
        reading = store.read(GROUP)
        assert (reading.version, keys(reading)) == (version, ["ann", "bob"])
        assert store.leave(GROUP, ["ann"], HERE)
        assert self.whole(store) == ["bob"]

    def test_info(self, store: PresenceStore) -> None:
        """The newest info of a key counts, whichever of its connections it comes from."""
        other = self.another(store)
        first = store.enter(GROUP, entries("ann.1", info='{"name": "Ann"}'), HERE)
        assert other.enter(GROUP, entries("ann.2", info='{"name": "Ann"}'), THERE) == ""
        second = other.enter(GROUP, entries("ann.2", info='{"name": "Änn"}'), THERE)
        assert number_of(second) > number_of(first)
        third = store.enter(GROUP, entries("ann.3", info="null"), HERE)
        assert store.read(GROUP, third) == Reading(third, False, ())
        for since in (first, second):
            assert infos(store.read(GROUP, since)) == {"ann": "null"}
        assert store.leave(GROUP, ["ann.3"], HERE) == ""
        assert infos(store.read(GROUP)) == {"ann": "null"}

    def test_other_key(self, store: PresenceStore) -> None:
        """If a connection gets another key, its old key leaves with its last connection."""
        store.enter(GROUP, [Entry("1", "ann", "null"), Entry("2", "ann", "null")], HERE)
        before = store.enter(GROUP, [Entry("1", "bob", "null")], HERE)
        assert self.whole(store) == ["ann", "bob"]
        version = store.enter(GROUP, [Entry("2", "bob", "null")], HERE)
        assert version
        reading = store.read(GROUP, before)
        assert (reading.version, keys(reading), reading.left) == (version, [], ("ann",))
        assert store.leave(GROUP, ["1"], HERE) == ""
        assert store.leave(GROUP, ["2"], HERE)
        assert self.whole(store) == []

    def test_twice_in_a_call(self, store: PresenceStore) -> None:
        """Of two entries for one connection, or with one key, the later one counts."""
        store.enter(
            GROUP,
            [
                Entry("1", "ann", "1"),
                Entry("2", "bob", "2"),
                Entry("1", "eve", "3"),
                Entry("3", "bob", "4"),
            ],
            HERE,
        )
        assert infos(store.read(GROUP)) == {"eve": "3", "bob": "4"}
        assert store.leave(GROUP, ["2", "2", "3"], HERE)
        assert self.whole(store) == ["eve"]

    def test_groups(self, store: PresenceStore) -> None:
        """Groups are independent, also for one connection."""
        store.enter(GROUP, entries("ann"), HERE)
        version = store.read(GROUP).version
        store.enter("room.2", entries("ann", "bob"), HERE)
        assert store.read(GROUP).version == version
        store.leave("room.2", ["ann"], HERE)
        assert self.whole(store) == ["ann"]
        assert self.whole(store, "room.2") == ["bob"]

    # Versions

    def test_versions(self, store: PresenceStore) -> None:
        """Numbers grow with each change, in one epoch; a list has the newest version."""
        handles = store, self.another(store)
        versions = [store.enter(GROUP, entries("eve"), HERE)]
        for number in range(20):
            handle = handles[number % 2]
            if number % 3:
                versions.append(handle.enter(GROUP, entries(f"a{number}"), HERE))
            else:
                handle.enter(GROUP, entries("bob"), HERE)
                versions.append(handle.leave(GROUP, ["bob"], HERE))
            assert handles[1 - number % 2].read(GROUP).version == versions[-1]
        numbers = [number_of(version) for version in versions]
        assert sorted(set(numbers)) == numbers
        assert len({version.partition(".")[0] for version in versions}) == 1

    def test_order(self, store: PresenceStore) -> None:
        """Keys are listed in the order in which they joined or changed."""
        store.enter(GROUP, entries("dan", "bob", "eve"), HERE)
        before = store.enter(GROUP, entries("ann", "cat"), HERE)
        assert self.whole(store) == ["dan", "bob", "eve", "ann", "cat"]
        store.enter(GROUP, entries("bob", info="1"), HERE)
        assert self.whole(store) == ["dan", "eve", "ann", "cat", "bob"]
        store.enter(GROUP, entries("abe", "zoe"), HERE)
        store.leave(GROUP, ["eve", "cat", "ann"], HERE)
        reading = store.read(GROUP, before)
        assert (keys(reading), reading.left) == (["bob", "abe", "zoe"], ("eve", "cat", "ann"))

    def test_since(self, store: PresenceStore) -> None:
        """A reader that knows a version gets what has changed since, and nothing else."""
        versions = [store.enter(GROUP, entries("ann"), HERE)]
        versions.append(store.enter(GROUP, entries("bob"), HERE))
        versions.append(store.leave(GROUP, ["ann"], HERE))
        versions.append(store.enter(GROUP, entries("bob", info="1"), HERE))
        expected = [(["bob"], ("ann",)), (["bob"], ("ann",)), (["bob"], ()), ([], ())]
        other = self.another(store)
        for version, (joined, left) in zip(versions, expected, strict=True):
            reading = other.read(GROUP, version)
            assert (reading.version, reading.is_whole) == (versions[-1], False)
            assert (keys(reading), reading.left) == (joined, left)
        assert store.read(GROUP, versions[-1]) == Reading(versions[-1], False, ())

    def test_unknown_version(self, store: PresenceStore) -> None:
        """A version of another epoch, or a number that is not yet reached, means the whole list."""
        version = store.enter(GROUP, entries("ann"), HERE)
        epoch, _, number = version.partition(".")
        for since in (f"{epoch}.{int(number) + 1}", f"0{epoch}.{number}", NO_GROUP):
            assert store.read(GROUP, since) == store.read(GROUP)
            assert store.changed({GROUP: since}) == [GROUP]

    def test_between(self, store: PresenceStore) -> None:
        """A key that has joined and left since appears nowhere, however often it did."""
        before = store.enter(GROUP, entries("ann"), HERE)
        for _ in range(3):
            store.enter(GROUP, entries("bob"), HERE)
            after = store.leave(GROUP, ["bob"], HERE)
            assert store.read(GROUP, before) == Reading(after, False, ())

    def test_rejoined(self, store: PresenceStore) -> None:
        """A key that has left and joined again has only joined; if it leaves again, it has left."""
        before = store.enter(GROUP, entries("ann", "bob"), HERE)
        between = store.leave(GROUP, ["bob"], HERE)
        store.enter(GROUP, entries("bob", info="1"), HERE)
        for since in (before, between):
            reading = store.read(GROUP, since)
            assert (infos(reading), reading.left) == ({"bob": "1"}, ())
        store.leave(GROUP, ["bob"], HERE)
        reading = store.read(GROUP, before)
        assert (keys(reading), reading.left) == ([], ("bob",))
        reading = store.read(GROUP, between)
        assert (keys(reading), reading.left) == ([], ())

    @pytest.mark.parametrize("seed", range(3))
    def test_any_history(self, store: PresenceStore, seed: int) -> None:
        """A reader of any version has the right list after reading."""
        chance = random.Random(seed)
        handles = store, self.another(store)
        rows: dict[str, tuple[str, str]] = {}
        people: dict[str, tuple[str, int]] = {}  # info, and when the key joined or changed
        known: dict[str, tuple[int, dict[str, str]]] = {}
        for step in range(100):
            handle, process = chance.choice(handles), chance.choice((HERE, THERE))
            connection = f"c{chance.randrange(5)}"
            old = rows.get(connection)
            before = dict(people)
            if chance.random() < 0.6:
                key, info = f"k{chance.randrange(3)}", f"{chance.randrange(2)}"
                version = handle.enter(GROUP, [Entry(connection, key, info)], process)
                rows[connection] = key, process
                if people.get(key, ("",))[0] != info:
                    people[key] = info, step
            else:
                version = handle.leave(GROUP, [connection], process)
                if old is not None and old[1] == process:
                    del rows[connection]
            for key in people.keys() - {key for key, _ in rows.values()}:
                del people[key]
            assert bool(version) == (people != before)
            if version:
                known[version] = step, {key: info for key, (info, _) in people.items()}
            for since, (then, state) in known.items():
                reading = handle.read(GROUP, since)
                assert not reading.is_whole
                assert infos(reading) == {
                    key: info for key, (info, changed) in people.items() if changed > then
                }
                assert set(reading.left) == state.keys() - people.keys()
                assert len(set(reading.left)) == len(reading.left)

    def test_when(self, store: PresenceStore) -> None:
        """A key is present since it joined; another info changes nothing, joining again does."""
        before = time.time()
        store.enter(GROUP, entries("ann"), HERE)
        after = time.time()
        first = store.read(GROUP).joined[0]
        assert before - 1 <= first.since <= after + 1
        version = store.enter(GROUP, entries("ann", "ann.2", info="1"), HERE)
        assert store.read(GROUP).joined[0] == first._replace(info="1")
        assert self.another(store).read(GROUP).joined[0].since == first.since
        store.leave(GROUP, ["ann", "ann.2"], HERE)
        time.sleep(0.001)
        store.enter(GROUP, entries("ann"), HERE)
        assert store.read(GROUP, version).joined[0].since > first.since

    # Forgetting

    def test_purged(self, store: PresenceStore) -> None:
        """When leavings are forgotten, readers of older versions get the whole list."""
        versions = [store.enter(GROUP, entries("ann", "bob", "cat"), HERE)]
        versions.append(store.leave(GROUP, ["bob"], HERE))
        self.pass_time(store, LONG / 2)
        assert store.renew(HERE)
        versions.append(store.leave(GROUP, ["cat"], HERE))
        assert store.expire() == []
        assert not store.read(GROUP, versions[0]).is_whole
        self.pass_time(store, LONG / 2 + 1)
        assert store.renew(HERE)
        assert store.expire() == []
        assert store.read(GROUP, versions[0]) == store.read(GROUP)
        reading = store.read(GROUP, versions[1])
        assert (reading.is_whole, keys(reading), reading.left) == (False, [], ("cat",))
        assert store.read(GROUP, versions[2]) == Reading(versions[2], False, ())
        assert self.whole(store) == ["ann"]

    def test_removed(self, store: PresenceStore) -> None:
        """A group that is empty for long is removed; later it has another epoch."""
        other = self.another(store)
        store.enter("room.2", entries("bob"), HERE)
        old = store.enter(GROUP, entries("ann"), HERE)
        left = store.leave(GROUP, ["ann"], HERE)
        for _ in range(2):
            self.pass_time(store, LONG + 1)
            store.renew(HERE)
            store.enter("room.2", entries("bob"), HERE)
            store.expire()
        assert store.read(GROUP) == Reading(NO_GROUP, True, ())
        assert sorted(other.changed({GROUP: left})) == [GROUP]
        assert store.read(GROUP, left).is_whole
        new = store.enter(GROUP, entries("cat"), HERE)
        assert new.partition(".")[0] != old.partition(".")[0]
        assert store.read(GROUP, old) == other.read(GROUP, left) == store.read(GROUP)
        assert self.whole(store) == ["cat"]
        assert self.whole(store, "room.2") == ["bob"]

    def test_purged_in_parts(self, store: PresenceStore) -> None:
        """A group is not removed while someone is present, or a leaving is remembered."""
        store.enter(GROUP, entries("ann", "bob", "cat"), HERE)
        version = store.leave(GROUP, ["bob"], HERE)
        self.pass_time(store, LONG / 2)
        store.renew(HERE)
        self.pass_time(store, LONG / 2 + 1)
        store.renew(HERE)
        store.expire()
        assert store.read(GROUP, version) == Reading(version, False, ())
        assert self.whole(store) == ["ann", "cat"]
        store.leave(GROUP, ["ann"], HERE)
        self.pass_time(store, LONG / 2)
        store.renew(HERE)
        version = store.leave(GROUP, ["cat"], HERE)
        self.pass_time(store, LONG / 2 + 1)
        store.expire()
        assert store.read(GROUP, version) == Reading(version, False, ())

    # Processes

    def test_taken_over(self, store: PresenceStore) -> None:
        """A connection that another process enters is its own, without a change for readers."""
        other = self.another(store)
        version = store.enter(GROUP, entries("ann", "bob"), HERE)
        assert other.enter(GROUP, entries("ann", "bob"), THERE) == ""
        assert store.leave(GROUP, ["ann", "bob"], HERE) == ""
        assert store.read(GROUP, version) == Reading(version, False, ())
        assert self.whole(store) == ["ann", "bob"]
        self.pass_time(store, LONG + 1)
        assert other.enter(GROUP, entries("bob"), THERE)
        assert self.whole(store) == ["bob"]
        assert store.leave(GROUP, ["bob"], HERE) == ""
        assert other.leave(GROUP, ["bob"], THERE)

    def test_taken_back(self, store: PresenceStore) -> None:
        """A connection may return to its first process."""
        version = store.enter(GROUP, entries("ann"), HERE)
        for process in (THERE, HERE, THERE, HERE):
            assert store.enter(GROUP, entries("ann"), process) == ""
        assert store.leave(GROUP, ["ann"], THERE) == ""
        assert store.read(GROUP).version == version
        assert store.leave(GROUP, ["ann"], HERE)

    def test_killed(self, store: PresenceStore) -> None:
        """The rows of a process without a sign of life are removed once; others stay."""
        other = self.another(store)
        store.enter(GROUP, entries("ann.1", "bob.1"), HERE)
        before = other.enter(GROUP, entries("bob.2", "cat.2"), THERE)
        store.enter("room.2", entries("bob.1"), HERE)
        other.enter("room.2", entries("bob.2"), THERE)
        store.enter("room.3", entries("ann.1"), HERE)
        assert store.expire() == []
        self.pass_time(store, LONG / 2)
        assert other.renew(THERE)
        self.pass_time(store, LONG / 2 + 1)
        assert other.renew(THERE)
        versions = dict(other.expire())
        assert versions == {name: other.read(name).version for name in (GROUP, "room.3")}
        reading = store.read(GROUP, before)
        assert (reading.is_whole, keys(reading), reading.left) == (False, [], ("ann",))
        assert self.whole(store) == ["bob", "cat"]
        assert self.whole(store, "room.2") == ["bob"]
        assert self.whole(store, "room.3") == []
        assert store.expire() == other.expire() == []

    def test_signs_of_life(self, store: PresenceStore) -> None:
        """Renewing and entering are signs of life."""
        store.enter(GROUP, entries("ann"), HERE)
        store.enter(GROUP, entries("bob"), THERE)
        for _ in range(3):
            self.pass_time(store, LONG * 0.6)
            assert store.renew(HERE)
            assert store.enter("room.2", [], THERE) == ""
        assert store.expire() == []
        assert self.whole(store) == ["ann", "bob"]

    def test_unknown_process(self, store: PresenceStore) -> None:
        """A process is known from its first row on, until its rows no longer count."""
        assert not store.renew(HERE)
        assert not store.renew(HERE)
        store.enter(GROUP, entries("ann"), HERE)
        assert store.renew(HERE)
        assert not store.renew(THERE)
        self.pass_time(store, LONG + 1)
        store.expire()
        assert not store.renew(HERE)
        assert self.whole(store) == []

    @pytest.mark.parametrize("is_renewed", [False, True])
    def test_continued(self, store: PresenceStore, is_renewed: bool) -> None:
        """Rows that do not count never count again; the process is told once, and enters them."""
        before = store.enter(GROUP, entries("ann", "bob"), HERE)
        store.enter("room.2", entries("ann", "bob"), HERE)
        self.pass_time(store, LONG + 1)
        for name in (GROUP, "room.2"):
            assert self.whole(store, name) == []
        if is_renewed:
            assert not store.renew(HERE)
        assert store.enter(GROUP, entries("ann"), HERE)
        assert keys(store.read(GROUP, before)) == self.whole(store) == ["ann"]
        assert self.whole(store, "room.2") == []
        assert store.renew(HERE) is is_renewed
        assert store.renew(HERE)
        assert sorted(name for name, _ in store.expire()) == [GROUP, "room.2"]
        reading = store.read(GROUP, before)
        assert (keys(reading), reading.left) == (["ann"], ("bob",))
        assert self.whole(store) == ["ann"]
        assert self.whole(store, "room.2") == []
        assert store.enter("room.2", entries("ann", "bob"), HERE)
        assert self.whole(store, "room.2") == ["ann", "bob"]
        assert store.expire() == []

    def test_removed_before_it_continued(self, store: PresenceStore) -> None:
        """A process is told that others have removed its rows, also if it enters a row first."""
        other = self.another(store)
        store.enter(GROUP, entries("ann", "bob"), HERE)
        other.enter(GROUP, entries("cat"), THERE)
        self.pass_time(store, LONG + 1)
        assert not other.renew(THERE)
        assert [name for name, _ in other.expire()] == [GROUP]
        assert store.enter(GROUP, entries("ann"), HERE)
        assert not store.renew(HERE)
        assert store.enter(GROUP, entries("ann", "bob"), HERE)
        assert store.renew(HERE)
        assert self.whole(store) == ["ann", "bob"]

    def test_dead_rows(self, store: PresenceStore) -> None:
        """A key with only rows of a dead process joins again; the rows expire without a change."""
        store.enter(GROUP, entries("ann.1", "bob.1", "cat.1"), HERE)
        store.enter(GROUP, entries("cat.2"), THERE)
        before = store.read(GROUP)
        self.pass_time(store, LONG / 2)
        store.renew(THERE)
        self.pass_time(store, LONG / 2 + 1)
        assert self.whole(store) == ["cat"]
        assert store.read(GROUP, before.version) == Reading(before.version, False, ())
        version = store.enter(GROUP, entries("ann.3", "cat.3"), THERE)
        reading = store.read(GROUP, before.version)
        assert (reading.version, keys(reading), reading.left) == (version, ["ann"], ())
        assert self.whole(store) == ["cat", "ann"]
        assert reading.joined[0].since > before.joined[0].since
        assert store.read(GROUP).joined[0] == before.joined[2]
        assert [name for name, _ in store.expire()] == [GROUP]
        reading = store.read(GROUP, version)
        assert (keys(reading), reading.left) == ([], ("bob",))
        store.leave(GROUP, ["ann.3"], THERE)
        reading = store.read(GROUP, before.version)
        assert (keys(reading), set(reading.left)) == ([], {"ann", "bob"})

    def test_expired_once(self, store: PresenceStore) -> None:
        """Of several calls at the same time, one reports a leaving."""
        names = [f"room.{number}" for number in range(20)]
        handles = [store, *(self.another(store) for _ in range(3))]
        for name in names:
            store.enter(name, entries("ann", "bob"), HERE)
        seen = {name: store.read(name).version for name in names}
        self.pass_time(store, LONG + 1)
        with ThreadPoolExecutor(len(handles)) as pool:
            found = [each for result in pool.map(_expire, handles) for each in result]
        assert sorted(name for name, _ in found) == sorted(names)
        for name, version in found:
            reading = store.read(name, seen[name])
            assert (reading.version, sorted(reading.left)) == (version, ["ann", "bob"])
        assert sorted(store.changed(seen)) == sorted(names)

    # Many, odd and at the same time

    def test_changed(self, store: PresenceStore) -> None:
        """Of many groups, those with another version are found."""
        other = self.another(store)
        names = [f"room.{number}" for number in range(600)]
        seen = {name: store.enter(name, entries("ann"), HERE) for name in names}
        seen.update((f"empty.{number}", NO_GROUP) for number in range(600))
        assert store.changed({}) == []
        assert store.changed(seen) == other.changed(seen) == []
        for name in names[::3]:
            other.enter(name, entries("bob"), THERE)
        other.enter("empty.7", entries("bob"), THERE)
        expected = sorted([*names[::3], "empty.7"])
        assert sorted(store.changed(seen)) == sorted(other.changed(seen)) == expected
        for name in expected:
            seen[name] = store.read(name).version
        assert store.changed(seen) == []

    def test_names(self, store: PresenceStore) -> None:
        """Names, keys and infos may be any text; similar ones are different."""
        for number, name in enumerate(NAMES):
            assert store.enter(
                name, [Entry(f"{number}{key}", key, f'"{key}"') for key in NAMES], f"p{name}"
            )
        for number, name in enumerate(NAMES):
            assert infos(store.read(name)) == {key: f'"{key}"' for key in NAMES}
            assert store.renew(f"p{name}")
            before = store.read(name).version
            assert store.leave(name, [f"{number}{key}" for key in NAMES[::2]], f"p{name}")
            assert list(store.read(name, before).left) == NAMES[::2]
        assert not store.renew("pb")

    def test_names_of_groups(self, store: PresenceStore) -> None:
        """A group may have a prefix, and its name any characters that a primary key has."""
        names = ["acme\x1froom.1", "\x1froom.1", "room.1", "@user:1", "a\0", "\ud800", "x" * 2000]
        seen = {name: store.enter(name, entries("ann"), HERE) for name in names}
        assert store.changed(seen) == []
        self.pass_time(store, LONG + 1)
        assert sorted(name for name, _ in store.expire()) == sorted(names)
        assert sorted(store.changed(seen)) == sorted(names)

    def test_many(self, store: PresenceStore) -> None:
        """Some thousand connections enter and leave in one call."""
        many = entries(*(f"k{number}.{row}" for number in range(500) for row in range(2)))
        info = '{"name": "' + "x" * 100 + '"}'
        version = store.enter(GROUP, [each._replace(info=info) for each in many], HERE)
        reading = store.read(GROUP)
        assert keys(reading) == [f"k{number}" for number in range(500)]
        assert {person.info for person in reading.joined} == {info}
        assert store.leave(GROUP, [each.connection for each in many[::2]], HERE) == ""
        assert store.leave(GROUP, [each.connection for each in many], HERE)
        assert list(store.read(GROUP, version).left) == keys(reading)

    def test_expired_many(self, store: PresenceStore) -> None:
        """All rows of a process with many of them are removed by one call."""
        many = entries(*(f"k{number}" for number in range(1000)))
        before = store.enter(GROUP, many, HERE)
        store.enter("room.2", many, HERE)
        self.pass_time(store, LONG + 1)
        assert sorted(store.expire()) == sorted(
            (name, store.read(name).version) for name in (GROUP, "room.2")
        )
        assert len(store.read(GROUP, before).left) == 1000
        assert self.whole(store) == self.whole(store, "room.2") == []

    def test_threads(self, store: PresenceStore) -> None:
        """Threads of several processes change one key: it joins and leaves in turns."""
        handles = [store, *(self.another(store) for _ in range(3))]
        changes: list[tuple[int, str]] = []
        store.enter(GROUP, entries("eve"), HERE)
        is_over = threading.Event()
        state, version = {"eve"}, store.read(GROUP).version

        def work(which: int) -> None:
            chance = random.Random(which)
            handle, process = handles[which % 4], f"p{which % 4}"
            for _ in range(30):
                connection = f"ann.{which}"
                joined = handle.enter(GROUP, entries(connection), process)
                if joined:
                    changes.append((number_of(joined), "joined"))
                if chance.random() < 0.5:
                    handle.enter(GROUP, entries(connection), process)
                left = handle.leave(GROUP, [connection], process)
                if left:
                    changes.append((number_of(left), "left"))

        def follow() -> None:
            nonlocal version
            is_last = False
            while not is_last:
                is_last = is_over.is_set()
                reading = handles[1].read(GROUP, version)
                assert not reading.is_whole
                assert number_of(reading.version) >= number_of(version)
                assert state.issuperset(reading.left)
                assert not set(keys(reading)) & set(reading.left)
                state.difference_update(reading.left)
                state.update(keys(reading))
                version = reading.version

        with ThreadPoolExecutor(9) as pool:
            follower = pool.submit(follow)
            workers = [pool.submit(work, which) for which in range(8)]
            for worker in workers:
                worker.result()
            is_over.set()
            follower.result()
        changes.sort()
        assert len({number for number, _ in changes}) == len(changes)
        assert [what for _, what in changes] == ["joined", "left"] * (len(changes) // 2)
        assert state == set(self.whole(store)) == {"eve"}
        assert number_of(version) == changes[-1][0]

    def test_close(self, store: PresenceStore) -> None:
        """A store that was closed opens again."""
        version = store.enter(GROUP, entries("ann"), HERE)
        for _ in range(2):
            store.close()
        assert store.read(GROUP, version) == Reading(version, False, ())
        assert store.renew(HERE)


class SharedPresenceContract(PresenceContract):
    """The tests of a store that several processes share."""

    def another(self, store: PresenceStore) -> PresenceStore:
        """Return a second handle of the same store, as another process would have one."""
        raise NotImplementedError("override another()")

    def test_fork(self, store: PresenceStore) -> None:
        """A forked child and its parent use one store."""
        version = store.enter(GROUP, entries("ann"), HERE)
        children = []
        for number in range(2):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    store.enter(GROUP, entries(f"bob.{number}"), f"child{number}")
                    assert store.renew(HERE)
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        store.enter(GROUP, entries("cat"), HERE)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        reading = store.read(GROUP, version)
        assert sorted(keys(reading)) == ["bob", "cat"]
        assert self.another(store).read(GROUP, version) == reading

    def test_close_of_one(self, store: PresenceStore) -> None:
        """A process that ends leaves its rows to ``expire()`` of the others."""
        other = self.another(store)
        version = other.enter(GROUP, entries("ann"), THERE)
        other.close()
        assert store.read(GROUP, version) == Reading(version, False, ())
        self.pass_time(store, LONG + 1)
        assert [name for name, _ in store.expire()] == [GROUP]


def _expire(store: PresenceStore) -> list[tuple[str, str]]:
    return store.expire()
