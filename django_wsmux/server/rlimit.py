"""The limit of open files of the process: each socket is one.

A process that has reached the limit accepts no connection, whether for a page or for a socket.
"""

from __future__ import annotations

import contextlib
import resource
import sys

__all__ = ["raise_limit"]


def raise_limit() -> tuple[int, int]:
    """Raise the soft limit to the hard limit, which an administrator has set.

    The soft limit is low for programs that call ``select()``, which cannot handle more; gevent has
    its own.

    Returns:
        How many files could be open before, and how many can be open now.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before != hard:
        # macOS has a lower limit, which it does not report.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _finite(before), _finite(now)


def _finite(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
