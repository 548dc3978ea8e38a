"""Events that the codec reports, and the sink for its messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

__all__ = [
    "CannotMove",
    "Closed",
    "Control",
    "Failure",
    "Ping",
    "Pong",
    "Sink",
    "Violation",
]


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping; the pong must have the same payload (RFC 6455 section 5.5.2)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """A pong, solicited or not (section 5.5.3)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The peer's close frame; the code is 1005 if it had no body (section 7.1.5)."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The peer broke a rule: send this code and drop the connection (section 7.1.7).

    Attributes:
        code: for the close frame.
        reason: for the close frame and the log.
        counter: the counter of the limit that was exceeded; ``""`` if it is not one of our limits.
    """

    code: int
    reason: str
    counter: str = field(default="", compare=False)


Control = Ping | Pong | Closed | Failure


class Sink(Protocol):
    """A container for complete messages, such as a list or a deque."""

    def __len__(self) -> int:
        """Return the number of messages."""

    def append(self, message: str | bytes, /) -> None:
        """Add a message."""

    def pop(self) -> object:
        """Remove the last message and return it."""


class CannotMove(Exception):
    """A connection cannot move to another process, or not now.

    Args:
        reason: completes a sentence: "it is closed".
        is_final: it never can, so there is no use in trying later.
    """

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


class Violation(Exception):
    """Carries a ``Failure`` out of the parser; never leaves the codec."""

    def __init__(self, code: int, reason: str, counter: str = "") -> None:
        super().__init__(reason)
        self.failure = Failure(code, reason, counter)
