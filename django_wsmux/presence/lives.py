"""What a handle of a store knows of the lives of processes.

A process whose rows no longer count begins another life with the next row that it enters. If it
enters a row before it calls ``renew()``, and others have already removed its earlier rows, the
store cannot know that there have been any. Therefore the handle remembers it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

__all__ = ["KnownLives"]


class KnownLives:
    """The lives in which processes have entered rows through a handle, mostly one process."""

    def __init__(self) -> None:
        self._lives: dict[str, dict[Hashable, Hashable]] = {}
        self._lost: set[str] = set()

    def entered(self, process: str, life: Hashable, part: Hashable = None) -> None:
        """Note the life in which a process has entered rows.

        Args:
            process: the process.
            life: identifies the life.
            part: the part of a store that has several, such as a cluster.
        """
        lives = self._lives.setdefault(process, {})
        if lives.setdefault(part, life) != life:
            lives[part] = life
            self._lost.add(process)

    def parts(self, process: str) -> list[Any]:
        """Return the parts of the store that have rows of a process."""
        return list(self._lives.get(process, ()))

    def renewed(self, process: str, *, is_alive: bool) -> bool:
        """Return the result of ``renew()``; after False, forget the lives.

        Args:
            process: the process.
            is_alive: whether the rows of its life count.
        """
        if is_alive and process not in self._lost:
            return True
        self._lives.pop(process, None)
        self._lost.discard(process)
        return False
