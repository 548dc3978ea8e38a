"""glibc's allocator, set up for messages that come and go.

When much is free at the end of the heap glibc gives it back to the system, and takes it again for
the next message: for one of 1 MiB that is a thousand page faults, as much work as all the rest of
its echo.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Final

__all__ = ["keep_freed_memory"]

# malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

#: Bytes at the end of the heap that are kept although they are free: a few large messages.
_KEPT: Final = 16 * 2**20

#: Bytes from which on memory is the system's own to give and to take. Once either is set glibc
#: does not raise this by itself any more.
_MAPPED: Final = 4 * 2**20

_VARIABLES: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> None:
    """Have glibc keep some of the memory that is freed, unless its environment says otherwise.

    For a process that gets large messages; one that gets none has better use for its memory. Does
    nothing where there is another C library, nor the second time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in _VARIABLES):
        return
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
    mallopt(_M_MMAP_THRESHOLD, _MAPPED)
