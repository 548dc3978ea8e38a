"""Keeps the last publications of all processes, while sockets move.

The sockets of a batch come with the numbers of the publications that have reached them. What the
ring has above these numbers they get; what arrives later and is not above them they do not get.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakSet

from ..backends import Backend
from . import envelope

if TYPE_CHECKING:
    from ..connection.connection import Connection
    from .pubsub import PubSub

__all__ = ["Publication", "Ring", "read_table", "table_as_json"]

#: The most publications in the ring, and their bytes.
MOST: Final = 100_000
MOST_BYTES: Final = 2**25

#: Kinds of envelopes of groups with a history, which have positions.
_WITH_POSITION: Final = frozenset({envelope.NUMBERED, envelope.FORGET})

#: The last number of each source.
Table = Mapping[bytes, int]


class Publication(NamedTuple):
    """A publication with its number; see ``backends.numbers``."""

    source: bytes
    number: int
    channel: str
    payload: bytes

    def follows(self, table: Table) -> bool:
        """Return whether a process with these numbers has not received it."""
        return self.number > table.get(self.source, 0)


class Ring:
    """The publications that have arrived or were sent here since it was made.

    Args:
        backend: the backend that they come from.
        pubsub: delivers them.
    """

    def __init__(self, backend: Backend, pubsub: PubSub) -> None:
        backend.process()  # makes the numbers, too
        self._backend = backend
        self._pubsub = pubsub
        self._kept: deque[Publication] = deque()
        self._bytes = 0
        # The highest number of each source that was dropped, because the ring was full.
        self._dropped: dict[bytes, int] = {}
        self._gaps = backend.counts.gaps
        # Sockets that have come, and the numbers that they came with.
        self._arrivals: list[tuple[Table, Collection[Connection]]] = []
        backend.numbers.observe = self._add

    def close(self) -> None:
        """Keep nothing any more."""
        self._backend.numbers.observe = None
        self._pubsub.excluded = ()

    def _add(self, source: bytes, number: int, channel: str, payload: bytes) -> None:
        """Keep a publication; leave out the sockets that came with it when it is delivered."""
        found = Publication(source, number, channel, payload)
        self._pubsub.excluded = self._served_elsewhere(found) if self._arrivals else ()
        if payload[0] in _WITH_POSITION:
            return
        self._kept.append(found)
        self._bytes += len(payload)
        while len(self._kept) > MOST or self._bytes > MOST_BYTES:
            oldest = self._kept.popleft()
            self._bytes -= len(oldest.payload)
            self._dropped[oldest.source] = oldest.number

    def _served_elsewhere(self, found: Publication) -> Collection[Connection]:
        """Return the sockets that got a publication in the process that they come from."""
        return {
            websocket
            for table, websockets in self._arrivals
            if not found.follows(table)
            for websocket in websockets
        }

    def is_complete(self, table: Table) -> bool:
        """Return whether the ring has each publication that follows these numbers."""
        return self._backend.counts.gaps == self._gaps and all(
            number <= table.get(source, 0) for source, number in self._dropped.items()
        )

    def all(self) -> Iterator[Publication]:
        """Return the publications in the order of their arrival."""
        return iter(self._kept)

    def note_arrivals(self, table: Table, websockets: Collection[Connection]) -> None:
        """Leave these sockets out when publications arrive late that they got elsewhere."""
        present = self._backend.numbers.table()
        self._arrivals = [
            arrival
            for arrival in (*self._arrivals, (table, WeakSet(websockets)))
            if any(present.get(source, 0) < number for source, number in arrival[0].items())
        ]


def table_as_json(table: Table) -> dict[str, int]:
    """Return numbers as values of JSON."""
    return {source.hex(): number for source, number in table.items()}


def read_table(found: Mapping[str, int]) -> dict[bytes, int]:
    """Return numbers from the result of ``table_as_json()``."""
    return {bytes.fromhex(source): number for source, number in found.items()}
