"""Greenlets that event views borrow: one for each message that is being handled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import MethodType
from typing import Any, Final

import gevent
from greenlet import getcurrent, greenlet

__all__ = ["HandlerPool", "Job"]

#: Does one piece of work; says whether there is another. It is called with ``None``, unless it
#: begins at once and has been given something to begin with.
Job = Callable[..., bool]

#: Seconds after which a greenlet that nobody needed ends, and gives its stack back.
IDLE: Final = 10.0


class HandlerPool:
    """Runs jobs in at most so many greenlets; more jobs wait in line.

    The greenlet that was used last is used next, so that few of them stay warm: they keep their
    database connections as long as ``CONN_MAX_AGE`` allows.

    Args:
        size: greenlets at most.
        retire: called in a greenlet that ends as it is not needed any more.
    """

    __slots__ = (
        "_count",
        "_hub",
        "_idle",
        "_is_ticking",
        "_jobs",
        "_parked",
        "_retire",
        "_size",
        "_timer",
    )

    def __init__(self, size: int, retire: Callable[[], None]) -> None:
        self._hub = gevent.get_hub()
        self._size = size
        self._retire = retire
        self._count = 0
        self._jobs: deque[Job] = deque()
        # Greenlets without a job; the least that there were of them since the timer looked last.
        self._parked: list[Any] = []
        self._idle = 0
        self._timer = self._hub.loop.timer(IDLE, IDLE, ref=False)
        self._is_ticking = False

    @property
    def waiting(self) -> int:
        """Jobs that wait for a greenlet."""
        return len(self._jobs)

    @property
    def running(self) -> int:
        """Jobs that have a greenlet."""
        return self._count - len(self._parked)

    def start(self, job: Job, subject: Any = None) -> bool:
        """Run a job, at once if a greenlet is free; to be called by the hub.

        Args:
            job: called again and again until it returns False, others in line between; may
                wait, must not raise.
            subject: what it is called with if that is at once.

        Returns:
            Whether it has begun. If not it waits in line, without its subject.
        """
        parked = self._parked
        if parked:
            worker = parked.pop()
            if len(parked) < self._idle:
                self._idle = len(parked)
            worker.switch(job, subject)
        elif self._count < self._size:
            self._count += 1
            greenlet(self._work, self._hub).switch(job, subject)
        else:
            self._jobs.append(job)
            return False
        return True

    def disown(self) -> None:
        """Start nothing any more, in a forked child: the jobs are the parent's."""
        self._size = 0
        self._jobs.clear()
        self._parked.clear()
        self._timer.stop()
        self._is_ticking = True  # so that it is never started again

    def _work(self, job: Job | None, subject: Any) -> None:
        worker, jobs = getcurrent(), self._jobs
        # As hub.switch(), less a look for hooks that nothing here has (gevent 24.10 to 26.9).
        wait = MethodType(greenlet.switch, self._hub)
        while job is not None:
            # In a forked child the pool has no size, and goes on with nothing.
            if job(subject) and self._size:
                subject = None
                if not jobs:
                    continue
                jobs.append(job)
            if jobs:
                job, subject = jobs.popleft(), None
                continue
            if not self._is_ticking:
                self._is_ticking = True
                self._timer.start(self._shrink)
            self._parked.append(worker)
            job, subject = wait()
        self._count -= 1
        self._retire()

    def _shrink(self) -> None:
        """End the greenlets that were idle all the time since the last call."""
        idle, self._parked = self._parked[: self._idle], self._parked[self._idle :]
        for worker in idle:
            worker.switch(None, None)
        self._idle = len(self._parked)
        if not self._parked:
            self._is_ticking = False
            self._timer.stop()
