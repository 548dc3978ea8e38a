"""Calls of several threads, sent to a broker over one connection."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from django_wsmux.backends.broker import Call, PublishBatcher
from django_wsmux.exceptions import BackendUnavailable


class Broker:
    """Accepts calls once it is released, and records the packets of each round trip."""

    def __init__(self) -> None:
        self.trips: list[list[bytes]] = []
        self.begun = threading.Event()
        self.released = threading.Event()

    def exchange(self, calls: Sequence[Call]) -> None:
        """Refuse the packet "bad"; lose the connection at "lost"."""
        self.begun.set()
        assert self.released.wait(60)
        self.trips.append([call.packet for call in calls])
        for call in calls:
            if call.packet == b"lost":
                raise BackendUnavailable("broker", "it is gone")
            if call.packet == b"bad":
                call.fail("refused")
            else:
                call.succeed(len(self.trips))


def call(batcher: PublishBatcher, packet: bytes) -> Call:
    """Send a packet; return the call once it is done."""
    call = Call("room", packet)
    batcher.call(call)
    return call


def test_batch() -> None:
    """Calls that arrive during a round trip are sent together in the next one, in order."""
    broker = Broker()
    batcher = PublishBatcher(broker.exchange)
    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(call, batcher, b"first")
        assert broker.begun.wait(60)
        others = []
        for number in range(8):
            others.append(threads.submit(call, batcher, b"%d" % number))
            while len(batcher._queue) <= number:
                threading.Event().wait(0.001)
        broker.released.set()
        assert first.result(60).result == 1
        assert [other.result(60).result for other in others] == [2] * 8
    assert broker.trips == [[b"first"], [b"%d" % number for number in range(8)]]


def test_errors() -> None:
    """A refused call fails alone; a lost connection fails all pending calls."""
    broker = Broker()
    broker.released.set()
    batcher = PublishBatcher(broker.exchange)
    assert call(batcher, b"bad").error == "refused"
    assert call(batcher, b"lost").error is not None
    assert call(batcher, b"good").error is None
