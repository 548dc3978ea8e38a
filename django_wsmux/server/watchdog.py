"""Says which view holds up the whole process.

Greenlets take turns when they wait. A view that computes for a second keeps every other socket and
page of the worker from being served for that second, and nothing tells who it was. So a thread of
the operating system looks at the clock that the hub sets, and when it has stood still for too long
takes down where the process is. The hub logs it once it runs again, and once for each place.
"""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from typing import Any, Final

import gevent
from gevent import hub, monkey

from .logs import get_logger

__all__ = ["Watchdog"]

logger = get_logger("django_wsmux.watchdog")

#: How often the hub sets the clock while the limit passes once.
_BEATS: Final = 4

_real_sleep: Final = monkey.get_original("time", "sleep")
_start_thread: Final = monkey.get_original("_thread", "start_new_thread")
_get_ident: Final = monkey.get_original("_thread", "get_ident")


class Watchdog:
    """Watches the hub of this thread.

    Args:
        limit: seconds that a view may compute before it is worth a warning.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._beat = time.monotonic()
        # Where the process was when it stood still, and for how long already.
        self._seen: traceback.StackSummary | None = None
        self._places: set[tuple[str, int | None]] = set()
        self._thread = _get_ident()
        self._timer = gevent.get_hub().loop.timer(limit / _BEATS, limit / _BEATS, ref=False)

    def start(self) -> None:
        """Begin to watch."""
        self._timer.start(self._set_clock)
        _start_thread(self._watch, ())

    def stop(self) -> None:
        """Set the clock no more, in a forked child, where the thread that reads it is not."""
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
            return  # in the hub itself it is the machine that stood still
        self._places.add(place)
        logger.warning(
            "Nobody else was served for %.1f s, as this code did not wait for anything "
            "(WEBSOCKET_BLOCKED_WARNING is %g); logged once for this place:\n%s",
            blocked,
            self._limit,
            "".join(stack.format()),
        )

    def _watch(self) -> None:
        """Run in a thread of its own, outside of gevent: it must touch nothing of gevent's."""
        while True:
            _real_sleep(self._limit / _BEATS)
            if self._seen is None and time.monotonic() - self._beat > self._limit:
                frame: Any = sys._current_frames().get(self._thread)
                # The frames go on while they are read, and a source file may be unreadable.
                with contextlib.suppress(Exception):
                    self._seen = frame and traceback.extract_stack(frame)
