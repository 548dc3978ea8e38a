"""A descriptor for select() that tells the truth.

A socket's own descriptor says that bytes have arrived, which is not the question: two frames may
sit in one TCP segment, so that the second waits in memory while the descriptor stays quiet, or
half a frame may wake a reader that then blocks. This one is readable exactly while a message, or
the close, is waiting.
"""

from __future__ import annotations

import os

__all__ = ["Readiness"]


class Readiness:
    """A level-triggered flag that select(), poll() and epoll can watch.

    An eventfd where there is one (Linux), else a pipe.
    """

    __slots__ = ("_is_set", "_reader", "_writer")

    def __init__(self) -> None:
        self._is_set = False
        self._reader = self._writer = -1
        if hasattr(os, "eventfd"):
            self._reader = self._writer = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:  # pragma: no cover  (macOS and others)
            self._reader, self._writer = os.pipe()

    def fileno(self) -> int:
        """Return the descriptor to watch for reading."""
        return self._reader

    def set(self) -> None:
        """Make the descriptor readable."""
        if not self._is_set:
            self._is_set = True
            # An eventfd takes eight bytes, a pipe any number.
            os.write(self._writer, (1).to_bytes(8, "little"))

    def clear(self) -> None:
        """Make the descriptor quiet."""
        if self._is_set:
            self._is_set = False
            os.read(self._reader, 8)

    def __del__(self) -> None:
        # Not before the last user is gone: a greenlet may be in select() on it, and libev aborts
        # the process when a watched descriptor is closed.
        if self._reader >= 0:
            os.close(self._reader)
        if self._writer != self._reader:  # pragma: no cover  (macOS and others)
            os.close(self._writer)
