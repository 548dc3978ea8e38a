"""Members of a group that stop reading, and the others, who do not notice."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from uuid import uuid4

import pytest

from tests.gauges import growth, open_sockets, reported, wait_until
from tests.support import WORKERS, Server, Wire, frame

StartServer = Callable[..., Server]

pytestmark = pytest.mark.alone

MEMBERS = 500

#: Bytes of each message to the group.
SIZE = 2048

#: What a member that is to stall has for a receive buffer; Linux doubles it.
SMALL = 4096


def message(number: int) -> bytes:
    """Return the message of this number, as text that tells it everywhere."""
    return (b"%07d " % number) * (SIZE // 8)


class Crowd:
    """The members of the group ``test``, all in one worker; the first one speaks.

    Args:
        server: has one worker.
        stack: closes the sockets.
        stalling: how many of them will stop reading.
    """

    def __init__(self, server: Server, stack: ExitStack, stalling: int) -> None:
        self.server = server

        def join(receive_buffer: int | None = None) -> Wire:
            return stack.enter_context(server.upgraded("/group/", receive_buffer=receive_buffer))

        self.speaker = join()
        self.healthy = [self.speaker, *(join() for _ in range(MEMBERS - stalling - 1))]
        self.stalling = [join(SMALL) for _ in range(stalling)]
        wait_until(lambda: self.count() == MEMBERS, f"{MEMBERS} members")
        self._said = 0

    def count(self) -> int:
        """Return how many members the group has."""
        self.speaker.send(frame(0x81, b"count"))
        return int(self.speaker.frame()[1])

    def say(self, readers: list[Wire]) -> float:
        """Send the next message, read it with every reader; return how long all that took."""
        expected = (1, message(self._said))
        self._said += 1
        started = time.monotonic()
        self.speaker.send(frame(0x81, expected[1], b"\0\0\0\0"))
        for reader in readers:
            assert reader.frame() == expected
        return time.monotonic() - started

    def stall(self) -> None:
        """Let those who stall have so much to read that nothing more goes out to them."""
        for wire in self.stalling:
            key = uuid4().hex
            wire.send(frame(0x81, f"fill {key}".encode()))
            reported(self.server, key)

    def say_until_dropped(self) -> list[float]:
        """Go on without those who stall, until they are members no more.

        Every healthy member has message N before N + 1 is sent.
        """
        times = []
        while self.count() > len(self.healthy):
            times.append(self.say(self.healthy))
            assert len(times) < 100, "nobody has been dropped"
        return times


@pytest.fixture(scope="module", params=WORKERS)
def server(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """A server with short queues and without pings among the messages."""
    env = {
        "TEST_MAX_UNSENT_BYTES": "65536",
        "TEST_PING_INTERVAL": "0",
        "TEST_CLOSE_TIMEOUT": "3",
    }
    return start_lasting_server(request.param, env=env)


def assert_no_delay(before: list[float], after: list[float]) -> None:
    """Hold that messages took no longer than before, noise of a busy machine allowed for."""
    assert statistics.median(after) < 3 * statistics.median(before) + 0.02
    # Who waited for the stalled one, if just once, would wait for WEBSOCKET_CLOSE_TIMEOUT.
    assert max(after) < 2


def test_one_that_reads_again(server: Server) -> None:
    """It is told 1013, behind what was sent before; the 499 others get everything at once."""
    with ExitStack() as stack:
        crowd = Crowd(server, stack, stalling=1)
        (stalled,) = crowd.stalling
        before = [crowd.say([*crowd.healthy, stalled]) for _ in range(10)]
        crowd.stall()
        assert_no_delay(before, crowd.say_until_dropped())
        assert open_sockets(server) == MEMBERS
        while (received := stalled.frame())[0] == 2:
            pass
        assert received == (1, message(10))
        number = 11
        while (received := stalled.frame())[0] == 1:
            assert received[1] == message(number)
            number += 1
        assert received == (8, (1013).to_bytes(2, "big") + b"too slow")
        stalled.send(frame(0x88, received[1]))
        assert stalled.read(1) == b""
        crowd.say(crowd.healthy)


def test_fifty_that_do_not(server: Server) -> None:
    """They are dropped after WEBSOCKET_CLOSE_TIMEOUT, and their memory is given back."""
    with growth(server), ExitStack() as stack:
        crowd = Crowd(server, stack, stalling=50)
        before = [crowd.say([*crowd.healthy, *crowd.stalling]) for _ in range(10)]
        crowd.stall()
        assert_no_delay(before, crowd.say_until_dropped())
        wait_until(lambda: open_sockets(server) == MEMBERS - 50, "50 dropped")
        crowd.say(crowd.healthy)
