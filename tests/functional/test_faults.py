"""Peers that are slow, hostile, or dead in mid-message."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.gauges import (
    MIB,
    descriptors,
    growth,
    open_sockets,
    unharmed,
    wait_until,
)
from tests.support import SERVERS, TIMEOUT, Server, Wire, frame, handshake

StartServer = Callable[..., Server]

COMPRESSION = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n"


class TestByteByByte:
    """A peer whose bytes come one at a time, and another that is served meanwhile."""

    @pytest.mark.parametrize(
        ("data", "answer"),
        [
            (frame(0x81, "grüße".encode()), (1, "grüße".encode())),
            (frame(0x82, b""), (2, b"")),
            (frame(0x82, b"x" * 200), (2, b"x" * 200)),
            (frame(0x01, b"\xc3") + frame(0x00, b"") + frame(0x80, b"\xbc"), (1, b"\xc3\xbc")),
            (frame(0x89, b"ping"), (10, b"ping")),
            (frame(0x88, b"\x03\xe8bye"), (8, b"\x03\xe8")),
            (frame(0x88, b""), (8, b"")),
        ],
    )
    def test_frames(self, gunicorn: Server, data: bytes, answer: tuple[int, bytes]) -> None:
        """Between any two bytes of one client, another one gets its echo."""
        with gunicorn.upgraded("/echo/") as slow, gunicorn.upgraded("/echo/") as other:
            for number, byte in enumerate(data):
                slow.send(bytes((byte,)))
                other.send(frame(0x81, b"%d" % number))
                assert other.frame() == (1, b"%d" % number)
            assert slow.frame() == answer

    def test_handshake(self, gunicorn: Server) -> None:
        """The handshake may come byte by byte too, and the first frame with its last byte."""
        with gunicorn.wire() as slow, gunicorn.upgraded("/echo/") as other:
            request = handshake("/echo/")
            for number, byte in enumerate(request[:-1]):
                slow.send(bytes((byte,)))
                other.send(frame(0x81, b"%d" % number))
                assert other.frame() == (1, b"%d" % number)
            slow.send(request[-1:] + frame(0x81, b"at last"))
            assert slow.head().startswith("HTTP/1.1 101 ")
            assert slow.frame() == (1, b"at last")

    def test_every_byte_is_a_sign_of_life(self, start_server: StartServer) -> None:
        """A message that takes longer than the keepalive's timeout is not cut off."""
        server = start_server("own", env={"TEST_PING_INTERVAL": "0.4", "TEST_PING_TIMEOUT": "0.4"})
        with server.upgraded("/echo/") as slow:
            slow.send(frame(0x82, b"x" * 2**17)[:-9])
            for byte in frame(0x82, b"x" * 2**17)[-9:]:
                # This test needs the clock.
                time.sleep(0.2)
                slow.send(bytes((byte,)))
            opcode, payload = slow.frame()
            while opcode == 9:
                opcode, payload = slow.frame()
            assert (opcode, payload) == (2, b"x" * 2**17)


class TestManyFragments:
    """Messages in absurdly many fragments (RFC 6455 section 5.4)."""

    @pytest.mark.parametrize("opcode", [1, 2])
    def test_of_one_byte(self, gunicorn: Server, opcode: int) -> None:
        """10,000 fragments of a byte are one message, and cost no more memory than it."""
        with growth(gunicorn) as gauges:
            with gunicorn.upgraded("/echo/") as wire:
                wire.send(frame(opcode, b"x") + frame(0x00, b"x") * 9998 + frame(0x80, b"y"))
                assert wire.frame() == (opcode, b"x" * 9999 + b"y")
            assert gauges.peak < 10 * MIB

    @pytest.mark.parametrize("opcode", [1, 2])
    def test_empty(self, gunicorn: Server, opcode: int) -> None:
        """Empty fragments cost nothing."""
        with growth(gunicorn) as gauges:
            with gunicorn.upgraded("/echo/") as wire:
                empty = frame(0x00, b"")
                wire.send(frame(opcode, b"a") + empty * 10_000 + frame(0x80, b"z"))
                assert wire.frame() == (opcode, b"az")
            assert gauges.peak < 10 * MIB

    def test_endless(self, gunicorn: Server) -> None:
        """WEBSOCKET_MAX_FRAGMENTS, 65,536 by default, ends an endless message with 1009."""
        with gunicorn.upgraded("/echo/") as wire:
            wire.sock.settimeout(5)
            wire.send(frame(0x01, b"") + frame(0x00, b"") * 65_000 + frame(0x89, b"still open"))
            assert wire.frame() == (10, b"still open")
            wire.send(frame(0x00, b"") * 1000)
            assert wire.closed()[0] == 1009


class TestClaimedLengths:
    """The length in a frame header does not reserve memory."""

    @pytest.mark.parametrize("opcode", [0x81, 0x02])
    @pytest.mark.parametrize(
        ("length", "code"),
        [(2**64 - 1, 1002), (2**63, 1002), (2**63 - 1, 1009), (2**40, 1009), (2**32, 1009)],
    )
    def test_absurd(self, gunicorn: Server, opcode: int, length: int, code: int) -> None:
        """An absurd length is refused at the header, with FIN or not, and reserves no memory."""
        with growth(gunicorn, kept=5 * MIB) as gauges:
            with gunicorn.upgraded("/echo/") as wire:
                wire.send(bytes((opcode, 0xFF)) + length.to_bytes(8, "big"))
                assert wire.closed()[0] == code
            assert gauges.peak < 5 * MIB

    def test_absurd_continuation(self, gunicorn: Server) -> None:
        """The same holds for a later fragment."""
        with gunicorn.upgraded("/echo/") as wire:
            wire.send(frame(0x01, b"x") + b"\x80\xff" + (2**63 - 1).to_bytes(8, "big"))
            assert wire.closed()[0] == 1009

    def test_just_allowed(self, start_server: StartServer) -> None:
        """Many claims of an allowed length without its bytes cost little memory."""
        server = start_server("own", env={"TEST_MAX_MESSAGE_SIZE": str(64 * MIB)})
        with growth(server) as gauges, ExitStack() as stack:
            for _ in range(50):
                wire = stack.enter_context(server.upgraded("/echo/"))
                wire.send(b"\x82\xff" + (64 * MIB).to_bytes(8, "big") + b"mask" + b"x")
                wire.send(b"x" * 1000)
            assert open_sockets(server) == 50
            assert gauges.peak < 30 * MIB


class TestSlowHandshakes:
    """Connections that begin a request and do not finish it."""

    def test_delay_no_other(self, gunicorn: Server) -> None:
        """With 100 of them, pages and sockets are served, and nothing is left afterwards."""
        with unharmed(gunicorn), ExitStack() as stack:
            (pid,) = gunicorn.workers
            for _ in range(100):
                wire = stack.enter_context(gunicorn.wire())
                wire.send(handshake("/echo/")[:60])
            wait_until(lambda: descriptors(pid) > 100, "100 connections")
            assert gunicorn.get("/").startswith("plain")
            with gunicorn.connect("/echo/") as websocket:
                websocket.send("x")
                assert websocket.recv(timeout=TIMEOUT) == "x"

    def test_are_timed_out(self, start_server: StartServer) -> None:
        """WEBSOCKET_HANDSHAKE_TIMEOUT: our worker answers 408 and closes; open sockets stay."""
        server = start_server("own", env={"TEST_HANDSHAKE_TIMEOUT": "2"})
        with unharmed(server), ExitStack() as stack:
            open_one = stack.enter_context(server.upgraded("/echo/"))
            started = time.monotonic()
            wires = [stack.enter_context(server.wire()) for _ in range(100)]
            for number, wire in enumerate(wires):
                wire.send(handshake("/echo/")[: number + 1])
            for wire in wires:
                assert wire.head().startswith("HTTP/1.1 408 ")
            assert time.monotonic() - started > 1.9
            open_one.send(frame(0x81, b"x"))
            assert open_one.frame() == (1, b"x")


def bomb(size: int, opcode: int = 0xC1) -> bytes:
    """Return a compressed frame that inflates to ``size`` letters, about 1000:1."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = stream.compress(b"a" * size) + stream.flush(zlib.Z_SYNC_FLUSH)
    return frame(opcode, data[:-4], b"\0\0\0\0")


@pytest.fixture(scope="module", params=SERVERS)
def compressing(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """A server with permessage-deflate and short intervals between pings."""
    env = {"TEST_COMPRESSION": "true", "TEST_PING_INTERVAL": "1"}
    return start_lasting_server(request.param, env=env)


class TestBombs:
    """Small frames that inflate to large messages (RFC 7692 section 8)."""

    @pytest.mark.parametrize("opcode", [0xC1, 0xC2])
    def test_one(self, compressing: Server, opcode: int) -> None:
        """A bomb of 50 MiB is closed with 1009 at the limit of 1 MiB."""
        data = bomb(50 * MIB, opcode)
        assert len(data) < 55_000
        with growth(compressing) as gauges:
            with compressing.upgraded("/echo/", COMPRESSION) as wire:
                wire.send(data)
                assert wire.closed() == (1009, "inflates beyond 1048576 bytes")
            assert gauges.peak < 16 * MIB

    def test_many(self, compressing: Server) -> None:
        """200 messages in a segment inflate to nearly the limit each, and no view receives them."""
        data = bomb(MIB - 1) * 200
        assert len(data) < 220_000
        with growth(compressing) as gauges, compressing.upgraded("/silent/", COMPRESSION) as wire:
            wire.send(data)
            # Its answers show that the hub has finished: it has parsed everything or paused.
            with compressing.connect("/echo/") as other:
                for _ in range(3):
                    other.send("x")
                    assert other.recv(timeout=TIMEOUT) == "x"
            wait_until(lambda: open_sockets(compressing) == 1, "the other socket is closed")
            # WEBSOCKET_MAX_UNREAD_MESSAGES is 64.
            assert gauges.peak < 100 * MIB
            wire.reset()


class TestFloods:
    """A peer that sends tiny frames faster than the server can answer."""

    @pytest.mark.parametrize(
        ("first", "unit", "last"),
        [
            (b"", frame(0x81, b"x"), frame(0x81, b"end")),
            (b"", frame(0x89, b""), frame(0x89, b"end")),
            (frame(0x01, b""), frame(0x00, b"x"), frame(0x80, b"end")),
        ],
        ids=["messages", "pings", "fragments"],
    )
    def test_delay_no_other(self, gunicorn: Server, first: bytes, unit: bytes, last: bytes) -> None:
        """At most 4,000 frames are handled before another client has its turn.

        With threads, the interpreter decides, and switches every 5 ms at best.
        """
        most = 15_000 if gunicorn.has_threads else 4_000
        # Less than WEBSOCKET_MAX_FRAGMENTS.
        count = 60_000
        with gunicorn.upgraded("/echo/") as flooder, gunicorn.upgraded("/echo/") as other:
            is_over = threading.Event()
            reader = threading.Thread(target=read_to_end, args=(flooder, is_over), daemon=True)
            reader.start()
            flooder.send(first + unit * count + last)
            turns = 0
            while not is_over.is_set():
                other.send(frame(0x81, b"x"))
                assert other.frame() == (1, b"x")
                turns += 1
            reader.join()
            assert turns >= count / most


def read_to_end(wire: Wire, is_over: threading.Event) -> None:
    """Read until the answer to the last frame, in large pieces: the server is the slow one."""
    tail = b""
    while tail != b"end":
        tail = (tail + wire.sock.recv(2**20))[-3:]
    is_over.set()
