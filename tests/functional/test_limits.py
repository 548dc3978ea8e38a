"""Each limit on the wire: what the peer sees, what is counted, and that others are served."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import uuid4

import pytest

from tests.functional.test_conversation import reported
from tests.support import TIMEOUT, Server, frame

StartServer = Callable[..., Server]

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def limited(environment: dict[str, str]) -> Iterator[Server]:
    """A server with low limits."""
    limits = {
        "WEBSOCKET_MAX_FRAME_SIZE": 1000,
        "WEBSOCKET_MAX_MESSAGE_SIZE": 3000,
        "WEBSOCKET_MAX_FRAGMENTS": 10,
        "WEBSOCKET_MAX_UNREAD_BYTES": 2000,
        "WEBSOCKET_MAX_UNSENT_BYTES": 100_000,
        "WEBSOCKET_SEND_TIMEOUT": 0.5,
        "WEBSOCKET_HANDSHAKE_TIMEOUT": 0.5,
    }
    server = Server.gunicorn(
        "own", "--keep-alive", "60", env={**environment, "TEST_SETTINGS": json.dumps(limits)}
    )
    yield server
    server.stop()


def counted(server: Server, name: str, host: str | None = None) -> int:
    """Return one of the server's counters; ``host`` is the Host header."""
    return int(json.loads(server.get("/metrics/", {"Host": host} if host else None))[name])


def wait_for_count(server: Server, name: str, least: int = 1) -> None:
    """Wait until the counter reaches a value."""
    deadline = time.monotonic() + TIMEOUT
    while counted(server, name) < least:
        assert time.monotonic() < deadline, f"{name} is {counted(server, name)}"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("stream", "reason", "counter"),
    [
        (frame(0x82, b"x" * 1001), "frame of 1001 bytes, limit 1000", "frame_too_big"),
        (
            frame(0x02, b"x" * 1000) + frame(0x00, b"x" * 1000) * 2 + frame(0x80, b"x"),
            "3001 bytes, limit 3000",
            "message_too_big",
        ),
        (frame(0x01, b"") + frame(0x00, b"") * 10, "more than 10 fragments", "too_many_fragments"),
    ],
)
def test_size(limited: Server, stream: bytes, reason: str, counter: str) -> None:
    """The close is 1009 and names the limit, and the counter increases."""
    before = counted(limited, counter)
    with limited.upgraded("/echo/") as wire:
        wire.send(stream)
        assert wire.closed() == (1009, reason)
    assert counted(limited, counter) == before + 1
    limited.wait_for_log(rf"<WebSocket '/echo/' open> is closed with 1009: {reason}")


def test_within(limited: Server) -> None:
    """Messages that reach each limit, but do not exceed it, are served."""
    with limited.upgraded("/echo/") as wire:
        wire.send(frame(0x02, b"x" * 1000) + frame(0x00, b"") * 6)
        wire.send(frame(0x00, b"x" * 1000) * 2 + frame(0x80, b""))
        assert wire.frame() == (2, b"x" * 3000)


def test_protocol_error(limited: Server) -> None:
    """Protocol errors are counted as well."""
    before = counted(limited, "protocol_error")
    with limited.upgraded("/echo/") as wire:
        wire.send(b"\x81\x01x")
        assert wire.closed()[0] == 1002
    assert counted(limited, "protocol_error") == before + 1


def test_unread_bytes(limited: Server) -> None:
    """The server stops reading for a slow view, which gets everything once it receives."""
    key = uuid4().hex
    before = counted(limited, "reading_paused")
    with limited.upgraded(f"/late-echo/{key}/") as wire:
        wire.send(b"".join(frame(0x82, b"%d" % number * 900) for number in range(3)))
        wait_for_count(limited, "reading_paused", before + 1)
        wire.send(b"".join(frame(0x82, b"%d" % number * 900) for number in range(3, 10)))
        assert json.loads(limited.get("/unread/")) == [[900, 900, 900]]
        limited.get(f"/let-go/{key}/")
        assert [wire.frame()[1][:1] for _ in range(10)] == [b"%d" % n for n in range(10)]


def test_send_timeout(limited: Server) -> None:
    """A peer that takes nothing is dropped, and the view that sends to it gets an exception."""
    key = uuid4().hex
    waited = counted(limited, "send_waited")
    with limited.upgraded(f"/flood-report/{key}/") as wire:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert reported(limited, key) == "ConnectionClosed 1006 send timeout"
    assert counted(limited, "send_timed_out") == 1
    assert counted(limited, "send_waited") > waited
    limited.wait_for_log(r"is dropped: took nothing for 0.5 s")


def test_slow_is_not_stalled(limited: Server) -> None:
    """A peer that takes a little now and then is not dropped."""
    with limited.upgraded("/flood/") as wire:
        for _ in range(256):
            opcode, payload = wire.frame()
            assert (opcode, len(payload)) == (2, 65536)
            time.sleep(0.005)
        assert wire.frame()[0] == 8


@pytest.mark.parametrize("kind", ["own", "runserver"])
def test_drop_by_drop(start_server: StartServer, kind: str) -> None:
    """Peers that read a little now and then delay others no longer than the timeout."""
    settings = {
        "WEBSOCKET_HANDLER_GREENLETS": 5,
        "WEBSOCKET_MAX_UNSENT_BYTES": 100_000,
        "WEBSOCKET_SEND_TIMEOUT": 3,
        "WEBSOCKET_PING_INTERVAL": 0,
    }
    server = start_server(kind, env={"TEST_SETTINGS": json.dumps(settings)})
    with ExitStack() as stack:
        peers = [stack.enter_context(server.upgraded("/events/flooding/")) for _ in range(5)]
        innocent = stack.enter_context(server.connect("/events/echo/"))
        is_over = threading.Event()

        def drip() -> None:
            # Enough for the kernel to take a little more within the timeout, again and again.
            while not is_over.wait(0.05):
                for peer in peers:
                    peer.arrived(100_000)

        stack.enter_context(ThreadPoolExecutor(1)).submit(drip)
        stack.callback(is_over.set)
        for peer in peers:
            peer.send(frame(0x81, b"50000000"))
        wait_for_count(server, "send_waited", 5)
        innocent.send("served")
        assert innocent.recv(timeout=TIMEOUT) == "served"
        wait_for_count(server, "send_timed_out", 5)
    server.wait_for_log(r"is dropped: took \d+ bytes in 3 s, \d+ are left")


def test_handshake_timeout(limited: Server) -> None:
    """A slow request gets 408, long before gunicorn's keepalive ends; others are served."""
    with limited.wire() as wire:
        wire.send(b"GET /echo/ HTTP/1.1\r\nHost: x\r\n")
        with limited.connect("/echo/") as websocket:
            websocket.send("served")
            assert websocket.recv(timeout=TIMEOUT) == "served"
        assert wire.head().startswith("HTTP/1.1 408 Request Timeout\r\n")
        assert wire.read(1) == b""
    assert counted(limited, "handshake_timed_out") == 1


def test_handshake_in_time(limited: Server) -> None:
    """The limit applies to the handshake only: the socket stays, and so does a plain connection."""
    with limited.upgraded("/echo/") as socket, limited.wire() as plain:
        plain.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert plain.head().startswith("HTTP/1.1 200 OK")
        time.sleep(0.8)  # longer than the limit
        socket.send(frame(0x81, b"still here"))
        assert socket.frame() == (1, b"still here")
        plain.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in plain.read(200)


def test_close_timeout(limited: Server) -> None:
    """A peer that does not answer the close is dropped, and counted."""
    before = counted(limited, "close_timed_out")
    with limited.upgraded("/closing/4000/x/") as wire:
        assert wire.closed(hangs_up=False) == (4000, "x")
    assert counted(limited, "close_timed_out") == before + 1


def test_slow_member(limited: Server) -> None:
    """A member that does not read is closed with 1013, behind the messages sent before."""
    with limited.upgraded("/group/") as stalled, limited.connect("/group/") as member:
        member.send("flood")
        assert member.recv(timeout=TIMEOUT) == "flooded"
        assert counted(limited, "slow_client_closed") == 1
        frames = 0
        while (answer := stalled.frame())[0] != 8:
            assert answer == (2, bytes(2**16))
            frames += 1
        assert answer[1] == (1013).to_bytes(2, "big") + b"too slow"
        assert 0 < frames < 400
        member.send("count")
        assert member.recv(timeout=TIMEOUT) == "1"
    limited.wait_for_log(r"<WebSocket '/group/' open> is closed with 1013: \d+ bytes unsent")


def test_slow_by_its_own_view(limited: Server) -> None:
    """A member that cannot take a group's message is closed: nothing is lost silently."""
    before = counted(limited, "slow_client_closed")
    with limited.upgraded("/overflowing/") as stalled, limited.connect("/group/") as member:
        stalled.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert stalled.frame() == (1, b"ready")
        member.send("to all")
        assert member.recv(timeout=TIMEOUT) == "to all"
        assert counted(limited, "slow_client_closed") == before + 1
    assert counted(limited, "slow_client_dropped") == 0


def test_drop_for_slow_member(start_server: StartServer) -> None:
    """With the policy "drop", a slow member misses what does not fit, and stays."""
    settings = {"WEBSOCKET_MAX_UNSENT_BYTES": 100_000, "WEBSOCKET_SLOW_CLIENT": "drop"}
    server = start_server("own", env={"TEST_SETTINGS": json.dumps(settings)})
    with server.upgraded("/group/") as stalled, server.connect("/group/") as member:
        member.send("flood")
        assert member.recv(timeout=TIMEOUT) == "flooded"
        dropped = counted(server, "slow_client_dropped")
        assert 0 < dropped < 400
        assert counted(server, "slow_client_closed") == 0
        assert [stalled.frame() for _ in range(400 - dropped)] == [(2, bytes(2**16))] * (
            400 - dropped
        )
        member.send("still here")
        assert stalled.frame() == (1, b"still here")
