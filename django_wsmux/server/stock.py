"""Hands sockets over in gunicorn's own gevent workers, which know nothing of them.

Such a worker is found by its signal handler. Its end is announced by its attribute ``alive``, or
else by the end of the process: the hub still runs in functions of ``atexit``.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cache, partial
from typing import Any, Final

from ..connection import registry
from ..connection.drain import CLOSE_GRACE
from . import forks, mover, patching

__all__ = ["install"]

#: Seconds between looks at the worker.
_TICK: Final = 0.2

#: Seconds by which the process ends before gunicorn kills it.
_MARGIN: Final = 2.0


@cache
def install() -> None:
    """Hand sockets over if this is a gevent worker of gunicorn, or will be one after a fork."""
    if "gunicorn.workers.ggevent" not in sys.modules:
        return
    patching.after_preload(_watch)
    if forks.gunicorn_worker() is not None:
        _watch()


def _watch() -> None:
    import gevent

    gevent.spawn(_serve)


def _serve() -> None:
    """Take sockets once the application is loaded; give them when the worker is told to end."""
    import gevent

    while (worker := forks.gunicorn_worker()) is None or not hasattr(worker, "wsgi"):
        gevent.sleep(_TICK)
    current = mover.current()
    is_fork = worker.pid != os.getpid()  # with --preload, of a process that a worker has forked
    if current is None or is_fork or getattr(worker, "hands_over", False):
        return
    departure = _Departure(worker, current)
    if not departure.is_possible:
        return
    registry.departures.append(departure.finish)
    while worker.alive:
        gevent.sleep(_TICK)
    if worker.pid == os.getpid():
        departure.begin()


class _Departure:
    """The end of a worker.

    Args:
        worker: gunicorn's.
        current: the mover of this process.

    Attributes:
        is_possible: this worker is known to others.
    """

    def __init__(self, worker: Any, current: mover.Mover) -> None:
        from . import handover, succession

        self._worker = worker
        # Workers that were forked with one configuration have it at the same address.
        generation = f"{id(worker.cfg):x}"
        self._me = succession.this_worker(worker.sockets[0], generation)
        self._taker = handover.offer(current, self._me)
        self.is_possible = self._taker is not None
        self._giver: Any = None
        self._giving: Any = None

    def begin(self) -> None:
        """Begin to hand the sockets over; returns at once."""
        import gevent

        from . import succession
        from .giving import Giver, Plan

        taker, me = self._taker, self._me
        if self._giving is not None or taker is None:
            return
        taker.stop()
        configuration = self._worker.cfg
        seconds = min(configuration.graceful_timeout, configuration.timeout or sys.maxsize)
        until = time.monotonic() + seconds - CLOSE_GRACE - _MARGIN
        is_booting = partial(succession.is_booting, taker.directory, me)
        plan = Plan(
            may_take=lambda worker: worker.succeeds(me),
            is_coming=is_booting,
            more_coming=is_booting,
        )
        self._giver = Giver(taker.mover, me, until, plan)
        self._giving = gevent.spawn(self._giver.run)

    def finish(self) -> None:
        """Wait until the sockets are handed over: the process ends."""
        self.begin()
        if self._giving is None or self._taker is None:
            return
        self._giving.join()
        report = self._giver.report
        if report.given or report.stay:
            self._worker.log.info("Handed over %s", report)
        self._taker.remove()
