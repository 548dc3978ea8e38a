"""What this process has seen, as plain numbers."""

from __future__ import annotations

from .server.counters import counters
from .server.registry import open_sockets

__all__ = ["snapshot"]


def snapshot() -> dict[str, int]:
    """Return the counters and gauges of this process.

    Returns:
        ``open``, the number of open sockets, and how often each limit was reached since the
        process started, by the names in ``docs/settings.rst``.

    Example::

        >>> snapshot()["open"]
        0
    """
    return {"open": len(open_sockets), **counters}
