"""Members of a group that stop reading do not delay the others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from uuid import uuid4

import pytest

from tests.gauges import growth, open_sockets, reported, wait_until
from tests.support import WORKERS, Server, Wire, frame

StartServer = Callable[..., Server]

MEMBERS = 500

#: Bytes of each message to the group.
SIZE = 2048

#: The receive buffer of a member that will stall; Linux doubles it.
SMALL = 4096


def message(number: int) -> bytes:
    """Return the message of this number, as text that repeats it."""
    return (b"%07d " % number) * (SIZE // 8)


class Crowd:
    """The members of the group ``test``, all in one worker; the first one speaks.

    Args:
        server: a server with one worker.
        stack: closes the sockets.
        stalling: the number of members that will stop reading.
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

    def say(self, readers: list[Wire]) -> None:
        """Send the next message, and read it with every reader."""
        expected = (1, message(self._said))
        self._said += 1
        self.speaker.send(frame(0x81, expected[1], b"\0\0\0\0"))
        for reader in readers:
            assert reader.frame() == expected

    def stall(self) -> None:
        """Fill the buffers of the stalling members, so that nothing more goes out to them."""
        for wire in self.stalling:
            key = uuid4().hex
            wire.send(frame(0x81, f"fill {key}".encode()))
            reported(self.server, key)

    def say_until_dropped(self) -> None:
        """Send messages until the stalling members have left the group.

        Every healthy member receives message N before N + 1 is sent.
        """
        for _ in range(100):
            if self.count() == len(self.healthy):
                return
            self.say(self.healthy)
        raise AssertionError("no member was dropped")


def crowded(start_server: StartServer, worker: str, close_timeout: int) -> Server:
    """Start a server with short queues, without pings between the messages."""
    env = {
        "TEST_MAX_UNSENT_BYTES": "65536",
        "TEST_PING_INTERVAL": "0",
        "TEST_CLOSE_TIMEOUT": str(close_timeout),
    }
    return start_server(worker, env=env)


@pytest.mark.parametrize("worker", WORKERS)
def test_one_that_reads_again(start_server: StartServer, worker: str) -> None:
    """A member that reads again gets 1013 behind earlier messages; 499 others get everything."""
    # With this timeout, a message that waited for the stalled one would not arrive in time.
    server = crowded(start_server, worker, 600)
    with ExitStack() as stack:
        crowd = Crowd(server, stack, stalling=1)
        (stalled,) = crowd.stalling
        for _ in range(10):
            crowd.say([*crowd.healthy, stalled])
        crowd.stall()
        crowd.say_until_dropped()
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


@pytest.mark.parametrize("worker", WORKERS)
def test_fifty_that_do_not(start_server: StartServer, worker: str) -> None:
    """Fifty members are dropped after WEBSOCKET_CLOSE_TIMEOUT, and their memory is freed."""
    server = crowded(start_server, worker, 3)
    with growth(server), ExitStack() as stack:
        crowd = Crowd(server, stack, stalling=50)
        for _ in range(10):
            crowd.say([*crowd.healthy, *crowd.stalling])
        crowd.stall()
        crowd.say_until_dropped()
        wait_until(lambda: open_sockets(server) == MEMBERS - 50, "50 dropped")
        crowd.say(crowd.healthy)
