"""The store in a SQLite file: the tests of all stores, processes, and faults of the file."""

from __future__ import annotations

import functools
import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from django_wsmux.exceptions import BackendMisconfigured, BackendUnavailable
from django_wsmux.history import sqlite_base
from django_wsmux.history.sqlite import SQLiteStore
from django_wsmux.presence import sqlite
from django_wsmux.presence.sqlite import SQLitePresence
from django_wsmux.presence.sqlite_statements import LAYOUT
from django_wsmux.presence.store import NO_GROUP, PresenceStore, Reading
from tests.history.contract import everything, fill, stream
from tests.services import wait_until_said
from tests.support import ROOT, TIMEOUT

from .contract import GROUP, HERE, LONG, THERE, SharedPresenceContract, entries, keys, number_of

#: Seconds that a call waits for other processes by default.
PATIENCE = sqlite_base._PATIENCE


def open_store(directory: Path) -> SQLitePresence:
    """Return a handle of the store in a directory."""
    return SQLitePresence(f"local://{directory}", namespace="tests", backend=None)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may keep a process from the processor for long."""
    monkeypatch.setattr(sqlite_base, "_PATIENCE", TIMEOUT)
    monkeypatch.setattr(PresenceStore, "leaving_seconds", LONG)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLitePresence]:
    """An empty store."""
    store = open_store(tmp_path)
    yield store
    store.close()


class TestSQLitePresence(SharedPresenceContract):
    """The contract."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[PresenceStore]:
        """Return an empty store."""
        self.directory = tmp_path
        self.handles = [open_store(tmp_path)]
        yield self.handles[0]
        for handle in self.handles:
            handle.close()

    def another(self, store: PresenceStore) -> PresenceStore:
        """Return a second handle, with its own connection."""
        self.handles.append(open_store(self.directory))
        return self.handles[-1]

    def pass_time(self, store: PresenceStore, seconds: float) -> None:
        """Set back all moments."""
        assert isinstance(store, SQLitePresence)
        change(store, "UPDATE process SET seen = seen - :by", by=seconds)
        change(store, "UPDATE gone SET moment = moment - :by", by=seconds)


def change(store: SQLitePresence, statement: str, *, by: float) -> None:
    """Change the file, as another process may. ``:by`` is a time in seconds."""
    with closing(sqlite3.connect(store.path, timeout=TIMEOUT)) as connection:
        connection.execute(statement, {"by": int(by * 1_000_000)})
        connection.commit()


def store_in(directory: Path, action: Callable[[SQLitePresence], object]) -> int:
    """Start a process that has a store in the directory; return its id.

    It exits with 0 unless the action raises.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action(open_store(directory))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def test_beside_history(tmp_path: Path) -> None:
    """The file is in the private folder of the history, and neither harms the other."""
    store = open_store(tmp_path)
    version = store.enter(GROUP, entries("ann"), HERE)
    history = SQLiteStore(f"local://{tmp_path}", namespace="tests", backend=None)
    fill(history, stream(), 3)
    assert Path(store.path).parent == Path(history.path).parent
    assert store.path != history.path
    assert Path(store.path).parent.stat().st_mode & 0o777 == 0o700
    for each in (store, history):
        for suffix in ("", "-wal", "-shm"):
            Path(each.path + suffix).unlink(missing_ok=True)
        assert bool(everything(history, stream()).entries) == (each is store)
    assert store.read(GROUP, version).is_whole
    history.close()
    store.close()


def change_for_ever(store: SQLitePresence, which: int, log: int, steps: int) -> None:
    """Enter and leave some keys at random, and log the versions."""
    chance = random.Random(which)
    for _ in itertools.repeat(None, steps):
        key = f"k{chance.randrange(200)}"
        connection = f"{key}.{which}"
        if chance.random() < 0.6:
            what, version = "+", store.enter(GROUP, entries(connection), f"p{which}")
        else:
            what, version = "-", store.leave(GROUP, [connection], f"p{which}")
        if version:
            os.write(log, f"{number_of(version)} {what} {key}\n".encode())


def changes_of(logs: list[Path]) -> list[tuple[int, str, str]]:
    """Return number, kind and key of all changes that were logged, in their order."""
    found = []
    for path in logs:
        for line in path.read_text().splitlines():
            number, what, key = line.split()
            found.append((int(number), what, key))
    return sorted(found)


def check_turns(changes: list[tuple[int, str, str]]) -> None:
    """Check that each key joined and left in turns. A killed process may have logged one less."""
    numbers = [number for number, _, _ in changes]
    missing = set(range(1, numbers[-1] + 1)) - set(numbers)
    assert len(set(numbers)) == len(numbers)
    assert len(missing) <= 1
    of_keys: dict[str, list[tuple[int, str]]] = defaultdict(lambda: [(0, "-")])
    for number, what, key in changes:
        of_keys[key].append((number, what))
    breaks = [
        (first[0], second[0])
        for turns in of_keys.values()
        for first, second in pairwise(turns)
        if first[1] == second[1]
    ]
    assert len(breaks) <= len(missing)
    assert all(low < number < high for (low, high), number in zip(breaks, missing, strict=False))


def test_processes(store: SQLitePresence, tmp_path: Path) -> None:
    """If one of four processes at full speed is killed, each key that only it had leaves once."""
    version = store.enter(GROUP, entries("eve"), THERE)
    logs = [tmp_path / f"log{which}" for which in range(4)]
    children = []
    for which, path in enumerate(logs):
        log = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        steps = 2000 if which else 10**9
        work = functools.partial(change_for_ever, which=which, log=log, steps=steps)
        children.append(store_in(tmp_path, work))
        os.close(log)
    is_over = threading.Event()

    def follow() -> set[str]:
        """Read all changes as they come; return who is present at the end."""
        state = {"eve"}
        known, is_last = version, False
        while not is_last:
            is_last = is_over.is_set()
            reading = store.read(GROUP, known)
            assert not reading.is_whole
            assert state.issuperset(reading.left)
            state.difference_update(reading.left)
            state.update(keys(reading))
            known = reading.version
        return state

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow)
        try:
            wait_until_said(lambda: logs[0].read_bytes().count(b"\n") > 300)
            os.kill(children[0], signal.SIGKILL)
            assert os.waitpid(children[0], 0)[1] == signal.SIGKILL
            assert [os.waitpid(child, 0)[1] for child in children[1:]] == [0, 0, 0]
        finally:
            is_over.set()
        present = following.result()
    check_turns([(1, "+", "eve"), *changes_of(logs)])
    before = store.read(GROUP)
    assert present == set(keys(before))

    # The other processes have just shown a sign of life.
    with closing(sqlite3.connect(store.path)) as connection:
        processes = defaultdict(set)
        for key, process in connection.execute(
            "SELECT key, name FROM connection AS c JOIN process AS p ON p.id = process "
            "JOIN person ON person.id = person"
        ):
            processes[key].add(process)
    change(store, "UPDATE process SET seen = seen - :by WHERE name = 'p0'", by=LONG)
    alone = {key for key, names in processes.items() if names == {"p0"}}
    assert 0 < len(alone) < len(present)
    handles = [store, *(open_store(tmp_path) for _ in range(3))]
    with ThreadPoolExecutor(len(handles)) as pool:
        found = [each for result in pool.map(SQLitePresence.expire, handles) for each in result]
    after = store.read(GROUP, before.version)
    assert [version for name, version in found if name == GROUP] == [after.version]
    assert set(after.left) == alone
    assert len(after.left) == len(alone) == number_of(after.version) - number_of(before.version)
    assert set(keys(store.read(GROUP))) == present - alone
    for handle in handles:
        handle.close()


def test_slices(store: SQLitePresence, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is removed in several transactions is removed completely, and each group told once."""
    monkeypatch.setattr(sqlite, "_SLICE", 7)
    names = [f"room.{number}" for number in range(5)]
    many = entries(*(f"k{number}" for number in range(10)))
    for name in names:
        store.enter(name, many, HERE)
        store.enter(name, entries("k5.b", "k6.b"), THERE)
    seen = {name: store.read(name).version for name in names}
    known = seen | {f"empty.{number}": NO_GROUP for number in range(10)} | {"room.2": NO_GROUP}
    assert store.changed(known) == ["room.2"]
    change(store, "UPDATE process SET seen = seen - :by WHERE name = 'here'", by=LONG)
    assert sorted(store.expire()) == [(name, store.read(name).version) for name in names]
    for name in names:
        assert len(store.read(name, seen[name]).left) == 8
        assert keys(store.read(name)) == ["k5", "k6"]
    change(store, "UPDATE gone SET moment = moment - :by", by=store.left_seconds)
    assert store.expire() == []
    assert all(store.read(name, seen[name]).is_whole for name in names)


def test_all_killed(tmp_path: Path) -> None:
    """Rows outlive the processes that entered them, however these end."""

    def enter_and_die(store: SQLitePresence) -> None:
        store.enter(GROUP, entries("ann"), HERE)
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(os.waitpid(store_in(tmp_path, enter_and_die), 0)[1]) == signal.SIGKILL
    with closing(open_store(tmp_path)) as store:
        before = store.read(GROUP, "")
        assert store.renew(THERE) is False
        change(store, "UPDATE process SET seen = seen - :by", by=store.leaving_seconds)
        assert [name for name, _ in store.expire()] == [GROUP]
        assert store.read(GROUP, before.version).left == ("ann",)


def test_fork_during_use(store: SQLitePresence) -> None:
    """A process may fork while another thread of it enters and leaves."""
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            assert store.enter(GROUP, entries("ann"), HERE)
            assert store.leave(GROUP, ["ann"], HERE)

    version = store.enter(GROUP, entries("eve"), HERE)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            for number in range(5):
                child = os.fork()
                if child == 0:
                    status = 1
                    try:
                        assert store.enter(GROUP, entries(f"k{number}"), f"child{number}")
                        status = 0
                    finally:
                        os._exit(status)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            is_over.set()
        working.result()
    reading = store.read(GROUP, version)
    assert (keys(reading), reading.left) == ([f"k{number}" for number in range(5)], ())


def test_locked(store: SQLitePresence, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process writes for long, nothing changes; the list can be read."""
    version = store.enter(GROUP, entries("ann"), HERE)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(sqlite_base, "_PATIENCE", PATIENCE)
        for use in (
            lambda: store.enter(GROUP, entries("bob"), HERE),
            lambda: store.leave(GROUP, ["ann"], HERE),
            lambda: store.renew(HERE),
        ):
            with pytest.raises(BackendUnavailable, match="has been locked by other processes for"):
                use()
        assert keys(store.read(GROUP)) == ["ann"]
        assert store.changed({GROUP: version}) == []
        assert store.expire() == []
        other.execute("COMMIT")
    assert store.leave(GROUP, ["ann"], HERE)


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sqlite3, sys, gevent
from django.conf import settings
settings.configure()
from django_wsmux.presence.sqlite import SQLitePresence
from django_wsmux.presence.store import Entry

store = SQLitePresence(sys.argv[1], namespace="tests", backend=None)
store.enter("room.1", [Entry("ann", "ann", "null")], "here")
other = sqlite3.connect(store.path, isolation_level=None)
other.execute("BEGIN IMMEDIATE")
writes = [
    gevent.spawn(store.enter, "room.1", [Entry(f"c{number}", f"k{number % 5}", "null")], "here")
    for number in range(20)
]
reads = [gevent.spawn(store.read, "room.1") for _ in range(20)]
for _ in range(10):
    gevent.sleep(0)
assert not any(write.ready() for write in writes)
gevent.joinall(reads, raise_error=True)
other.execute("COMMIT")
gevent.joinall(writes, raise_error=True)
print(sum(bool(write.value) for write in writes), len(store.read("room.1").joined))
"""


def test_gevent(tmp_path: Path) -> None:
    """While greenlets wait for the lock, other greenlets run, including the holder of the lock."""
    result = subprocess.run(
        [sys.executable, "-c", GREENLETS, f"local://{tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (result.stdout, result.stderr) == ("5 6\n", "")


def test_full(store: SQLitePresence) -> None:
    """On a full disk nothing changes; later calls succeed when there is space again."""
    store.enter(GROUP, entries("ann"), HERE)
    assert store._connection is not None
    store._connection.execute("PRAGMA max_page_count = 30")
    many = entries(*(f"k{number}" for number in range(200)), info=f'"{"x" * 1000}"')
    with pytest.raises(BackendUnavailable, match=r"the disk is full.*free some space"):
        store.enter(GROUP, many, HERE)
    assert keys(store.read(GROUP)) == ["ann"]
    assert store.enter(GROUP, many, HERE)
    assert len(keys(store.read(GROUP))) == 201


def test_newer_layout(store: SQLitePresence) -> None:
    """A process of an older release refuses the file."""
    store.enter(GROUP, entries("ann"), HERE)
    change(store, f"PRAGMA user_version = {LAYOUT.number + 1}", by=0)
    for use in (store.expire, lambda: store.renew(HERE), lambda: store.read(GROUP)):
        with pytest.raises(BackendUnavailable, match="of a newer release"):
            use()
    change(store, f"PRAGMA user_version = {LAYOUT.number}", by=0)
    assert store.renew(HERE)


def test_deleted_before_entering(store: SQLitePresence) -> None:
    """A process is told that the file was deleted, also if it enters a connection first."""
    store.enter(GROUP, entries("ann", "bob"), HERE)
    shutil.rmtree(Path(store.path).parent)
    assert store.enter(GROUP, entries("ann"), HERE)
    assert not store.renew(HERE)
    assert store.enter(GROUP, entries("ann", "bob"), HERE)
    assert store.renew(HERE)


@pytest.mark.parametrize("lost", [["", "-wal", "-shm"], ["-wal"], ["-shm"], [""], None], ids=str)
def test_deleted(store: SQLitePresence, tmp_path: Path, lost: list[str] | None) -> None:
    """If something deletes the files, all processes learn to enter their connections again."""
    other = open_store(tmp_path)
    store.enter(GROUP, entries("ann"), HERE)
    old = other.enter(GROUP, entries("bob"), THERE)
    if lost is None:
        shutil.rmtree(Path(store.path).parent.parent)
    else:
        for suffix in lost:
            Path(store.path + suffix).unlink()
    assert not store.renew(HERE)
    assert store.enter(GROUP, entries("ann"), HERE)
    assert not other.renew(THERE)
    assert other.changed({GROUP: old}) == [GROUP]
    assert other.enter(GROUP, entries("bob"), THERE)
    for handle in (store, other):
        reading = handle.read(GROUP, old)
        assert (reading.is_whole, keys(reading)) == (True, ["ann", "bob"])
    assert store.renew(HERE)
    assert other.renew(THERE)
    other.close()


def test_other_boot(store: SQLitePresence) -> None:
    """A file of another boot is replaced: its moments mean nothing now."""
    old = store.enter(GROUP, entries("ann"), HERE)
    store.close()
    change(store, "UPDATE store SET boot = 'another'", by=0)
    assert store.read(GROUP, old) == Reading(NO_GROUP, True, ())
    assert not store.renew(HERE)


def test_clock_set(store: SQLitePresence, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process dies because the machine's clock is set."""
    store.enter(GROUP, entries("ann"), HERE)
    moment = time.time()
    monkeypatch.setattr(time, "time", lambda: moment + 10**6)
    assert store.renew(HERE)
    assert store.expire() == []
    store.enter(GROUP, entries("bob"), HERE)
    assert store.read(GROUP).joined[1].since == moment + 10**6


def test_damaged(store: SQLitePresence) -> None:
    """A damaged file is not used; the error names the folder to remove."""
    store.enter(GROUP, entries("ann"), HERE)
    store.close()
    Path(store.path).write_bytes(b"x" * 10_000)
    with pytest.raises(BackendUnavailable, match=r"is damaged.*remove the folder.*is present"):
        store.renew(HERE)


def test_old_sqlite(store: SQLitePresence, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLite that is too old is refused before it makes a file."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(BackendMisconfigured, match=r"too old for presence: it must be 3\.35\.0"):
        store.read(GROUP)
    assert not Path(store.path).exists()


def test_space(store: SQLitePresence) -> None:
    """The file returns the space of those who have left."""
    many = entries(*(f"k{number}" for number in range(2000)), info=f'"{"x" * 1000}"')
    store.enter(GROUP, many, HERE)
    store.close()
    assert os.path.getsize(store.path) > 2_000_000
    store.leave(GROUP, [each.connection for each in many], HERE)
    change(store, "UPDATE gone SET moment = moment - :by", by=store.left_seconds)
    store.expire()
    store.close()
    assert os.path.getsize(store.path) < 1_500_000
    with closing(sqlite3.connect(store.path)) as connection:
        for table in ("room", "person", "connection", "gone"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
