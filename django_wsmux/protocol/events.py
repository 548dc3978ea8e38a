"""What the codec reports, and where its messages go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Closed", "Control", "Failure", "Ping", "Pong", "Sink", "Violation"]


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping; its payload belongs into the pong (RFC 6455 section 5.5.2)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """A pong, asked for or not (section 5.5.3)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The peer's close frame; code 1005 when it had no body (section 7.1.5)."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The peer broke a rule: send this code and drop the connection (section 7.1.7).

    Attributes:
        code: for the close frame.
        reason: for the close frame, and the log.
        counter: counts how often it happens; ``""`` for what is no limit of ours.
    """

    code: int
    reason: str
    counter: str = field(default="", compare=False)


Control = Ping | Pong | Closed | Failure


class Sink(Protocol):
    """Where complete messages go: a list, a deque."""

    def __len__(self) -> int:
        """Return how many are there."""

    def append(self, message: str | bytes, /) -> None:
        """Take one."""

    def pop(self) -> object:
        """Give the last one back."""


class Violation(Exception):
    """Carries a ``Failure`` out of the parser; the codec never lets it pass."""

    def __init__(self, code: int, reason: str, counter: str = "") -> None:
        super().__init__(reason)
        self.failure = Failure(code, reason, counter)
