"""Waiting for descriptors in a way that works with and without gevent."""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import threading
from typing import Any, Final

__all__ = ["READ", "WRITE", "Forked", "Waiter", "close"]

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE


#: Closes a descriptor now. Patched by gevent, ``os.close`` leaves it for the hub's next turn, which
#: in a fork may never come; what is closed here is watched no more.
close: Final = os.close if sys.platform == "win32" else sys.modules["posix"].close


class Forked(Exception):
    """This greenlet was copied by a fork: what it works on belongs to the parent process."""


class Waiter:
    """Waits for descriptors, and for ``wake()`` from any thread.

    A selector rather than select(): descriptors above 1,023 are usual in a worker, and under gevent
    its watchers stay, which is several times faster. Only the owner registers, waits and closes;
    under gevent a descriptor must be unregistered before it is closed, or libev ends the process.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        # Looked up now, not at import: gevent may have patched it since (gunicorn --preload).
        self._selector = selectors.DefaultSelector()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._selector.register(self._reader, READ)
        # A wake() that comes late must not write to a descriptor that was given to somebody else.
        self._lock = threading.Lock()
        self._closed = False

    def register(self, fd: int, events: int, data: Any) -> None:
        """Watch a descriptor; ``data`` comes back from ``wait()``."""
        self._selector.register(fd, events, data)

    def unregister(self, fd: int) -> None:
        """Watch a descriptor no longer."""
        self._selector.unregister(fd)

    def wake(self) -> None:
        """Let ``wait()`` return, now or the next time; from any thread."""
        with self._lock:
            if not self._closed:
                # When the pipe is full of such calls it will wake in any case.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._writer, b"\0")

    def wait(self, timeout: float | None) -> list[tuple[Any, int]]:
        """Wait until something is ready; return what, with its events.

        Raises:
            Forked: this is the copy that a fork made of a waiting greenlet.
        """
        try:
            ready = self._selector.select(timeout)
        except Exception:
            # abandon() took its insides away.
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
        """Raise ``Forked`` in a fork of the process that made it."""
        if os.getpid() != self._pid:
            raise Forked

    def close(self) -> None:
        """Give everything back, in the process that made it or in a fork of it.

        Nothing is unregistered one by one: in a fork that would take it from the parent's epoll.
        """
        if os.getpid() != self._pid:
            # In a fork the lock may be held by a thread that does not exist there.
            self._lock = threading.Lock()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._selector.close()
                close(self._reader)
                close(self._writer)
