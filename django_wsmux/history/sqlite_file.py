"""A SQLite file of ``local://``: its place, its renewal, its errors.

The file is made again after each boot of the machine. Nothing is synchronized with the disk, so
after a crash of the machine the last changes may be missing. The files have their own folder in the
private directory of ``local://``, so that SQLite's other files are not among the sockets.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from ..backends.private_directory import PrivateDirectory
from ..exceptions import BackendMisconfigured, BackendUnavailable

__all__ = [
    "FileBusy",
    "Layout",
    "SQLiteFile",
    "boot_id",
    "file_system",
    "pragma",
    "shrink",
    "writing",
]

_FOLDER: Final = ".history"

#: Network file systems: SQLite's locks and shared memory do not work there.
_REMOTE: Final = frozenset(
    {"9p", "afs", "cifs", "fuse.glusterfs", "fuse.sshfs", "nfs", "nfs4", "smb3", "smbfs"}
)

#: Pages of the log after which a writer copies them to the file, which takes about a millisecond.
_CHECKPOINT_PAGES: Final = 256

#: The first SQLite with INSERT ... RETURNING.
_OLDEST_SQLITE: Final = (3, 35, 0)

#: Unused pages that a file may always have, and how many are returned before others run.
_SPARE_PAGES: Final = 256
_SLICE: Final = 100

_SET_UP: Final = (
    "PRAGMA synchronous = OFF",
    "PRAGMA temp_store = MEMORY",
    f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}",
    "PRAGMA journal_size_limit = 4194304",
)

#: Problems and advice for SQLite's primary error codes.
_FULL: Final = (
    "the disk is full",
    "free some space, or use another directory: local:///run/mysite",
)
_DAMAGED: Final = (
    "the file is damaged",
    "remove the folder; the histories of groups, and who is present, begin again",
)
_CLOSED: Final = (
    "the file cannot be opened",
    "only the user of this process must own the folder and the files in it",
)
_FAILING: Final = (
    "the file cannot be read or written",
    "check the disk, its free space, and the limits of this process and user",
)
_PROBLEMS: Final = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_SCHEMA: _DAMAGED,
    sqlite3.SQLITE_ERROR: _DAMAGED,  # a table is missing
    sqlite3.SQLITE_CANTOPEN: _CLOSED,
    sqlite3.SQLITE_PERM: _CLOSED,
    sqlite3.SQLITE_READONLY: _CLOSED,
    sqlite3.SQLITE_IOERR: _FAILING,
}

_Identity = tuple[tuple[int, int] | None, ...]


class FileBusy(Exception):
    """Another process holds a lock; try again."""


class Layout(NamedTuple):
    """What is in a file.

    Attributes:
        file: its name.
        number: its version. A file of an older version is made again; a newer one is refused.
        tables: the statements that make its tables. A row with ``id`` and ``boot`` is added to the
            table ``store``.
        duty: what the file is for, in messages: ``a history``.
    """

    file: str
    number: int
    tables: str
    duty: str


class SQLiteFile:
    """The file of a store; see the module.

    Args:
        url, namespace: of ``local://``.
        layout: what is in it.

    Attributes:
        store: the incarnation, which was made with the file.
    """

    def __init__(self, url: str, namespace: str, layout: Layout) -> None:
        self._private = PrivateDirectory(url, namespace)
        self._layout = layout
        self._url = url.partition("?")[0]
        self._identity: _Identity | None = None
        self._opened = ""
        self.store = ""

    @property
    def folder(self) -> str:
        """The folder, which contains files of this class only."""
        return os.path.join(self._private.path, _FOLDER)

    @property
    def path(self) -> str:
        """The file."""
        return os.path.join(self.folder, self._layout.file)

    def open(self) -> sqlite3.Connection:
        """Open the file; make it if it is missing, incomplete, old, or from another boot.

        Raises:
            FileBusy: another process is opening it.
            BackendUnavailable: the directory cannot be used, the layout is newer, or SQLite is
                too old.
            sqlite3.Error: SQLite cannot use the file.
        """
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise BackendMisconfigured(
                self._url,
                f"Python has SQLite {sqlite3.sqlite_version}, which is too old for "
                f"{self._layout.duty}: it must be {'.'.join(map(str, _OLDEST_SQLITE))} or newer",
                "use another Python, or set WEBSOCKET_HISTORY_STORE to a broker",
            )
        self._private.make()
        try:
            with self._locked():
                if self._has_lost_part():
                    self._remove()
                connection = self._connect()
                try:
                    if not self._is_usable(connection):
                        connection.close()
                        self._remove()
                        connection = self._connect()
                        self._fill(connection)
                    self.store = connection.execute("SELECT id FROM store").fetchone()[0]
                    self._identity, self._opened = self._identify(), self.path
                except BaseException:
                    connection.close()
                    raise
                return connection
        except OSError as error:
            raise self._private.unusable(error) from error

    def close(self, connection: sqlite3.Connection) -> None:
        """Close a connection. The last one of all processes removes the log."""
        if self.is_current():
            self._identity = None
        connection.close()

    def present(self, connection: sqlite3.Connection | None) -> sqlite3.Connection:
        """Return the connection; open the file again if another one is in its place, or none.

        Cleaners of /tmp delete files. Other processes cannot see what is in a deleted file.

        Raises:
            FileBusy, BackendUnavailable, sqlite3.Error: see ``open()``.
        """
        if connection is not None:
            if self._identity is not None and _identity(self._opened) == self._identity[0]:
                return connection
            self.close(connection)
        return self.open()

    def is_current(self) -> bool:
        """Return whether the path still leads to the file that was opened."""
        return self._identity == self._identify()

    def require_known(self, connection: sqlite3.Connection) -> bool:
        """Return whether the file has the tables of this release.

        Raises:
            BackendUnavailable: a newer release has changed them.
        """
        layout: int = connection.execute("PRAGMA user_version").fetchone()[0]
        known = self._layout.number
        if layout > known:
            raise BackendUnavailable(
                self._url,
                f"{self.path} has the layout {layout} of a newer release of django-wsmux; this "
                f"process knows layouts up to {known}",
                "restart this process with that release",
            )
        return layout == known

    def failure(self, error: sqlite3.Error) -> BackendUnavailable:
        """Return the error to raise for an error of SQLite."""
        problem, advice = _PROBLEMS.get(error.sqlite_errorcode & 0xFF, ("SQLite failed", ""))
        return BackendUnavailable(self._url, f"{self.folder}: {problem}: {error}", advice)

    def busy(self, seconds: float) -> BackendUnavailable:
        """Return the error to raise if the file has been locked for too long."""
        return BackendUnavailable(
            self._url,
            f"{self.path} has been locked by other processes for {seconds:g} s",
            "resume or kill stopped processes, and reduce the load of the machine",
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Prevent other processes from making the file at the same time."""
        with suppress(FileExistsError):
            os.mkdir(self.folder, 0o700)
        kind = file_system(self.folder)
        if kind in _REMOTE:
            raise BackendMisconfigured(
                self._url,
                f"{self.folder} is on a network file system ({kind}), where processes "
                f"cannot share {self._layout.duty}",
                "use a directory on a local disk: local:///run/mysite",
            )
        folder = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FileBusy from error
            yield
        finally:
            os.close(folder)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=0, isolation_level=None, check_same_thread=False
        )
        try:
            for statement in _SET_UP:
                connection.execute(statement).fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_usable(self, connection: sqlite3.Connection) -> bool:
        if not self.require_known(connection):
            return False
        boot: str = connection.execute("SELECT boot FROM store").fetchone()[0]
        return boot == boot_id()

    def _fill(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.executescript("BEGIN IMMEDIATE;" + self._layout.tables)
        connection.execute(f"PRAGMA user_version = {self._layout.number}")
        row = secrets.token_hex(4), boot_id()
        connection.execute("INSERT INTO store (id, boot) VALUES (?, ?)", row)
        connection.execute("COMMIT")

    def _paths(self) -> tuple[str, ...]:
        return tuple(self.path + suffix for suffix in ("", "-wal", "-shm"))

    def _identify(self) -> _Identity:
        return tuple(map(_identity, self._paths()))

    def _has_lost_part(self) -> bool:
        """Return whether the log was deleted while the file was open.

        The log had the newest changes. Without it the file contains old numbers, which must not be
        used again.
        """
        if self._identity is None:
            return False
        present = self._identify()
        return present[0] == self._identity[0] and present[1:] != self._identity[1:]

    def _remove(self) -> None:
        for path in self._paths():
            with suppress(FileNotFoundError):
                os.unlink(path)


def _identity(path: str) -> tuple[int, int] | None:
    """Return device and inode of a file; ``None`` if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold the write lock from the beginning. ``SQLiteBase`` ends a failed transaction."""
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def shrink(connection: sqlite3.Connection) -> bool:
    """Return unused pages to the file system if there are many; return whether any were."""
    free = pragma(connection, "freelist_count")
    if free <= max(_SPARE_PAGES, pragma(connection, "page_count") // 4):
        return False
    connection.execute(f"PRAGMA incremental_vacuum({_SLICE})").fetchall()
    return pragma(connection, "freelist_count") < free


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """Return a number that SQLite tells of the file."""
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def boot_id() -> str:
    """Return a text that identifies the boot of the machine."""
    if sys.platform.startswith("linux"):
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    # macOS has the first, the BSDs have the second.
    return _sysctl("kern.bootsessionuuid") or _sysctl("kern.boottime")


def _sysctl(name: str) -> str:
    value = ctypes.create_string_buffer(64)
    size = ctypes.c_size_t(len(value))
    libc = ctypes.CDLL(None)
    if libc.sysctlbyname(name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return ""
    return value.raw[: size.value].hex()


def file_system(path: str, table: str = "/proc/self/mountinfo") -> str:
    """Return the type of the file system of a path; ``""`` if it is unknown.

    Args:
        path: an existing path.
        table: the mounts of this process.
    """
    if not sys.platform.startswith("linux"):
        return ""
    device = os.stat(path).st_dev
    with open(table, errors="replace") as mounts:
        for line in mounts:
            # ID, parent, device, root, mount point, ..., "-", type, source, options
            fields, _, more = line.partition(" - ")
            if fields.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                return more.split()[0]
    return ""
