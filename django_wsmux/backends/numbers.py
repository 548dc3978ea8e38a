"""Numbers publications, so that two processes can compare which of them each has received.

Each thread of a process is a source, which numbers its publications: a source keeps its order. The
last number of each source tells what has reached a process. Sockets that move to another process
take these numbers with them; see ``groups.moving``.
"""

from __future__ import annotations

import _thread
import itertools
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

#: What is added to the numbers of the second thread of a process; of the third, twice that. So the
#: numbers of the first, which is the only one in most processes, are those of the process.
THREAD: Final = 2**48

#: The number of threads of a process that are told apart.
_THREADS: Final = 65_536

#: Seconds between two looks at a condition.
_PAUSE: Final = 0.002


class _Last(dict[bytes, list[int]]):
    """The last number of each source, in a list of its own.

    Attributes:
        older: sources that have sent nothing for long; they are forgotten next.
    """

    def __init__(self) -> None:
        self.older: dict[bytes, list[int]] = {}

    def __missing__(self, source: bytes) -> list[int]:
        if len(self) >= _MANY:
            self.older = dict(self)
            self.clear()
        found = self[source] = [0]
        return found


class _Own(dict[int, list[int]]):
    """The last number that each thread of this process has drawn, in a list of its own."""

    def __init__(self) -> None:
        # Other than the length of this dict, each is drawn by one thread only.
        self._threads = itertools.count()

    def __missing__(self, thread: int) -> list[int]:
        found = self[thread] = [next(self._threads) % _THREADS * THREAD]
        return found


class Numbers:
    """The last number of each source that has reached this process.

    Args:
        process: the id of this process.

    Attributes:
        get_ident: returns the id of the native thread.
        own: the last number that each thread of this process has drawn, as the item of a list.
        observe: called for each publication that arrives or is sent here, in the same step as it is
            delivered; ``None`` while sockets do not move.
        last: the last number of each other source, as the item of a list.
        marks: sender and mark of the last marks that other processes have sent to this one.
    """

    __slots__ = ("_delayed", "_process", "get_ident", "last", "marks", "observe", "own")

    def __init__(self, process: bytes) -> None:
        self.observe: Observe | None = None
        self.last = _Last()
        self.marks: deque[tuple[bytes, bytes]] = deque(maxlen=_MARKS)
        self._process = process
        # The native thread: gevent's greenlets take turns, so they keep their order.
        monkey = sys.modules.get("gevent.monkey")
        self.get_ident: Callable[[], int] = (
            monkey.get_original("_thread", "get_ident") if monkey else _thread.get_ident
        )
        self.own = _Own()
        # For threads other than the hub's: the last number that has reached the members here.
        self._delayed: dict[bytes, int] = {}

    # This process

    def note_own(self, number: int, channel: str, payload: bytes) -> None:
        """Note that a publication of this process has just reached the members here."""
        if self.observe is not None:
            self.observe(self.source_of(self._process, number), number, channel, payload)

    def draw_early(self) -> int:
        """Return the number of a publication that reaches the members here when ``arrived()`` says.

        The thread may not draw numbers in another way.
        """
        last = self.own[self.get_ident()]
        self._delayed.setdefault(self.source_of(self._process, last[0]), last[0])
        last[0] = number = last[0] + 1
        return number

    def arrived(self, number: int, channel: str, payload: bytes) -> None:
        """Note that a publication of ``draw_early()`` has reached the members here."""
        self._delayed[self.source_of(self._process, number)] = number
        self.note_own(number, channel, payload)

    # All processes

    def source_of(self, process: bytes, number: int) -> bytes:
        """Return the source of a publication: a process, or a thread of it.

        Args:
            process: the id of the process.
            number: the number of the publication.
        """
        thread = number // THREAD
        return process + thread.to_bytes(2, "big") if thread else process

    def table(self) -> dict[bytes, int]:
        """Return the last number of each source that has reached the members of this process."""
        found = {source: last for source, (last,) in {**self.last.older, **self.last}.items()}
        for (number,) in list(self.own.values()):
            found[self.source_of(self._process, number)] = number
        return found | self._delayed

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
