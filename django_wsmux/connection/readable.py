"""A descriptor for select() that is readable exactly while a message, or the close, waits.

A socket's own descriptor only shows that bytes have arrived. One TCP segment may contain two
frames, so that the second waits in memory while the descriptor is not readable. Half a frame may
wake a reader that then blocks.
"""

from __future__ import annotations

import os
import socket

__all__ = ["EventReadiness", "PairReadiness", "Readiness"]


class EventReadiness:
    """A level-triggered flag that select(), poll() and epoll can watch: an eventfd (Linux)."""

    __slots__ = ("_descriptor", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor to watch for reading."""
        return self._descriptor

    def set(self) -> None:
        """Make the descriptor readable."""
        if not self._is_set:
            self._is_set = True
            os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        """Make the descriptor not readable."""
        if self._is_set:
            self._is_set = False
            os.eventfd_read(self._descriptor)

    def __del__(self) -> None:
        # Not earlier: a greenlet may be in select() on it, and libev aborts the process when a
        # watched descriptor is closed.
        os.close(self._descriptor)


class PairReadiness:
    """The same with a pair of sockets, which select() can watch on every system."""

    __slots__ = ("_is_set", "_reader", "_writer")

    def __init__(self) -> None:
        self._is_set = False
        self._reader, self._writer = socket.socketpair()

    def fileno(self) -> int:
        """Return the descriptor to watch for reading."""
        return self._reader.fileno()

    def set(self) -> None:
        """Make the descriptor readable."""
        if not self._is_set:
            self._is_set = True
            self._writer.send(b"!")

    def clear(self) -> None:
        """Make the descriptor not readable."""
        if self._is_set:
            self._is_set = False
            self._reader.recv(1)

    def __del__(self) -> None:
        self._reader.close()
        self._writer.close()


Readiness = EventReadiness if hasattr(os, "eventfd") else PairReadiness
