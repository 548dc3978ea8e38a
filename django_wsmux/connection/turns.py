"""The turns of event views: what each message of theirs touches.

In C, where there is a compiler: then a common message reaches the view without a Python frame of
ours. Otherwise in Python, which does the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from sys import getrefcount
from types import MethodType
from typing import Any, Final

from greenlet import getcurrent, greenlet

from . import tracing
from .link import is_compiled

__all__ = [
    "CONTEXTS",
    "HANDLER_BOUNDS",
    "Job",
    "Pool",
    "ViewHooks",
    "adopt_pool",
    "handled",
    "handler_calls",
]

#: Does one piece of work; returns whether there is more. It is called with ``None``, or with the
#: ``subject`` of ``start()`` if it starts at once.
Job = Callable[..., bool]

#: Upper bounds of the histogram's buckets, in seconds.
HANDLER_BOUNDS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)

#: The attribute of a greenlet that holds the contexts which it has prepared, by ``RequestContext``.
CONTEXTS: Final = "_django_wsmux_context"

_FASTEST: Final = HANDLER_BOUNDS[0]

# Calls in each bucket, the last one beyond all bounds; and the seconds of all calls together.
_calls: Final = [0] * (len(HANDLER_BOUNDS) + 1)
_seconds: Final = [0.0]


def _handled(seconds: float, /) -> None:
    # Most calls are that fast, and a search costs more than this comparison.
    bucket = 0 if seconds <= _FASTEST else bisect_left(HANDLER_BOUNDS, seconds)
    _calls[bucket] += 1
    _seconds[0] += seconds


def _handler_calls() -> tuple[list[int], float]:
    return [*_calls], _seconds[0]


class _ViewHooks:
    """The hooks of a connection whose event view is called here; a base of ``DjangoHooks``.

    C calls the view itself if nothing needs Python before: no tracer, no database connection, and
    a context that is new or that the greenlet has prepared. Then it calls ``_finish()`` if anything
    is left to do.

    Attributes:
        view: the event view.
        request_context: what is active in each call of the view.
        session: the session, once no middleware saves it any more.
    """

    __slots__ = ("request_context", "session", "view")

    view: Any
    request_context: Any
    session: Any

    def receive(self, websocket: Any, message: str | bytes, /) -> None:
        """Have an event view handle a message."""
        self._handle(websocket, message)

    def _handle(self, websocket: Any, message: str | bytes) -> None:
        """Have an event view handle a message, whatever that needs."""
        raise NotImplementedError


class _Pool:
    """The part of a pool of greenlets that each message touches; the base of ``HandlerPool``.

    The derived class has these methods:

    * ``_grow()`` makes a greenlet that calls ``work()``, and switches to it; returns False if there
      are enough;
    * ``_prepare_to_park()`` is called before a greenlet waits for a job, if jobs wait or no timer
      runs;
    * ``_fail(error)`` logs the error of a job;
    * ``_end(error)`` is called in a greenlet that ends, with the exception that ends it, or None.

    Args:
        hub: the greenlet that starts the jobs.
        jobs: the queue of the jobs that wait for a greenlet.
        size: the largest number of greenlets; 0 starts no more jobs.
    """

    __slots__ = ("_alone", "_hub", "_idle", "_is_ticking", "_jobs", "_order", "_parked", "_size")

    _hub: Any
    _grow: Callable[[], bool]
    _prepare_to_park: Callable[[], None]
    _fail: Callable[[BaseException], None]
    _end: Callable[[BaseException | None], None]

    def __init__(self, hub: greenlet, jobs: deque[Job], size: int, /) -> None:
        self._hub = hub
        self._jobs = jobs
        self._size = size
        self._is_ticking = False
        # Greenlets without a job, and their smallest number since the last end_idle(). A list of
        # one item would free its memory and allocate it again for each job.
        self._parked: deque[greenlet] = deque()
        self._idle = 0
        # The number of references to a greenlet without a job, as start() counts them.
        self._alone = 0
        # For the greenlet that start() switches to; None ends it.
        self._order: tuple[Job, Any] | None = None

    @property
    def _parked_count(self) -> int:
        return len(self._parked)

    def start(self, job: Job, subject: Any = None, /) -> bool:
        """Run a job, at once if a greenlet is free; must be called in the hub.

        Args:
            job: called until it returns False; waiting jobs run between the calls. It may wait. It
                should not raise; if it does, the error is logged and the job is over.
            subject: the argument of the first call, if the job starts at once.

        Returns:
            Whether it has started. If not, it waits in the queue, without its subject.
        """
        parked = self._parked
        while parked or (self._grow() and parked):
            worker = parked.pop()
            if len(parked) < self._idle:
                self._idle = len(parked)
            if not self._alone:
                self._alone = getrefcount(worker)
            if getrefcount(worker) == self._alone:
                self._order = job, subject
                worker.switch()
                return True
            worker.switch()
        self._jobs.append(job)
        return False

    def work(self) -> None:
        """Do jobs in this greenlet until it is resumed without one."""
        worker, jobs, parked = getcurrent(), self._jobs, self._parked
        # As hub.switch(), without a check for hooks that nothing here has (gevent 24.10 to 26.9).
        wait = MethodType(greenlet.switch, self._hub)
        failure = None
        try:
            parked.append(worker)
            wait()
            # CPython 3.11 specializes loops that end with a jump back, which "while order" does
            # not.
            while True:
                order, self._order = self._order, None
                if order is None:
                    break
                job, subject = order
                del order
                goes_on = True
                while goes_on:
                    try:
                        # In a forked child the pool has size 0, so the job ends.
                        goes_on = job(subject) and self._size > 0
                    except BaseException as error:
                        self._fail(error)
                        goes_on = False
                    subject = None
                    if jobs:
                        break
                if goes_on:
                    jobs.append(job)
                del job
                if jobs or not self._is_ticking:
                    self._prepare_to_park()
                parked.append(worker)
                wait()
        except BaseException as error:
            failure = error
        # The pool refers to it if an exception or other code has resumed it.
        if worker in parked:
            parked.remove(worker)
            self._idle = min(self._idle, len(parked))
        self._end(failure)

    def is_parked(self, worker: greenlet, /) -> bool:
        """Return whether a greenlet of the pool waits for a job."""
        return worker in self._parked

    def end_idle(self) -> None:
        """End the greenlets that have been idle since the last call."""
        idle = [self._parked.popleft() for _ in range(self._idle)]
        self._idle = len(self._parked)
        for worker in idle:
            worker.switch()

    def forget_parked(self) -> None:
        """Remove the greenlets without a job, in a forked child, where they never run."""
        self._parked.clear()
        self._idle = 0


def _adopt_pool(pool: _Pool, /) -> None:
    """Do nothing: Python finds the pool through the transport."""


if is_compiled:
    from ._reactor import Pool, ViewHooks, adopt_pool, adopt_views, handled, handler_calls

    adopt_views(CONTEXTS, tracing)
else:
    Pool, ViewHooks = _Pool, _ViewHooks  # type: ignore[misc, assignment]
    adopt_pool = _adopt_pool
    handled, handler_calls = _handled, _handler_calls
