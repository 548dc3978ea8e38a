"""The store in a SQLite file: the tests of all stores, and faults of the file."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from django.test import override_settings

from django_wsmux.backends.local import LocalBackend
from django_wsmux.exceptions import BackendMisconfigured, BackendUnavailable
from django_wsmux.history import sqlite, sqlite_base, sqlite_file, sqlite_tables
from django_wsmux.history.sqlite import SQLiteStore
from django_wsmux.history.sqlite_file import file_system
from django_wsmux.history.sqlite_tables import LAYOUT
from django_wsmux.history.store import IDLE_SECONDS, Store, Stream
from django_wsmux.protocol.positions import moment_of
from tests.support import ROOT, TIMEOUT

from .contract import (
    SOON,
    SharedStoreContract,
    bodies,
    everything,
    fill,
    offsets,
    stream,
    wait_until,
)

#: Seconds that a call waits for other processes by default.
PATIENCE = sqlite_base._PATIENCE

LOCKED = "has been locked by other processes for"


def open_store(directory: Path) -> SQLiteStore:
    """Return a handle of the store in a directory."""
    return SQLiteStore(f"local://{directory}", namespace="tests", backend=None)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may keep a process that writes from the processor for more than a second."""
    monkeypatch.setattr(sqlite_base, "_PATIENCE", TIMEOUT)


@contextmanager
def impatient() -> Iterator[None]:
    """Wait for others as long as by default, within the block."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sqlite_base, "_PATIENCE", PATIENCE)
        yield


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    """An empty store."""
    store = open_store(tmp_path)
    yield store
    store.close()


class TestSQLiteStore(SharedStoreContract):
    """The contract."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        """Return an empty store."""
        self.directory = tmp_path
        self.handles = [open_store(tmp_path)]
        yield self.handles[0]
        for handle in self.handles:
            handle.close()

    def another(self, store: Store) -> Store:
        """Return a second handle, with its own connection."""
        self.handles.append(open_store(self.directory))
        return self.handles[-1]

    def make_idle(self, store: Store, of: Stream) -> None:
        """Set back the row's time of use, and the time of its sweep."""
        assert isinstance(store, SQLiteStore)
        assert store._connection is not None
        idle, name = IDLE_SECONDS * 1_000_000, of.name.encode()
        store._connection.execute(
            "UPDATE message SET sent = sent - ? WHERE stream = "
            "(SELECT stream FROM stream WHERE name = ?)",
            (idle, name),
        )
        store._connection.execute("UPDATE stream SET due = due - ? WHERE name = ?", (idle, name))


def store_in(directory: Path, action: Callable[[SQLiteStore], object]) -> int:
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


def sql(store: SQLiteStore, *statements: str) -> None:
    """Change the file of a store that is closed."""
    with closing(sqlite3.connect(store.path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_private(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Only the user can enter the folder, and the backend's sockets are not in it."""
    short_path = tmp_path_factory.mktemp("s")  # the path of a socket is limited
    store = open_store(short_path)
    fill(store, stream(), 1)
    folder = Path(store.path).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    stale = [folder.parent / f".stale{number}" for number in range(8)]
    for path in stale:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    for path in (folder, *stale):
        os.utime(path, (0, 0))
    backend = LocalBackend(f"local://{short_path}", namespace="tests")
    assert Path(backend.directory) == folder.parent
    backend.start(lambda channel, payload: None)
    try:
        backend.publish("channel", b"a")
        assert not any(path.exists() for path in stale)
        assert everything(store, stream()).top == 1
        assert store._file.is_current()
    finally:
        backend.close()
        store.close()


def test_first_of_many(tmp_path: Path) -> None:
    """Processes that make the file at the same time have one sequence."""
    children = [store_in(tmp_path, lambda store: fill(store, stream(), 5)) for _ in range(6)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    with closing(open_store(tmp_path)) as store:
        assert offsets(everything(store, stream())) == list(range(1, 31))


def test_fork_during_use(store: SQLiteStore) -> None:
    """A process may fork while another thread of it sends."""
    is_over = threading.Event()
    sent = []

    def send() -> None:
        while not is_over.is_set():
            sent.append(store.append(stream(messages=10**6), b"a"))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    fill(store, stream(messages=10**6), 5)
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        is_over.set()
        thread.join()
    reading = everything(store, stream(messages=10**6))
    assert None not in sent
    assert offsets(reading) == list(range(1, len(sent) + 26))


def test_killed(store: SQLiteStore, tmp_path: Path) -> None:
    """If a process is killed while it sends, no message is lost."""
    fill(store, stream(), 1)

    def send_for_ever(store: SQLiteStore) -> None:
        while True:
            store.append(stream(messages=10**6), b"a")

    child = store_in(tmp_path, send_for_ever)
    wait_until(lambda: store.read(stream()).top > 50)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    top = store.read(stream()).top
    fill(store, stream(messages=10**6), 10)
    reading = everything(store, stream(messages=10**6))
    assert offsets(reading) == list(range(1, top + 11))


def test_all_killed(tmp_path: Path) -> None:
    """Messages outlive the processes that sent them, however these end."""

    def send_and_die(store: SQLiteStore) -> None:
        fill(store, stream(), 20)
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(os.waitpid(store_in(tmp_path, send_and_die), 0)[1]) == signal.SIGKILL
    with closing(open_store(tmp_path)) as store:
        assert offsets(everything(store, stream())) == list(range(1, 21))
        fill(store, stream(), 1)
        assert store.read(stream()).top == 21


def test_locked(store: SQLiteStore) -> None:
    """While another process writes for long, nothing is sent; the history can be read."""
    fill(store, stream(), 1)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for send in (
            lambda: store.append(stream(), b"b"),
            lambda: store.append(stream(), b"b", key="key"),
            lambda: store.forget(stream()),
        ):
            with impatient(), pytest.raises(BackendUnavailable, match=LOCKED):
                send()
        assert bodies(everything(store, stream())) == [b"1"]
        other.execute("COMMIT")
    fill(store, stream(), 1)
    assert offsets(everything(store, stream())) == [1, 2]


def test_locked_while_opening(store: SQLiteStore, tmp_path: Path) -> None:
    """A process that is stopped while it makes the file does not block others for ever."""
    fill(store, stream(), 1)
    folder = os.open(Path(store.path).parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with (
            closing(open_store(tmp_path)) as other,
            impatient(),
            pytest.raises(BackendUnavailable, match=LOCKED),
        ):
            other.read(stream())
        fill(store, stream(), 1)
    finally:
        os.close(folder)
    with closing(open_store(tmp_path)) as other:
        assert other.read(stream()).top == 2


def test_locked_for_a_moment(store: SQLiteStore) -> None:
    """A call waits for another process that writes."""
    fill(store, stream(), 1)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        sent: list[object] = []
        thread = threading.Thread(target=lambda: sent.append(store.append(stream(), b"b")))
        thread.start()
        other.execute("COMMIT")
        thread.join()
    assert offsets(everything(store, stream())) == [1, 2]
    assert None not in sent


def test_stopped(store: SQLiteStore, tmp_path: Path) -> None:
    """A process that is stopped inside its transaction does not block others for ever."""
    fill(store, stream(), 1)

    def stop_inside(store: SQLiteStore) -> None:
        fill(store, stream(), 1)
        assert store._connection is not None
        with sqlite_file.writing(store._connection):
            os.kill(os.getpid(), signal.SIGSTOP)

    child = store_in(tmp_path, stop_inside)
    try:
        assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
        with (
            impatient(),
            pytest.raises(BackendUnavailable, match="resume or kill stopped processes"),
        ):
            store.append(stream(), b"b")
        assert offsets(everything(store, stream())) == [1, 2]
    finally:
        os.kill(child, signal.SIGCONT)
    assert os.waitpid(child, 0)[1] == 0
    fill(store, stream(), 1)
    assert offsets(everything(store, stream())) == [1, 2, 3]


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sqlite3, sys, gevent
from django.conf import settings
settings.configure()
from django_wsmux.history.sqlite import SQLiteStore
from django_wsmux.history.sqlite_tables import LAYOUT
from django_wsmux.history.store import Keep, Stream

stream = Stream("room.1", Keep(10, 600), "")
store = SQLiteStore(sys.argv[1], namespace="tests", backend=None)
store.append(stream, b"a")
other = sqlite3.connect(store.path, isolation_level=None)
other.execute("BEGIN IMMEDIATE")
sends = [gevent.spawn(store.append, stream, b"b") for _ in range(20)]
reads = [gevent.spawn(store.read, stream, 0, 10) for _ in range(20)]
for _ in range(10):
    gevent.sleep(0)
assert not any(send.ready() for send in sends)
gevent.joinall(reads, raise_error=True)
other.execute("COMMIT")
gevent.joinall(sends, raise_error=True)
print(sorted(send.value.offset for send in sends) == list(range(2, 22)))
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
    assert (result.stdout, result.stderr) == ("True\n", "")


def test_full(store: SQLiteStore) -> None:
    """On a full disk, nothing is sent, and offsets continue when there is space again."""
    fill(store, stream(), 3)
    assert store._connection is not None
    store._connection.execute("PRAGMA max_page_count = 30")
    with pytest.raises(BackendUnavailable, match=r"the disk is full.*free some space"):
        store.append(stream(), b"x" * 200_000)
    fill(store, stream(), 1)
    assert offsets(everything(store, stream())) == [1, 2, 3, 4]


def test_write_fails(store: SQLiteStore, tmp_path: Path) -> None:
    """A write that the system refuses, because of a limit for files, is an error."""
    fill(store, stream(), 3)

    def send_too_much(store: SQLiteStore) -> None:
        fill(store, stream(), 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
        with pytest.raises(BackendUnavailable, match=r"cannot be read or written.*limits"):
            store.append(stream(), b"x" * 500_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        fill(store, stream(), 1)

    assert os.waitpid(store_in(tmp_path, send_too_much), 0)[1] == 0
    fill(store, stream(), 1)
    assert offsets(everything(store, stream())) == [1, 2, 3, 4, 5, 6]


def test_newer_layout(store: SQLiteStore) -> None:
    """A process of an older release refuses to send and to read."""
    fill(store, stream(), 1)
    sql(store, f"PRAGMA user_version = {LAYOUT.number + 1}")
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="of a newer release"):
            store.sweep()
    for use in (lambda: store.append(stream(), b"a"), lambda: store.read(stream())):
        with pytest.raises(BackendUnavailable, match="restart this process with that release"):
            use()
    sql(store, f"PRAGMA user_version = {LAYOUT.number}")
    assert store.read(stream()).top == 1


def test_older_layout(store: SQLiteStore, tmp_path: Path) -> None:
    """A file of an older release is replaced; a process of that release then refuses it."""
    fill(store, stream(), 3)
    old = store.read(stream()).store
    store.close()
    sql(
        store,
        "DROP TABLE message",
        "CREATE TABLE message (number INTEGER PRIMARY KEY, name BLOB)",
        f"PRAGMA user_version = {LAYOUT.number - 1}",
    )
    with closing(open_store(tmp_path)) as other:
        fill(other, stream(), 1)
        fill(store, stream(), 1)
        assert other.read(stream()).store != old
        assert offsets(everything(store, stream())) == [1, 2]
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (LAYOUT.number,)


def test_old_sqlite(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLite that is too old is refused before it makes a file."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(BackendMisconfigured, match=r"too old for a history: it must be 3\.35\.0"):
        store.read(stream())
    assert not Path(store.path).exists()


def test_other_boot(store: SQLiteStore) -> None:
    """A file of another boot is replaced: the last messages may be missing."""
    fill(store, stream(), 3)
    old = store.read(stream()).store
    store.close()
    sql(store, "UPDATE store SET boot = 'another'")
    reading = store.read(stream())
    assert reading.store != old
    assert reading.top == 0
    fill(store, stream(), 1)
    store.close()
    assert store.read(stream()).store == reading.store


def test_incomplete(store: SQLiteStore) -> None:
    """A file that a killed process left without tables is made again."""
    Path(store.path).parent.mkdir(parents=True)
    Path(store.path).parent.parent.chmod(0o700)
    Path(store.path).touch()
    fill(store, stream(), 1)


@pytest.mark.parametrize("lost", [["", "-wal", "-shm"], ["-wal"], ["-shm"], [""], None], ids=str)
def test_deleted(store: SQLiteStore, tmp_path: Path, lost: list[str] | None) -> None:
    """Files that something deletes are made again, with another epoch, by all processes."""
    other = open_store(tmp_path)
    for handle in (store, other):
        fill(handle, stream(), 3)
    old = store.read(stream()).store
    seen, _ = other.changed("")
    if lost is None:
        shutil.rmtree(Path(store.path).parent.parent)
    else:
        for suffix in lost:
            Path(store.path + suffix).unlink()
    store.sweep()
    fill(store, stream(), 1)
    new = store.read(stream())
    assert new.store != old
    assert new.top == 1
    assert other.changed(seen) == ("", [])
    assert other.changed("") == (f"{new.store}.2", [])
    fill(other, stream(), 1)
    store.sweep()
    assert store.read(stream()).top == 2
    assert store.read(stream()).store == other.read(stream()).store == new.store
    other.close()


def test_log_made_again(store: SQLiteStore, tmp_path: Path) -> None:
    """A process that starts after the log was deleted must not continue with old offsets."""
    fill(store, stream(), 3)
    old = store.read(stream()).store
    Path(store.path + "-wal").unlink()
    with closing(open_store(tmp_path)) as other:
        with suppress(BackendUnavailable):
            other.read(stream())
        store.sweep()
        other.sweep()
        for handle in (store, other):
            assert handle.read(stream()).store != old
            assert handle.read(stream()).top == 0
        fill(store, stream(), 1)
        fill(other, stream(), 1)
    assert offsets(everything(store, stream())) == [1, 2]


def test_clock_set_back(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new epoch is later than the last one, even if the machine's clock is set back."""
    fill(store, stream(), 1)
    old = moment_of(store.read(stream()).epoch)[1]
    monkeypatch.setattr(sqlite, "now", lambda: 1_000_000)
    assert moment_of(store.forget(stream()))[1] == old + 1
    assert moment_of(store.forget(stream()))[1] == old + 2


@pytest.mark.parametrize("begin", [0, 4096])
def test_damaged(store: SQLiteStore, begin: int) -> None:
    """A damaged file is not used; the error names the folder to remove."""
    fill(store, stream(), 3)
    store.close()
    with open(store.path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(begin)
        file.write(b"x" * (size - begin))
    for use in (lambda: store.append(stream(), b"a"), lambda: store.read(stream()), store.sweep):
        with pytest.raises(BackendUnavailable, match=r"is damaged.*remove the folder") as caught:
            use()
        assert str(Path(store.path).parent) in str(caught.value)
    shutil.rmtree(Path(store.path).parent)
    fill(store, stream(), 1)
    assert store.read(stream()).top == 1


def test_unreadable(store: SQLiteStore) -> None:
    """A file that cannot be opened is an error."""
    fill(store, stream(), 1)
    store.close()
    os.unlink(store.path)
    os.mkdir(store.path)
    with pytest.raises(BackendUnavailable, match=r"cannot be opened.*must own"):
        store.read(stream())


def test_directory_of_others(store: SQLiteStore) -> None:
    """A directory that other users can enter is refused, as for the sockets."""
    fill(store, stream(), 1)
    store.close()
    Path(store.path).parent.parent.chmod(0o755)
    with pytest.raises(BackendMisconfigured, match="only this user can enter"):
        store.read(stream())


def test_missing_parent(tmp_path: Path) -> None:
    """The directory of the URL must exist."""
    with pytest.raises(BackendMisconfigured, match="must exist and be writable"):
        open_store(tmp_path / "missing").read(stream())


def test_file_systems(tmp_path: Path) -> None:
    """The type of the file system of a path is that of its device."""
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 1000:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"36 35 {number} / /srv rw,noatime master:1 - nfs4 server:/srv rw\n"
    )
    assert file_system(str(tmp_path), str(table)) == "nfs4"
    assert file_system(str(tmp_path)) not in ("", "nfs4")
    table.write_text("")
    assert file_system(str(tmp_path), str(table)) == ""


def test_remote_file_system(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory on a network file system is refused."""
    monkeypatch.setattr(sqlite_file, "file_system", lambda path: "nfs4")
    with pytest.raises(BackendMisconfigured, match=r"network file system \(nfs4\).*local disk"):
        store.read(stream())


def test_other_limits_of_stream(store: SQLiteStore) -> None:
    """A change of the settings applies to messages that were stored before."""
    fill(store, stream(messages=100), 100)
    fill(store, stream(messages=10), 1)
    assert offsets(everything(store, stream(messages=100))) == list(range(92, 102))
    fill(store, stream(messages=10, seconds=0.01), 1)

    def are_deleted() -> bool:
        store.sweep()
        return not everything(store, stream()).entries

    wait_until(are_deleted)


def test_sizes(store: SQLiteStore) -> None:
    """The sizes of each stream are right, however messages are deleted."""
    for of in (stream("a", messages=16), stream("b", bytes=5000), stream("c", seconds=SOON)):
        fill(store, of, 100, size=500)
    fill(store, stream("d"), 10)
    store.forget(stream("d"))
    with override_settings(WEBSOCKET_HISTORY_BYTES=40_000):
        store.sweep()
    fill(store, stream("a", messages=16), 1, size=500)
    assert store._connection is not None
    size = 0
    tops: dict[int, tuple[int, int]] = {}
    for number, offset, total, length in store._connection.execute(
        "SELECT stream, offset, total, length(body) FROM message ORDER BY number"
    ).fetchall():
        last, before = tops.get(number, (offset - 1, total - (length or 0)))
        assert offset == last + 1
        assert total == before + (length or 0)
        tops[number] = offset, total
        size += length or 0
    assert 0 < size <= 40_000
    assert len(tops) == 4
    assert sorted(total for _, total in tops.values()) == [0, 50_000, 50_000, 50_500]


def test_excess(store: SQLiteStore) -> None:
    """Messages beyond the limits are deleted after an eighth more, by every process."""
    for number in range(300):
        fill(store, stream("a", messages=80), 1)
        fill(store, stream("b", bytes=8000), 1, size=100)
        assert store._connection is not None
        for table, most in (("a", 90), ("b", 91)):
            count = store._connection.execute(
                "SELECT count(*) FROM message WHERE stream = "
                "(SELECT stream FROM stream WHERE name = ?)",
                (table.encode(),),
            ).fetchone()[0]
            assert min(number, 79) < count <= most


def test_deletion_of_excess_fails(store: SQLiteStore, tmp_path: Path) -> None:
    """A message is sent although excess messages cannot be deleted; they are deleted later."""
    few = stream(messages=1)
    fill(store, few, 1)
    connection = store._connection
    assert connection is not None
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:

        def lock(statement: str) -> None:
            if statement.startswith("BEGIN") and not other.in_transaction:
                other.execute("BEGIN IMMEDIATE")

        connection.set_trace_callback(lock)
        fill(store, few, sqlite._MIN_STEP - 1)
        assert other.in_transaction
        connection.set_trace_callback(None)
        other.execute("ROLLBACK")
    count = "SELECT count(*) FROM message"
    assert connection.execute(count).fetchone()[0] > 1
    fill(store, few, sqlite._MIN_STEP)
    assert connection.execute(count).fetchone() == (1,)
    assert store.read(few).top == 2 * sqlite._MIN_STEP


def test_others_change_stream(store: SQLiteStore, tmp_path: Path) -> None:
    """A process notices that a stream that it remembers was forgotten, or is idle, or deleted."""
    other = open_store(tmp_path)
    short = stream(seconds=SOON)
    fill(store, stream(), 3)
    for _ in range(3):
        epoch = other.forget(stream())
        appended = [store.append(stream(), b"a"), other.append(stream(), b"b")]
        assert [each and each[:2] for each in appended] == [(epoch, 1), (epoch, 2)]
    fill(store, short, 1)
    wait_until(lambda: not everything(store, short).entries)
    other.sweep()
    appended = [store.append(short, b"c")]
    assert [each and each[:2] for each in appended] == [(epoch, 4)]

    def is_deleted() -> bool:
        other.sweep()
        return not everything(other, stream()).entries

    wait_until(is_deleted)
    other.close()


def test_settings_of_others(
    store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seconds of the settings are compared with those of the file each minute."""
    other = open_store(tmp_path)
    fill(store, stream(), 1)
    fill(other, stream(seconds=10**6), 1)
    lifetime = "SELECT lifetime FROM stream"
    for minutes, expected in ((0, 10**12), (2, 600 * 10**6)):
        moment = sqlite_tables.now() + minutes * 60 * 10**6
        monkeypatch.setattr(sqlite, "now", lambda moment=moment: moment)
        fill(store, stream(), 1)
        assert store._connection is not None
        assert store._connection.execute(lifetime).fetchone() == (expected,)
    other.close()


def test_many_streams(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process remembers a limited number of streams."""
    monkeypatch.setattr(sqlite, "_MAX_KNOWN", 5)
    for _ in range(2):
        for number in range(12):
            fill(store, stream(f"room.{number}"), 2)
            assert len(store._known) <= 5
    assert [store.read(stream(f"room.{number}")).top for number in range(12)] == [4] * 12


def test_changed_in_slices(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes are read in slices, and each stream is returned once."""
    seen, _ = store.changed("")
    monkeypatch.setattr(sqlite, "_CHANGES", 7)
    for _ in range(3):
        for number in range(14):
            fill(store, stream(f"room.{number}"), 1)
    seen, found = store.changed(seen)
    assert sorted((each.name, each.top) for each in found) == sorted(
        (f"room.{number}", 3) for number in range(14)
    )
    assert store.changed(seen) == (seen, [])


def test_space(store: SQLiteStore) -> None:
    """The file reuses its space, and returns unused space."""
    for _ in range(20):
        fill(store, stream(messages=10), 100, size=2000)
    store.close()
    assert os.path.getsize(store.path) < 200_000
    fill(store, stream(messages=2000, bytes=10**7), 2000, size=2000)
    store.close()
    assert os.path.getsize(store.path) > 4_000_000
    store.forget(stream())
    store.sweep()
    store.close()
    assert os.path.getsize(store.path) < 2_000_000


def test_deleted_while_it_is_used(store: SQLiteStore, tmp_path: Path) -> None:
    """No message is stored in a deleted file, also by a process that sweeps nothing."""
    other = open_store(tmp_path)
    fill(store, stream(), 2)
    fill(other, stream(), 1)
    shutil.rmtree(Path(store.path).parent)
    fill(store, stream(), 1)
    fill(other, stream(), 1)
    assert store.read(stream()).top == other.read(stream()).top == 2
    other.close()
