"""The workers that take sockets: each listens on a unix socket in a directory of the project.

The name of the socket says who listens. A worker that leaves renames it, so that others know it as
long as it lives: a process without a name is one that has not loaded its application yet.

The name of a process that was killed stays; other workers of the project remove it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket as plain_socket
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from gevent import socket

from . import forks
from .parcels import close_fd
from .processes import start_of

__all__ = ["Found", "Offer", "Worker", "connect", "look", "remove_dead"]

#: Marks the name of a worker that leaves, and of one that does not listen yet.
_LEFT: Final = ".left"
_NEW: Final = ".new"

_NAME: Final = re.compile(
    r"(?P<service>[0-9a-f]+)-(?P<arbiter>\d+)-(?P<generation>\w+)-(?P<started>\d+)-(?P<pid>\d+)"
    rf"(?P<mark>{re.escape(_LEFT)}|{re.escape(_NEW)})?"
)

#: Seconds after which a name of a process that was killed before it listened is removed.
_OLD: Final = 60.0

#: Connections of givers that may wait to be accepted.
_BACKLOG: Final = 64


class Worker(NamedTuple):
    """A worker process.

    Attributes:
        service: stands for the listening socket; workers that share it serve the same address.
        arbiter: when its arbiter started, in clock ticks since boot.
        generation: differs between workers of one arbiter if it has loaded its configuration again.
        started: when the process started.
        pid: its number.
    """

    service: str
    arbiter: int
    generation: str
    started: int
    pid: int

    @property
    def name(self) -> str:
        """The name of its socket."""
        return f"{self.service}-{self.arbiter}-{self.generation}-{self.started}-{self.pid}"

    def is_sibling(self, other: Worker) -> bool:
        """Return whether both were started with the same configuration."""
        return self[:3] == other[:3] and self.pid != other.pid

    def succeeds(self, other: Worker) -> bool:
        """Return whether this one was started to replace the other."""
        if self.service != other.service or self[1:3] == other[1:3]:
            return False
        return self.arbiter > other.arbiter or self.started > other.started


class Found(NamedTuple):
    """A worker that was found in a directory.

    Attributes:
        worker: the worker.
        is_ready: whether it takes sockets.
    """

    worker: Worker
    is_ready: bool


def service_of(listener: Any) -> str:
    """Return what stands for a listening socket, in each process that has it."""
    return f"{os.fstat(listener.fileno()).st_ino:x}"


def _entries(directory: str) -> Iterator[tuple[str, Worker, str]]:
    """Yield the names in a directory, with the workers that they name and their marks."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            match = _NAME.fullmatch(name)
            if match is not None:
                service, arbiter, generation, started, pid, mark = match.groups()
                yield (
                    name,
                    Worker(service, int(arbiter), generation, int(started), int(pid)),
                    mark or "",
                )


def look(directory: str, me: Worker) -> list[Found]:
    """Return the living workers of the same service, without this process."""
    return [
        Found(worker, not mark)
        for _, worker, mark in _entries(directory)
        if worker.service == me.service
        and worker.pid != me.pid
        and mark != _NEW
        and start_of(worker.pid) == worker.started
    ]


def remove_dead(directory: str) -> None:
    """Remove the names of processes that have ended.

    A process of another container may share the directory and not be visible here, but it can be
    reached.
    """
    for name, worker, mark in list(_entries(directory)):
        path = os.path.join(directory, name)
        with contextlib.suppress(OSError):
            if start_of(worker.pid) == worker.started:
                continue
            if mark == _NEW and time.time() - os.lstat(path).st_mtime < _OLD:
                continue
            if mark or _is_refused(directory, name):
                os.unlink(path)


def _is_refused(directory: str, name: str) -> bool:
    with plain_socket.socket(plain_socket.AF_UNIX, plain_socket.SOCK_SEQPACKET) as sock:
        sock.setblocking(False)
        with _short_path(directory, name) as path:
            return sock.connect_ex(path) == errno.ECONNREFUSED


@contextlib.contextmanager
def _short_path(directory: str, name: str) -> Iterator[str]:
    """Yield a path of the file that is short enough for the address of a unix socket."""
    descriptor = os.open(directory, os.O_DIRECTORY | os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        close_fd(descriptor)


def connect(directory: str, worker: Worker) -> Any:
    """Return a connection to a worker that is ready.

    Raises:
        OSError: it has left, or died.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _short_path(directory, worker.name) as path:
            sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


class Offer:
    """This worker, as others see it in the directory.

    Args:
        directory: see ``Mover.directory``.
        worker: this process.

    Raises:
        OSError: the directory cannot be used.
    """

    def __init__(self, directory: str, worker: Worker) -> None:
        self.directory = directory
        self.worker = worker
        self._path = os.path.join(directory, worker.name)
        self._process = os.getpid()
        self._is_open = True
        remove_dead(directory)
        #: The listening socket.
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with _short_path(directory, worker.name + _NEW) as path:
                self.listener.bind(path)
            self.listener.listen(_BACKLOG)
            # Under its own name only now: a connection before listen() would be refused, and the
            # worker be taken for dead.
            os.rename(self._path + _NEW, self._path)
        except BaseException:
            self.listener.close()
            raise
        # A forked child must not accept.
        forks.listeners.add(self.listener)

    def withdraw(self) -> None:
        """Take no more sockets; the worker is still known."""
        if os.getpid() == self._process and self._is_open:
            self._is_open = False
            with contextlib.suppress(OSError):
                os.rename(self._path, self._path + _LEFT)
            self.listener.close()

    def remove(self) -> None:
        """Remove the name: the process ends."""
        if os.getpid() == self._process:
            self.withdraw()
            with contextlib.suppress(OSError):
                os.unlink(self._path + _LEFT)
