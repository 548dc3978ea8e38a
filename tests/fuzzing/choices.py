"""Bytes as a list of choices, so that a fuzzer that changes bytes changes decisions.

A replacement for atheris's ``FuzzedDataProvider`` in Python: an input means the same with and
without atheris, in a fuzzing run, in CI and when a crash is analysed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Choices"]

T = TypeVar("T")


class Choices:
    """Reads an input from its start. At its end, every choice is the first one.

    Args:
        data: the input.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        """Whether any bytes are left."""
        return self._position < len(self._data)

    def number(self, below: int) -> int:
        """Choose a number from 0, using as few bytes as it needs."""
        size = ((below - 1).bit_length() + 7) // 8
        return int.from_bytes(self.take(size), "big") % below

    def flag(self) -> bool:
        """Choose yes or no."""
        return self.number(2) == 1

    def one_of(self, values: Sequence[T]) -> T:
        """Choose one of several options."""
        return values[self.number(len(values))]

    def take(self, size: int) -> bytes:
        """Return bytes unchanged; fewer at the end."""
        taken = self._data[self._position : self._position + size]
        self._position += len(taken)
        return taken

    def rest(self) -> bytes:
        """Return all remaining bytes."""
        return self.take(len(self._data))
