"""Waits for descriptors, with and without gevent."""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import threading
from typing import Any, Final

__all__ = ["READ", "WRITE", "Forked", "WakeableSelector", "close"]

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE


#: Closes a descriptor now. gevent's ``os.close`` does so in the hub's next turn, which may never
#: come in a fork. The descriptors that are closed here are not watched any more.
close: Final = os.close if sys.platform == "win32" else sys.modules["posix"].close


class Forked(Exception):
    """A fork has copied this greenlet: its objects belong to the parent process."""


class WakeableSelector:
    """Waits for descriptors, and for ``wake()`` from any thread.

    Uses a selector instead of select(): descriptors above 1,023 are common in a worker, and under
    gevent its watchers persist, which is several times faster. Only the owner registers, waits and
    closes. Under gevent a descriptor must be unregistered before it is closed, or libev aborts the
    process.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        # Looked up now and not at import: gevent may have patched it since (gunicorn --preload).
        self._selector = selectors.DefaultSelector()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._selector.register(self._reader, READ)
        # A late wake() must not write to a descriptor that has been reused.
        self._lock = threading.Lock()
        self._closed = False

    def register(self, fd: int, events: int, data: Any) -> None:
        """Watch a descriptor; ``wait()`` returns ``data``."""
        self._selector.register(fd, events, data)

    def unregister(self, fd: int) -> None:
        """Stop watching a descriptor."""
        self._selector.unregister(fd)

    def wake(self) -> None:
        """Make ``wait()`` return, now or the next time; may be called from any thread."""
        with self._lock:
            if not self._closed:
                # If the pipe is full, wait() returns anyway.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._writer, b"\0")

    def wait(self, timeout: float | None) -> list[tuple[Any, int]]:
        """Wait until descriptors are ready; return their data and events.

        Raises:
            Forked: a fork has copied this greenlet while it waited.
        """
        try:
            ready = self._selector.select(timeout)
        except Exception:
            # close() in a fork has closed the selector.
            self.require_same_process()
            raise
        self.require_same_process()
        found = []
        for key, events in ready:
            if key.fd == self._reader:
                os.read(self._reader, 65536)
            else:
                found.append((key.data, events))
        return found

    def require_same_process(self) -> None:
        """Raise ``Forked`` in a fork of the process that made this object."""
        if os.getpid() != self._pid:
            raise Forked

    def close(self) -> None:
        """Release everything, in the process that made this object or in a fork of it.

        Nothing is unregistered: in a fork that would remove it from the parent's epoll.
        """
        if os.getpid() != self._pid:
            # In a fork, a thread that does not exist there may hold the lock.
            self._lock = threading.Lock()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._selector.close()
                close(self._reader)
                close(self._writer)
