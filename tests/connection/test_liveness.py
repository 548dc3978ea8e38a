"""Pings, and peers that vanish without a close frame."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from uuid import uuid4

import pytest

from tests.functional.test_conversation import reported
from tests.support import SERVERS, TIMEOUT, Server, frame

StartServer = Callable[..., Server]

IMPATIENT = {"TEST_PING_INTERVAL": "0.5", "TEST_PING_TIMEOUT": "0.5"}


@pytest.mark.parametrize("worker", SERVERS)
def test_silence_ends(start_server: StartServer, worker: str) -> None:
    """A silent peer is dropped after interval and timeout; the view sees 1006."""
    server = start_server(worker, env=IMPATIENT)
    key = uuid4().hex
    started = time.monotonic()
    with server.upgraded(f"/report/{key}/") as wire:
        assert wire.frame()[0] == 9
        assert wire.read(1) == b""
        assert time.monotonic() - started > 0.9
    assert reported(server, key) == "1006 ping timeout []"
    server.wait_for_log(r"is dropped: no sign of life 0.5 s after a ping")


def test_signs_of_life(start_server: StartServer) -> None:
    """Pongs keep a peer beyond the limit, and so do messages, even if they wait unread.

    The limit is long enough for a busy machine. ``connection/test_keepalive.py`` tests it without a
    clock.
    """
    server = start_server("own", env={"TEST_PING_INTERVAL": "2", "TEST_PING_TIMEOUT": "5"})
    signs = {
        "/events/echo/": frame(0x81, b"x"),
        "/silent/": frame(0x81, b"x") * 100,
    }
    with ExitStack() as stack:
        wires = {path: stack.enter_context(server.upgraded(path)) for path in ("/echo/", *signs)}
        for _ in range(4):
            for path, wire in wires.items():
                opcode, payload = wire.frame()
                assert opcode == 9
                wire.send(signs.get(path) or frame(0x8A, payload))
                if path == "/events/echo/":
                    assert wire.frame() == (1, b"x")
        wires["/echo/"].send(frame(0x81, b"still here"))
        while (answer := wires["/echo/"].frame())[0] == 9:
            pass
        assert answer == (1, b"still here")


def test_latency_is_of_answers(start_server: StartServer) -> None:
    """An unsolicited pong does not affect the latency."""
    server = start_server("own", env={"TEST_PING_INTERVAL": "0.5", "TEST_PING_TIMEOUT": "60"})
    with server.upgraded("/latency/") as wire:
        opcode, payload = wire.frame()
        assert opcode == 9
        wire.send(frame(0x8A, b"") + frame(0x81, b"latency?"))
        assert wire.frame() == (1, b"null")
        wire.send(frame(0x8A, payload) + frame(0x81, b"latency?"))
        opcode, latency = wire.frame()
        assert opcode == 1
        assert float(latency) > 0


@pytest.mark.parametrize("worker", ["own", "runserver"])
def test_a_log_that_raises(start_server: StartServer, worker: str) -> None:
    """An error while one peer is dropped affects no other peer, present or later."""
    server = start_server(worker, env=IMPATIENT)
    server.get("/break-logging/")
    for _ in range(2):
        with server.upgraded("/silent/") as one, server.upgraded("/silent/") as two:
            for wire in (one, two):
                assert wire.frame()[0] == 9
            for wire in (one, two):
                assert wire.rest() == b""
    with server.upgraded("/echo/") as wire:
        # Closed for breaking a rule, which is logged too.
        wire.send(frame(0xF1, b"x"))
        assert wire.frame() == (8, b"\x03\xeareserved bits set")


def test_off(start_server: StartServer) -> None:
    """An interval of 0 sends no pings."""
    server = start_server("own", env={"TEST_PING_INTERVAL": "0"})
    with server.connect("/ping-me/") as websocket:
        assert websocket.recv(timeout=TIMEOUT)
