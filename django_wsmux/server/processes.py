"""Processes of this machine, read from ``/proc``; elsewhere none are found."""

from __future__ import annotations

import os

__all__ = ["children_of", "generation", "parent_of", "set_generation", "start_of"]

# Indices of fields after the name of the program: proc(5), from the third on.
_STATE = 0
_PARENT = 1
_START = 19


def _fields(pid: int) -> list[bytes]:
    """Return the fields of a process that has not ended, or an empty list."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name may contain anything, also ")".
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return []
    return [] if fields[_STATE] in (b"Z", b"X") else fields


def start_of(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if there is none.

    Together with the number of the process this identifies it, for numbers are used again.
    """
    fields = _fields(pid)
    return int(fields[_START]) if fields else 0


def parent_of(pid: int) -> int:
    """Return the number of a process's parent; 0 if there is no such process."""
    fields = _fields(pid)
    return int(fields[_PARENT]) if fields else 0


def children_of(pid: int) -> dict[int, int]:
    """Return the children that the main thread of a process has started, and when."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            children = [int(child) for child in file.read().split()]
    except OSError:
        return {}
    started = {child: start_of(child) for child in children if child != os.getpid()}
    return {child: start for child, start in started.items() if start}


_generation: int | None = None


def generation() -> int | None:
    """Return how often gunicorn had loaded its configuration when it started this process.

    It is ``None`` if the server does not count that.
    """
    return _generation


def set_generation(number: int) -> None:
    """Set the generation of this process."""
    global _generation
    _generation = number
