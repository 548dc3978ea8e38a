"""A pool of greenlets for event views: one for each message that is being handled.

A view may leave something behind that raises in its greenlet later: a ``gevent.Timeout`` that it
did not cancel, or a kill that it scheduled. Such an object holds a reference to the greenlet. So
the pool does not reuse a greenlet to which others hold references.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from sys import getrefcount
from types import MethodType
from typing import Any, Final

import gevent
from greenlet import GreenletExit, getcurrent, greenlet

from ..connection.counters import count
from ..logs import LogLimit, get_logger

__all__ = ["HandlerPool", "Job"]

logger = get_logger("django_wsmux.connection")

_late: Final = LogLimit()

#: Does one piece of work; returns whether there is more. It is called with ``None``, or with the
#: ``subject`` of ``start()`` if it starts at once.
Job = Callable[..., bool]

#: Seconds after which an unused greenlet ends, which frees its stack.
IDLE: Final = 10.0


class _Worker(greenlet):
    """A greenlet of a pool; it only accepts exceptions while it runs a job."""

    def __init__(self, pool: HandlerPool) -> None:
        super().__init__(pool._work, pool._hub)
        self._pool = pool

    def throw(self, *args: Any) -> Any:
        """Raise an exception in the job, if one runs."""
        if self.dead or self in self._pool._parked:
            count("late_exceptions")
            suffix = _late.suffix()
            if suffix is not None:
                logger.warning(
                    "Ignoring %r, which came after its event view had returned: cancel each "
                    "gevent.Timeout and timer before the view returns%s",
                    args[0] if args else GreenletExit,
                    suffix,
                )
            return None
        return super().throw(*args)


class HandlerPool:
    """Runs jobs in a limited number of greenlets; further jobs wait in a queue.

    The greenlet that was used last is used next, so that only a few stay in use: they keep their
    database connections as long as ``CONN_MAX_AGE`` allows.

    Args:
        size: the largest number of greenlets.
        retire: called in a greenlet that ends because it is no longer needed.
    """

    __slots__ = (
        "_alone",
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
        # Greenlets without a job, and their smallest number since the last call of the timer. A
        # list of one item would free its memory and allocate it again for each job.
        self._parked: deque[_Worker] = deque()
        self._idle = 0
        # The number of references to a greenlet without a job, as start() counts them.
        self._alone = 0
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
        """Run a job, at once if a greenlet is free; must be called in the hub.

        Args:
            job: called until it returns False; waiting jobs run between the calls. It may wait. It
                should not raise; if it does, the error is logged and the job is over.
            subject: the argument of the first call, if the job starts at once.

        Returns:
            Whether it has started. If not, it waits in the queue, without its subject.
        """
        parked = self._parked
        while parked:
            worker = parked.pop()
            if len(parked) < self._idle:
                self._idle = len(parked)
            if getrefcount(worker) == self._alone:
                worker.switch(job, subject)
                return True
            worker.switch(None, None)
        if self._count < self._size:
            self._count += 1
            worker = _Worker(self)
            worker.switch()
            self._alone = getrefcount(worker)
            worker.switch(job, subject)
            return True
        self._jobs.append(job)
        return False

    def disown(self) -> None:
        """Stop starting jobs, in a forked child: they belong to the parent."""
        self._size = 0
        self._jobs.clear()
        self._parked.clear()
        self._timer.stop()
        self._is_ticking = True  # so that it is never started again

    def _start_next(self) -> None:
        """Run the first job of the queue."""
        jobs = self._jobs
        if jobs and not self.start(jobs.popleft()):
            jobs.appendleft(jobs.pop())

    def _work(self) -> None:
        worker, jobs = getcurrent(), self._jobs
        assert isinstance(worker, _Worker)
        # As hub.switch(), without a check for hooks that nothing here has (gevent 24.10 to 26.9).
        wait = MethodType(greenlet.switch, self._hub)
        try:
            job, subject = wait()
            # CPython 3.11 specializes loops that end with a jump back, which "while job" does not.
            while True:
                if job is None:
                    break
                try:
                    # In a forked child the pool has size 0, so the job ends.
                    goes_on = job(subject) and self._size
                except BaseException:
                    logger.exception("Bug in django_wsmux")
                    goes_on = False
                if goes_on:
                    subject = None
                    if not jobs:
                        continue
                    jobs.append(job)
                self._parked.append(worker)
                if jobs:
                    # In the hub, which checks whether this greenlet may be reused.
                    self._hub.loop.run_callback(self._start_next)
                elif not self._is_ticking:
                    self._is_ticking = True
                    self._timer.start(self._shrink)
                job, subject = wait()
        except BaseException as error:
            # Exceptions are thrown between start() and a job only when the process ends.
            if not isinstance(error, GreenletExit):
                logger.exception("Bug in django_wsmux")
        finally:
            self._end(worker)

    def _end(self, worker: _Worker) -> None:
        """Remove a greenlet from the pool; the next job of the queue may take its place."""
        self._count -= 1
        if worker in self._parked:
            self._parked.remove(worker)
        if self._jobs:
            self._hub.loop.run_callback(self._start_next)
        try:
            self._retire()
        except BaseException:
            logger.exception("Bug in django_wsmux")

    def _shrink(self) -> None:
        """End the greenlets that have been idle since the last call."""
        idle = [self._parked.popleft() for _ in range(self._idle)]
        for worker in idle:
            worker.switch(None, None)
        self._idle = len(self._parked)
        if not self._parked:
            self._is_ticking = False
            self._timer.stop()
