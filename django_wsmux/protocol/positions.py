"""Positions: the number of a message in its group, as clients see it.

``"k3v9q2mx.h8s1c0a2w4-42"`` is an epoch and an offset. The epoch is the incarnation of a store and
the moment when the epoch began, in microseconds as base-36 digits. Offset 0 is the position before
the first message; its moment may be the time of the request (``history.sequence``).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["MAX_LENGTH", "NUMBERED", "Position", "epoch_of", "moment_of", "parse"]

#: The most characters of a position.
MAX_LENGTH: Final = 64

#: First byte of a numbered message between processes; see ``groups.envelope``.
NUMBERED: Final = 0x40

_POSITION: Final = re.compile(r"([0-9a-z]{1,24}\.[0-9a-z]{1,13})-(0|[1-9][0-9]{0,15})", re.ASCII)

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


class Position(NamedTuple):
    """The number of a message.

    Attributes:
        epoch: ``"<store>.<moment>"``.
        offset: the number in the epoch, from 1; 0 is before the first.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"


def parse(text: str) -> Position | None:
    """Return a position from its text; ``None`` if it is malformed."""
    match = _POSITION.fullmatch(text) if len(text) <= MAX_LENGTH else None
    return None if match is None else Position(match[1], int(match[2]))


def epoch_of(store: str, moment: int) -> str:
    """Return the epoch of a store that began at a moment.

    Args:
        store: the incarnation: 1 to 24 digits and lower-case letters.
        moment: microseconds since 1970.
    """
    digits = ""
    while moment:
        moment, rest = divmod(moment, 36)
        digits = _DIGITS[rest] + digits
    return f"{store}.{digits or '0'}"


def moment_of(epoch: str) -> tuple[str, int]:
    """Return the store and the moment of an epoch."""
    store, _, digits = epoch.partition(".")
    return store, int(digits, 36)
