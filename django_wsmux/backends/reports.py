"""What a backend has to say when something is not as it should be."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Final

__all__ = ["BackendMisconfigured", "BackendUnavailable", "Counts", "Gap", "Outages"]

#: Seconds: the first and the longest wait between two attempts to connect, each times 0 to 1.
_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 10.0


class BackendUnavailable(Exception):
    """What carries the messages cannot be reached.

    Attributes:
        backend: its URL, without password.
        problem: what went wrong.
        advice: what to check.
    """

    def __init__(self, backend: str, problem: str, advice: str = "") -> None:
        self.backend = backend
        self.problem = problem
        self.advice = advice
        super().__init__(backend, problem, advice)

    def __str__(self) -> str:
        return f"{self.backend}: {self.problem}" + (f"; {self.advice}" if self.advice else "")


class BackendMisconfigured(BackendUnavailable):
    """What carries the messages can never be reached as it is set up."""


@dataclass(frozen=True, slots=True)
class Gap:
    """This process may have missed publications.

    Attributes:
        reason: what happened.
        seconds: how long it lasted.
        missed: how many publications, at most, or ``None`` where nobody can know.
    """

    reason: str
    seconds: float
    missed: int | None = None


@dataclass(slots=True)
class Counts:
    """What a backend did in this process, for monitoring.

    Attributes:
        published: publications that were handed to the transport.
        received: publications of other processes that were handed over.
        dropped: packets for other processes that were given up because a queue was full.
        unreadable: packets of an unknown version, damaged ones, and what is no packet at all.
        gaps: how often publications may have been missed.
        unanswered: questions that not everybody answered in time.
        failed: calls of ``receive()``, ``gap()`` and ``answer()`` that raised.
        accept_paused: times that other processes had to wait to connect, as this one had no
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


class Outages:
    """Times during which a process heard nothing, and when to try again."""

    def __init__(self) -> None:
        self._attempts = 0
        #: Why nothing is heard; empty where that is not so.
        self.reason = ""
        self._began: float | None = None
        self._ended = 0.0

    def begin(self, reason: str) -> bool:
        """Note that nothing is heard, and why; return False if that is noted already."""
        if self.reason:
            return False
        self.suspect()
        self.reason = reason or "an error without a text"
        return True

    def suspect(self) -> None:
        """Note that nothing is heard, where the reason is not known yet."""
        now = time.monotonic()
        if self._began is not None:
            return
        if now - self._ended > _LONGEST_DELAY:
            self._attempts = 0
        self._began = now

    def delay(self) -> float:
        """Return how many seconds to wait before the next attempt.

        Exponential with full jitter, so that a thousand workers do not come back at one moment.
        A connection that did not last counts as a failed attempt.
        """
        longest = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(self._attempts, 10))
        self._attempts += 1
        return random.uniform(0, longest)  # noqa: S311  # it is no secret

    def end(self) -> Gap | None:
        """Everything is heard from now on; return the outage, if there was one."""
        self._ended = now = time.monotonic()
        if self._began is None:
            return None
        gap = Gap(self.reason or "it took long to connect", now - self._began)
        self.reason, self._began = "", None
        return gap
