"""Who takes the sockets of a gunicorn worker that leaves, and whether to wait for it.

gunicorn has no word for "another worker replaces this one": at SIGHUP it forks the new workers and
ends the old ones at once, long before the new ones are ready. But a new one exists then. It is a
child of the same arbiter, younger than this process, and has no name in the directory of
``offers.py`` yet. If the server only stops, all younger children have names.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from mmap import mmap
from typing import Any, Final

import gevent

from . import offers, processes
from .offers import Worker

__all__ = ["Generations", "is_booting", "leaving_alone", "this_worker"]

#: The name of the file that workers lock while they leave one after the other.
_LOCK: Final = "leaving.lock"

#: Seconds between attempts to lock it.
_TICK: Final = 0.05


class Generations:
    """Counts, in gunicorn's arbiter, how often it has loaded its configuration.

    Its workers inherit the object by the fork, and see the newest number.
    """

    def __init__(self) -> None:
        self._configuration: object = None
        self._number = 0
        self._newest: mmap | None = None

    def number(self, configuration: object) -> int:
        """Return the generation of a worker that the arbiter is about to start.

        Args:
            configuration: gunicorn's; it makes a new one when it loads it again.
        """
        if configuration is not self._configuration:
            self._configuration = configuration
            self._number += 1
        if self._newest is None:
            self._newest = mmap(-1, 8)
        self._newest[:8] = self._number.to_bytes(8, "little")
        return self._number

    def newest(self) -> int:
        """Return the newest generation that the arbiter has started."""
        return 0 if self._newest is None else int.from_bytes(self._newest[:8], "little")


def this_worker(listener: Any, generation: str) -> Worker:
    """Return this process.

    Args:
        listener: the first socket that gunicorn listens on.
        generation: letters and digits that all workers of one configuration share.
    """
    arbiter = os.getppid()
    # Another user's processes may be hidden.
    arbiter_start = processes.start_of(arbiter) or arbiter
    pid = os.getpid()
    service = offers.service_of(listener)
    return Worker(service, arbiter_start, generation, processes.start_of(pid), pid)


def is_booting(directory: str, me: Worker) -> bool:
    """Return whether a worker that will take sockets has not loaded its application yet.

    Args:
        directory: see ``Mover.directory``.
        me: this process.
    """
    found = [each.worker for each in offers.look(directory, me)]
    named = {worker.pid for worker in found}
    arbiters = {os.getppid()} | {
        processes.parent_of(worker.pid) for worker in found if worker.succeeds(me)
    }
    return any(
        start > me.started and child not in named and child not in arbiters
        for arbiter in arbiters
        for child, start in processes.children_of(arbiter).items()
    )


@contextlib.contextmanager
def leaving_alone(directory: str, is_over: Callable[[], bool]) -> Iterator[None]:
    """Wait until no other worker leaves; others wait meanwhile.

    Two that leave at the same moment would find no one to take their sockets.

    Args:
        directory: see ``Mover.directory``.
        is_over: whether not to wait any longer.
    """
    with open(os.path.join(directory, _LOCK), "wb") as file:
        while not is_over():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            gevent.sleep(_TICK)
        yield
