"""Tunes glibc's allocator for large messages.

glibc returns free memory at the end of the heap to the system, and requests it again for the next
message. For a message of 1 MiB that means a thousand page faults, as much work as the rest of its
echo.
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

#: Free bytes at the end of the heap that glibc keeps: enough for a few large messages.
_KEPT: Final = 16 * 2**20

#: From this many bytes on, glibc maps memory from the system and unmaps it. Once either value is
#: set, glibc does not raise this one by itself any more.
_MAPPED: Final = 4 * 2**20

_VARIABLES: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> None:
    """Make glibc keep some freed memory, unless its environment variables are set.

    For processes that get large messages; others would waste memory. Does nothing with another C
    library, or when called again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in _VARIABLES):
        return
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
    mallopt(_M_MMAP_THRESHOLD, _MAPPED)
