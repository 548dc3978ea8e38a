"""Requests to all processes, and the tracking of their replies."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Set
from typing import Final, NamedTuple

__all__ = [
    "Expected",
    "PendingRequest",
    "Replies",
    "Reply",
    "pack_answer",
    "pack_question",
    "unpack_answer",
]

#: The processes that must answer: their number, their ids, or ``None`` if unknown.
Expected = int | Set[bytes] | None

_NUMBER: Final = struct.Struct("!Q")
_ANSWER: Final = struct.Struct("!16sQ?")


class Replies(list[bytes]):
    """The answers of the other processes, in no particular order.

    Attributes:
        missing: how many processes have not answered in time; ``None`` if it is unknown how many
            exist.
    """

    def __init__(self, answers: Iterable[bytes] = (), *, missing: int | None) -> None:
        super().__init__(answers)
        self.missing = missing


class Reply(NamedTuple):
    """A parsed answer; ``text`` is ``None`` if the process is not subscribed."""

    asker: bytes
    number: int
    text: bytes | None


def pack_question(number: int, text: bytes) -> bytes:
    """Return the payload of a question packet."""
    return _NUMBER.pack(number) + text


def pack_answer(asker: bytes, question: bytes, text: bytes | None) -> bytes:
    """Return the payload of the answer to a question packet's payload."""
    (number,) = _NUMBER.unpack_from(question)
    return _ANSWER.pack(asker, number, text is not None) + (text or b"")


def unpack_answer(payload: bytes) -> Reply:
    """Parse the payload of an answer packet."""
    asker, number, is_subscribed = _ANSWER.unpack_from(payload)
    return Reply(asker, number, payload[_ANSWER.size :] if is_subscribed else None)


class PendingRequest:
    """A pending question; the owner thread adds the answers."""

    HEAD: Final = _NUMBER.size

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._expected: Expected = None
        self._answers: dict[bytes, bytes | None] = {}
        self._echoes = 0

    def expect(self, expected: Expected) -> None:
        """Set which processes must answer; answers may have come already."""
        with self._lock:
            self._expected = expected
            self._check()

    def add(self, sender: bytes, text: bytes | None) -> None:
        """Add an answer; ``None`` stands for a process that has none, or has died."""
        with self._lock:
            self._answers.setdefault(sender, text)
            self._check()

    def echo(self) -> None:
        """Note that the question reached its own sender, which was counted with the others."""
        with self._lock:
            self._echoes += 1
            self._check()

    def wait(self, timeout: float) -> bool:
        """Wait until all have answered; return False if ``timeout`` seconds pass first."""
        return self._done.wait(timeout)

    def replies(self) -> Replies:
        """Return the answers of the subscribed processes."""
        with self._lock:
            answers = [text for text in self._answers.values() if text is not None]
            return Replies(answers, missing=self._missing())

    def _check(self) -> None:
        if self._missing() == 0:
            self._done.set()

    def _missing(self) -> int | None:
        if self._expected is None:
            return None
        if isinstance(self._expected, int):
            return max(0, self._expected - len(self._answers) - self._echoes)
        return len(self._expected - self._answers.keys())
