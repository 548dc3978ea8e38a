"""CPU time of gunicorn's processes, for ``deploy.py`` and its site."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["children", "fields_of", "spent"]


def children(pid: int) -> set[int]:
    """Return the children of a process."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def fields_of(directory: Path) -> list[str]:
    """Return the fields of a process or thread behind its name, which may contain anything."""
    return (directory / "stat").read_text().rpartition(")")[2].split()


def spent(parent: int) -> float:
    """Return the CPU seconds so far of a process and its children, those that have ended too."""
    ticks = 0
    for pid in (parent, *children(parent)):
        try:
            # See proc(5): utime, stime, cutime and cstime.
            ticks += sum(map(int, fields_of(Path(f"/proc/{pid}"))[11:15]))
        except FileNotFoundError:
            return spent(parent)  # it has ended meanwhile
    return ticks / os.sysconf("SC_CLK_TCK")
