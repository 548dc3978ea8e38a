"""A pool of greenlets for event views: one for each message that is being handled.

A view may leave something behind that raises in its greenlet later: a ``gevent.Timeout`` that it
did not cancel, or a kill that it scheduled. Such an object holds a reference to the greenlet. So
the pool does not reuse a greenlet to which others hold references.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import gevent
from greenlet import GreenletExit, greenlet

from ..connection.counters import count
from ..connection.turns import Job, Pool
from ..logs import LogLimit, get_logger

__all__ = ["HandlerPool", "Job"]

logger = get_logger("django_wsmux.connection")

_late: Final = LogLimit()

#: Seconds after which an unused greenlet ends, which frees its stack.
IDLE: Final = 10.0


class _Worker(greenlet):
    """A greenlet of a pool; it only accepts exceptions while it runs a job."""

    def __init__(self, pool: HandlerPool) -> None:
        super().__init__(pool.work, pool._hub)
        self._pool = pool

    def throw(self, *args: Any) -> Any:
        """Raise an exception in the job, if one runs."""
        if self.dead or self._pool.is_parked(self):
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


class HandlerPool(Pool):
    """Runs jobs in a limited number of greenlets; further jobs wait in a queue.

    The greenlet that was used last is used next, so that only a few stay in use: they keep their
    database connections as long as ``CONN_MAX_AGE`` allows.

    Args:
        size: the largest number of greenlets.
        retire: called in a greenlet that ends because it is no longer needed.
    """

    __slots__ = ("_count", "_retire", "_timer")

    def __init__(self, size: int, retire: Callable[[], None]) -> None:
        jobs: deque[Job] = deque()
        super().__init__(gevent.get_hub(), jobs, size)
        self._retire = retire
        self._count = 0
        self._timer = self._hub.loop.timer(IDLE, IDLE, ref=False)

    @property
    def waiting(self) -> int:
        """Jobs that wait for a greenlet."""
        return len(self._jobs)

    @property
    def running(self) -> int:
        """Jobs that have a greenlet."""
        return self._count - self._parked_count

    def disown(self) -> None:
        """Stop starting jobs, in a forked child: they belong to the parent."""
        self._size = 0
        self._jobs.clear()
        self.forget_parked()
        self._timer.stop()
        self._is_ticking = True  # so that it is never started again

    def _start_next(self) -> None:
        """Run the first job of the queue."""
        jobs = self._jobs
        if jobs and not self.start(jobs.popleft()):
            jobs.appendleft(jobs.pop())

    def _grow(self) -> bool:
        """Add a greenlet; return whether it waits for a job."""
        if self._count >= self._size:
            return False
        self._count += 1
        _Worker(self).switch()
        return True

    def _prepare_to_park(self) -> None:
        """Start what a greenlet that is about to wait for a job leaves to do."""
        if self._jobs:
            # In the hub, which checks whether this greenlet may be reused.
            self._hub.loop.run_callback(self._start_next)
        elif not self._is_ticking:
            self._is_ticking = True
            self._timer.start(self._shrink)

    def _fail(self, error: BaseException) -> None:
        """Log the error of a job, which is over."""
        logger.error("Bug in django_wsmux", exc_info=error)

    def _end(self, error: BaseException | None) -> None:
        """Finish a greenlet that ends; the next job of the queue may take its place.

        Args:
            error: what ends it if it is not the pool: GreenletExit when the process ends.
        """
        self._count -= 1
        if error is not None and not isinstance(error, GreenletExit):
            logger.error("Bug in django_wsmux", exc_info=error)
        if self._jobs:
            self._hub.loop.run_callback(self._start_next)
        try:
            self._retire()
        except BaseException:
            logger.exception("Bug in django_wsmux")

    def _shrink(self) -> None:
        """End the greenlets that have been idle since the last call."""
        self.end_idle()
        if not self._parked_count:
            self._is_ticking = False
            self._timer.stop()
