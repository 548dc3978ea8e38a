"""How many files the process may have open: each socket is one.

Where the limit is reached nobody is let in any more, be it for a page or for a socket.
"""

from __future__ import annotations

import contextlib
import resource
import sys

__all__ = ["raise_limit"]


def raise_limit() -> tuple[int, int]:
    """Raise the soft limit to the hard one, which is the one that an administrator has set.

    The soft one is low for the sake of programs that call ``select()``, which cannot take more;
    gevent has its own.

    Returns:
        How many files could be open before, and how many now.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before != hard:
        # macOS has a lower limit that it does not tell.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _finite(before), _finite(now)


def _finite(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
