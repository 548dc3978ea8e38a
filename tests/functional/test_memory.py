"""Memory of sockets in a worker, against their limits, with the worst input."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from uuid import uuid4

import pytest

from tests.gauges import MIB, growth, reported, wait_until
from tests.support import TIMEOUT, Server, Wire, frame, handshake

StartServer = Callable[..., Server]

pytestmark = pytest.mark.alone

#: Every limit in bytes of the servers here.
LIMIT = MIB

#: Number of sockets that reach the limit.
PEERS = 20

#: Growth of a worker for other reasons: its allocator, first uses.
NOISE = 12 * MIB

#: The receive buffer of a peer that does not read; Linux doubles it.
SMALL = 4096


@pytest.fixture(scope="module", params=["own", "runserver"])
def server(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """A server without short timeouts."""
    settings = {
        "WEBSOCKET_MAX_UNSENT_BYTES": LIMIT,
        "WEBSOCKET_MAX_UNREAD_BYTES": LIMIT,
        "WEBSOCKET_MAX_UNREAD_MESSAGES": 10**6,
        "WEBSOCKET_MAX_MESSAGE_SIZE": LIMIT,
        "WEBSOCKET_SEND_TIMEOUT": 300,
        "WEBSOCKET_CLOSE_TIMEOUT": 300,
        "WEBSOCKET_PING_INTERVAL": 0,
    }
    return start_lasting_server(request.param, env={"TEST_SETTINGS": json.dumps(settings)})


def counted(server: Server, name: str) -> int:
    """Return one of the server's counters."""
    return int(json.loads(server.get("/metrics/"))[name])


@contextmanager
def bounded(server: Server, count: str) -> Iterator[ExitStack]:
    """Assert that ``PEERS`` sockets at their limit cost at most twice the limit each.

    Args:
        server: a server with one worker.
        count: the counter that shows that a socket is at its limit.
    """
    before = counted(server, count)
    with growth(server, kept=2 * PEERS * LIMIT + NOISE) as gauges, ExitStack() as stack:
        yield stack
        wait_until(lambda: counted(server, count) >= before + PEERS, f"{PEERS} of {count}")
        # So that garbage does not count.
        held = gauges.kept()
        assert held < 2 * PEERS * LIMIT + NOISE, f"{held / MIB / PEERS:.2f} MiB for each socket"


@pytest.mark.parametrize("size", [20, 5000, 2**16, 2**20])
def test_unsent(server: Server, size: int) -> None:
    """A peer that does not read costs at most twice the limit, with messages of any size."""
    with bounded(server, "send_waited") as stack:
        for _ in range(PEERS):
            stack.enter_context(server.upgraded(f"/filling/{size}/", receive_buffer=SMALL))


@pytest.mark.parametrize("size", [20, 2**16, 4 * LIMIT])
def test_unsent_of_a_group(server: Server, size: int) -> None:
    """The same holds for members; they share a message that is larger than the limit."""
    name = uuid4().hex
    with bounded(server, "slow_client_closed") as stack:
        for _ in range(PEERS):
            member = server.upgraded(f"/events/room/{name}/", receive_buffer=SMALL)
            wire = stack.enter_context(member)
            assert wire.frame()[0] == 1
        # Fill the kernel's buffers first, then send what no peer takes.
        server.get(f"/flood-group/{name}/40/{2**17}/")
        server.get(f"/flood-group/{name}/{min(LIMIT // size + 10, 2000)}/{size}/")


def test_large_message_of_a_group(server: Server) -> None:
    """A message larger than the limit reaches members that were not behind."""
    before = counted(server, "slow_client_closed")
    name = uuid4().hex
    with ExitStack() as stack:
        members = [
            stack.enter_context(server.upgraded(f"/events/room/{name}/", receive_buffer=SMALL))
            for _ in range(3)
        ]
        for member in members:
            assert member.frame()[0] == 1
        server.get(f"/flood-group/{name}/1/{8 * LIMIT}/")
        for member in members:
            assert member.frame() == (2, bytes(8 * LIMIT))
    assert counted(server, "slow_client_closed") == before


def stuff(wires: list[Wire], data: bytes) -> None:
    """Send to all of them for as long as they accept data."""
    for wire in wires:
        threading.Thread(target=_send, args=(wire, data), daemon=True).start()


def _send(wire: Wire, data: bytes) -> None:
    with suppress(OSError):  # the test is over
        wire.sock.sendall(data)


#: Text with four bytes for each character, all but one of which would fit into one.
WIDE = ("\U0001f600" + "x" * 2**15).encode()


@pytest.mark.parametrize(
    "message",
    [b"x", b"x" * 2**16, WIDE, "\xff".encode() * 2**15],
    ids=["tiny", "64K", "wide", "ff"],
)
def test_unread(server: Server, message: bytes) -> None:
    """A view that does not receive: text counts with its size in memory."""
    one = frame(0x81, message, b"\0\0\0\0")
    data = one * (4 * LIMIT // len(one))
    keys = [uuid4().hex for _ in range(PEERS)]
    with bounded(server, "reading_paused") as stack:
        # At the very end, when the peers are gone, the views end.
        stack.callback(lambda: [server.get(f"/let-go/{key}/") for key in keys])
        stuff([stack.enter_context(server.upgraded(f"/late-echo/{key}/")) for key in keys], data)


@pytest.mark.parametrize("size", [1, 10_000])
def test_before_the_101(server: Server, size: int) -> None:
    """Groups send while ``connect()`` takes its time."""
    key = uuid4().hex
    with bounded(server, "slow_client_closed") as stack:
        for number in range(PEERS):
            wire = stack.enter_context(server.wire(SMALL))
            wire.send(handshake(f"/events/deciding/{key}/"))
            expected = "waiting " * (number + 1)
            wait_until(lambda: reported(server, key) == expected, expected)  # noqa: B023
        server.get(f"/flood-group/{key}/{2 * LIMIT // (size + 100)}/{size}/")
        stack.callback(server.get, f"/let-go/{key}/")


@pytest.mark.parametrize("size", [1, 10_000])
def test_backlog_of_a_view(server: Server, size: int) -> None:
    """Groups send while ``group_receive()`` takes its time."""
    name = uuid4().hex
    with bounded(server, "slow_client_closed") as stack:
        for _ in range(PEERS):
            stack.enter_context(server.upgraded(f"/events/watching/{name}/"))
        with server.connect(f"/events/watching/{name}/") as websocket:
            websocket.send("say hold")
            assert websocket.recv(timeout=TIMEOUT) == "received 'say hold'"
        server.get(f"/flood-group/{name}/{2 * LIMIT // (size + 100)}/{size}/")
