"""Errors, gaps, counters and outages of a backend."""

from __future__ import annotations

import time
from dataclasses import dataclass
from random import SystemRandom
from typing import Final

__all__ = ["Counts", "Gap", "ReconnectBackoff"]

_random: Final = SystemRandom()

#: The first and the longest delay between two attempts to connect, in seconds, before jitter.
_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 10.0


@dataclass(frozen=True, slots=True)
class Gap:
    """This process may have missed publications.

    Attributes:
        reason: what happened.
        seconds: how long it lasted.
        missed: the largest possible number of missed publications, or ``None`` if unknown.
    """

    reason: str
    seconds: float
    missed: int | None = None


@dataclass(slots=True)
class Counts:
    """Counters of a backend in this process, for monitoring.

    Attributes:
        published: publications that were sent.
        received: publications of other processes that were delivered.
        dropped: packets for other processes that were dropped because a queue was full.
        unreadable: packets of an unknown version, damaged packets and other bytes.
        gaps: how often publications may have been missed.
        unanswered: questions that some process did not answer in time.
        failed: calls of ``receive()``, ``gap()`` and ``answer()`` that raised.
        accept_paused: how often other processes had to wait to connect because this one had no
            descriptor left.
    """

    published: int = 0
    received: int = 0
    dropped: int = 0
    unreadable: int = 0
    gaps: int = 0
    unanswered: int = 0
    failed: int = 0
    accept_paused: int = 0


class ReconnectBackoff:
    """Tracks outages, and decides when to try again."""

    def __init__(self) -> None:
        self._attempts = 0
        #: The reason of the current outage, or ``""``.
        self.reason = ""
        self._began: float | None = None
        self._ended = 0.0

    def begin(self, reason: str) -> bool:
        """Begin an outage; return False if it has begun already."""
        if self.reason:
            return False
        self.suspect()
        self.reason = reason or "an error without a message"
        return True

    def suspect(self) -> None:
        """Begin an outage whose reason is not known yet."""
        now = time.monotonic()
        if self._began is not None:
            return
        if now - self._ended > _LONGEST_DELAY:
            self._attempts = 0
        self._began = now

    def delay(self) -> float:
        """Return the delay before the next attempt, in seconds.

        Exponential with full jitter, so that a thousand workers do not reconnect at the same time.
        A connection that did not last counts as a failed attempt.
        """
        longest = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(self._attempts, 10))
        self._attempts += 1
        return _random.uniform(0, longest)

    def end(self) -> Gap | None:
        """End the outage; return its gap, or ``None`` if there was none."""
        self._ended = now = time.monotonic()
        if self._began is None:
            return None
        gap = Gap(self.reason or "connecting took long", now - self._began)
        self.reason, self._began = "", None
        return gap
