"""Finds the view that blocks the whole process.

Greenlets take turns when they wait. While a view computes for a second, the worker serves no other
socket or page, and nothing shows which view it was. So a native thread watches a clock that the hub
sets. When the clock has stood still for too long, the thread takes a stack trace of the process.
The hub logs it when it runs again, once for each place.
"""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from typing import Any, Final

import gevent
from gevent import hub, monkey

from ..logs import get_logger

__all__ = ["Watchdog"]

logger = get_logger("django_wsmux.watchdog")

#: How often the hub sets the clock within the limit.
_BEATS: Final = 4

_real_sleep: Final = monkey.get_original("time", "sleep")
_start_thread: Final = monkey.get_original("_thread", "start_new_thread")
_get_ident: Final = monkey.get_original("_thread", "get_ident")


class Watchdog:
    """Watches the hub of this thread.

    Args:
        limit: seconds that a view may compute before a warning is logged.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._beat = time.monotonic()
        # Where the process was when the clock stood still.
        self._seen: traceback.StackSummary | None = None
        self._places: set[tuple[str, int | None]] = set()
        self._thread = _get_ident()
        self._timer = gevent.get_hub().loop.timer(limit / _BEATS, limit / _BEATS, ref=False)

    def start(self) -> None:
        """Start watching."""
        self._timer.start(self._set_clock)
        _start_thread(self._watch, ())

    def stop(self) -> None:
        """Stop setting the clock, in a forked child, which lacks the thread that reads it."""
        self._timer.stop()
        self._timer.close()

    def _set_clock(self) -> None:
        now = time.monotonic()
        blocked, self._beat = now - self._beat, now
        seen, self._seen = self._seen, None
        if seen is not None:
            self._report(seen, blocked)

    def _report(self, stack: traceback.StackSummary, blocked: float) -> None:
        place = stack[-1].filename, stack[-1].lineno
        if place in self._places or stack[-1].filename == hub.__file__:
            return  # in the hub itself: the whole machine stood still
        self._places.add(place)
        logger.warning(
            "The event loop was blocked for %.1f s by the code below "
            "(WEBSOCKET_BLOCKED_WARNING is %g); logged once for this place:\n%s",
            blocked,
            self._limit,
            "".join(stack.format()),
        )

    def _watch(self) -> None:
        """Run in a native thread, which must not touch anything of gevent."""
        while True:
            _real_sleep(self._limit / _BEATS)
            if self._seen is None and time.monotonic() - self._beat > self._limit:
                frame: Any = sys._current_frames().get(self._thread)
                # The frames keep running while they are read, and a source file may be unreadable.
                with contextlib.suppress(Exception):
                    self._seen = frame and traceback.extract_stack(frame)
