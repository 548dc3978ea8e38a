"""Numbers publications, so that two processes can compare which of them each has received.

Each thread of a process is a source, which numbers its publications: a source keeps its order. The
last number of each source tells what has reached a process. Sockets that move to another process
take these numbers with them; see ``groups.moving``.
"""

from __future__ import annotations

import _thread
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["Numbers", "Observe", "wait_until"]

#: Called with source, number, channel and payload of a publication.
Observe = Callable[[bytes, int, str, bytes], object]

#: The number of sources beyond which those that have sent nothing for long are forgotten.
_MANY: Final = 1_000

#: The number of marks that are remembered.
_MARKS: Final = 1_000

#: The number of threads of a process that are told apart.
_THREADS: Final = 65_536

#: Seconds between two looks at a condition.
_PAUSE: Final = 0.002


class Numbers:
    """The last number of each source that has reached this process.

    Args:
        process: the id of this process.

    Attributes:
        observe: called for each publication that arrives or is sent here, in the same step as it is
            delivered; ``None`` while sockets do not move.
        last: the last number of each other source, without those that are forgotten soon.
        marks: sender and mark of the last marks that other processes have sent to this one.
    """

    __slots__ = (
        "_delayed",
        "_get_ident",
        "_older",
        "_own",
        "_process",
        "_sources",
        "last",
        "marks",
        "observe",
    )

    def __init__(self, process: bytes) -> None:
        self.observe: Observe | None = None
        self.last: dict[bytes, int] = {}
        self.marks: deque[tuple[bytes, bytes]] = deque(maxlen=_MARKS)
        self._older: dict[bytes, int] = {}
        self._process = process
        # The native thread: gevent's greenlets take turns, so they keep their order.
        monkey = sys.modules.get("gevent.monkey")
        self._get_ident: Callable[[], int] = (
            monkey.get_original("_thread", "get_ident") if monkey else _thread.get_ident
        )
        # The source of each thread, the last number that each has drawn; and for threads other than
        # the hub's, the last number that has reached the members here.
        self._sources: dict[int, bytes] = {}
        self._own: dict[bytes, int] = {}
        self._delayed: dict[bytes, int] = {}

    # This process

    def draw(self) -> tuple[bytes, int]:
        """Return the source of this thread, and the number of its next publication."""
        source = self._sources.get(self._get_ident()) or self._add()
        number = self._own[source] = self._own[source] + 1
        return source, number

    def draw_early(self) -> tuple[bytes, int]:
        """Do ``draw()`` for a publication that reaches the members here when ``arrived()`` says."""
        source, number = self.draw()
        self._delayed.setdefault(source, number - 1)
        return source, number

    def arrived(self, source: bytes, number: int, channel: str, payload: bytes) -> None:
        """Note that a publication of ``draw_early()`` has reached the members here."""
        self._delayed[source] = number
        if self.observe is not None:
            self.observe(source, number, channel, payload)

    def _add(self) -> bytes:
        thread = len(self._sources) % _THREADS
        source = self._process + thread.to_bytes(2, "big")
        self._own.setdefault(source, 0)
        self._sources[self._get_ident()] = source
        return source

    # All processes

    def forget_idle(self) -> None:
        """Forget the sources that have sent nothing for long; called for each new source."""
        if len(self.last) > _MANY:
            self._older, self.last = self.last, {}

    def table(self) -> dict[bytes, int]:
        """Return the last number of each source that has reached the members of this process."""
        return {**self._older, **self.last, **self._own, **self._delayed}

    def note_mark(self, sender: bytes, payload: bytes) -> None:
        """Note a mark, if it is for this process: the payload begins with its id."""
        if payload.startswith(self._process):
            self.marks.append((sender, payload[len(self._process) :]))

    def await_mark(self, mark: Mapping[str, Any], timeout: float) -> bool:
        """Wait for the marks that the result of ``Backend.mark()`` names; see ``await_mark()``."""
        if not mark:
            return False
        awaited = bytes.fromhex(mark["mark"])
        marks = [(bytes.fromhex(each), awaited) for each in mark["senders"]]
        return wait_until(lambda: all(each in self.marks for each in marks), timeout)


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait until a condition is true; return False if ``timeout`` seconds pass first."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_PAUSE)
    return True
