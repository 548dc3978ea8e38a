"""Peers that live, and peers that vanished without a word."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.integration.test_conversation import reported
from tests.support import SERVERS, TIMEOUT, Server, frame

StartServer = Callable[..., Server]

pytestmark = pytest.mark.alone

ENV = {"TEST_PING_INTERVAL": "0.5", "TEST_PING_TIMEOUT": "0.5"}


@pytest.mark.parametrize("worker", SERVERS)
def test_silence_ends(start_server: StartServer, worker: str) -> None:
    """A peer that answers nothing is gone within interval and timeout; the view learns 1006."""
    server = start_server(worker, env=ENV)
    key = uuid4().hex
    with server.upgraded(f"/report/{key}/") as wire:
        started = time.monotonic()
        assert wire.frame()[0] == 9
        assert wire.read(1) == b""
        assert 0.9 < time.monotonic() - started < 3
    assert reported(server, key) == "1006 ping timeout []"
    server.wait_for_log(r"is dropped: no sign of life 0.5 s after a ping")


def test_pongs_keep_alive(start_server: StartServer) -> None:
    """Who answers stays, and is asked again."""
    server = start_server("own", env=ENV)
    with server.upgraded("/echo/") as wire:
        for _ in range(4):
            opcode, payload = wire.frame()
            assert opcode == 9
            wire.send(frame(0x8A, payload))
        wire.send(frame(0x81, b"still here"))
        assert wire.frame() == (1, b"still here")


def test_latency_is_of_answers(start_server: StartServer) -> None:
    """A pong that was not asked for says nothing of the time that one takes."""
    server = start_server("own", env=ENV)
    with server.upgraded("/latency/") as wire:
        opcode, payload = wire.frame()
        assert opcode == 9
        wire.send(frame(0x8A, b"") + frame(0x81, b"latency?"))
        assert wire.frame() == (1, b"null")
        wire.send(frame(0x8A, payload) + frame(0x81, b"latency?"))
        opcode, latency = wire.frame()
        assert opcode == 1
        assert float(latency) > 0


def test_any_sign_of_life_counts(start_server: StartServer) -> None:
    """Messages do as well as pongs."""
    server = start_server("own", env=ENV)
    with server.upgraded("/echo/") as wire:
        for _ in range(4):
            assert wire.frame()[0] == 9
            wire.send(frame(0x81, b"x"))
            assert wire.frame() == (1, b"x")


def test_a_view_that_does_not_receive(start_server: StartServer) -> None:
    """Nobody is given up because his messages wait unread."""
    server = start_server("own", env=ENV)
    with server.upgraded("/silent/") as wire:
        for _ in range(100):
            wire.send(frame(0x81, b"x"))
        assert [wire.frame()[0] for _ in range(3)] == [9] * 3


@pytest.mark.parametrize("worker", ["own", "runserver"])
def test_a_log_that_raises(start_server: StartServer, worker: str) -> None:
    """An error while one peer is given up is not felt by others, nor by those that come later."""
    server = start_server(worker, env=ENV)
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
