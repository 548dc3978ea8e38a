"""Peers that die: killed processes, and resets in every state of a connection."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.gauges import open_sockets, reported, unharmed
from tests.support import ROOT, SERVERS, TIMES, Server, Wire, frame, handshake

StartServer = Callable[..., Server]

#: Opens a socket and holds it until it is killed; takes a path, and bytes to send behind the 101.
VICTIM = """
import socket, sys
from tests.support import Wire, frame, handshake
port, key = int(sys.argv[1]), sys.argv[2]
wires = []
for path, data in [
    (f"/report/{key}-idle/", b""),
    (f"/report/{key}-frame/", frame(0x82, b"x" * 1000)[:500]),
    (f"/report/{key}-large/", frame(0x82, b"x" * 300_000)[:200_000]),
    (f"/report/{key}-message/", frame(0x01, b"x" * 1000)),
    ("/burst/64/1048576/", b""),
    ("/flood/", frame(0x82, b"x" * 1000)[:500]),
]:
    wire = Wire(port, 4096)
    wires.append(wire)
    wire.send(handshake(path))
    assert wire.head().startswith("HTTP/1.1 101 ")
    wire.send(data)
print("ready", flush=True)
sys.stdin.read()
"""


def test_killed_client(gunicorn: Server) -> None:
    """kill -9 with data in flight both ways: every view sees 1006, no socket stays."""
    with unharmed(gunicorn):
        key = uuid4().hex
        client = subprocess.Popen(
            [sys.executable, "-c", VICTIM, str(gunicorn.port), key],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"ready\n"
            assert open_sockets(gunicorn) == 6
            client.kill()
        for name in ("idle", "frame", "large", "message"):
            assert reported(gunicorn, f"{key}-{name}") == "1006  []"


def silence(wire: Wire) -> None:
    """Do nothing."""


def half_request(wire: Wire) -> None:
    """Send the beginning of a handshake."""
    wire.send(handshake("/echo/")[:60])


def request(wire: Wire) -> None:
    """Send a handshake without waiting for the answer."""
    wire.send(handshake("/echo/"))


def request_and_message(wire: Wire) -> None:
    """Send a handshake and, too early, a message."""
    wire.send(handshake("/echo/") + frame(0x81, b"hello"))


def undecorated(wire: Wire) -> None:
    """Ask for a view that accepts by its first use of the socket."""
    wire.send(handshake("/plain-echo/"))


def opened(wire: Wire, path: str = "/echo/") -> None:
    """Open a socket."""
    wire.send(handshake(path))
    assert wire.head().startswith("HTTP/1.1 101 ")


def mid_frame(wire: Wire) -> None:
    """Stop within a frame."""
    opened(wire)
    wire.send(frame(0x82, b"x" * 1000)[:500])


def mid_large_frame(wire: Wire) -> None:
    """Stop within a frame that has a buffer of its own."""
    opened(wire)
    wire.send(b"\x82\xff" + (2**19).to_bytes(8, "big") + b"mask" + bytes(2**17))


def mid_message(wire: Wire) -> None:
    """Stop between two fragments."""
    opened(wire)
    wire.send(frame(0x01, b"x" * 1000))


def while_sent_to(wire: Wire) -> None:
    """Do not wait for the 4 MiB that the view sends."""
    opened(wire, "/burst/4/1048576/")


def after_its_close(wire: Wire) -> None:
    """Send a close frame without waiting for the answer."""
    opened(wire)
    wire.send(frame(0x88, b"\x03\xe8"))


def after_the_servers_close(wire: Wire) -> None:
    """Read a close frame without answering it."""
    opened(wire, "/closing/4000/x/")
    assert wire.frame() == (8, b"\x0f\xa0x")


def after_a_violation(wire: Wire) -> None:
    """Break a rule."""
    opened(wire)
    wire.send(b"\x81\x02hi")


@pytest.fixture(scope="module", params=SERVERS)
def pinging(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """A server that pings every second."""
    return start_lasting_server(request.param, env={"TEST_PING_INTERVAL": "1"})


class TestResets:
    """A reset in every state."""

    @pytest.mark.parametrize(
        "reach",
        [
            silence,
            half_request,
            request,
            request_and_message,
            undecorated,
            opened,
            mid_frame,
            mid_large_frame,
            mid_message,
            while_sent_to,
            after_its_close,
            after_the_servers_close,
            after_a_violation,
        ],
    )
    def test_storm(self, gunicorn: Server, reach: Callable[[Wire], None]) -> None:
        """50 connections are reset in the same state; the worker is unharmed."""
        with unharmed(gunicorn):
            for _ in range(50 * TIMES):
                with gunicorn.wire() as wire:
                    reach(wire)
                    wire.reset()

    def test_unread(self, pinging: Server) -> None:
        """If the server has stopped reading, the next ping finds the reset."""
        with unharmed(pinging):
            for _ in range(50 * TIMES):
                with pinging.wire() as wire:
                    opened(wire, "/silent/")
                    wire.send(frame(0x81, b"x") * 100)
                    wire.reset()
