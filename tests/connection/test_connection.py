"""The closing handshake while other things are under way."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import SHUT_WR
from uuid import uuid4

import pytest

from tests.gauges import reported, settled, unharmed
from tests.support import SERVERS, TIMEOUT, Server, Wire, frame

StartServer = Callable[..., Server]

#: The receive buffer of slow peers; Linux doubles it.
SMALL = 4096

#: A close frame of the client: 4002 "theirs".
THEIRS = frame(0x88, (4002).to_bytes(2, "big") + b"theirs")


def wait_for_bytes(wire: Wire) -> None:
    """Wait until bytes have arrived, without reading them."""
    assert select.select([wire.sock], [], [], TIMEOUT)[0]


class TestSimultaneous:
    """Both sides send a close frame before they read the other's (RFC 6455 section 7.1.5)."""

    def test_on_the_wire(self, gunicorn: Server) -> None:
        """The view sees its own code, the peer receives it, and TCP ends without a reset."""
        key = uuid4().hex
        with gunicorn.upgraded(f"/leaving/{key}/") as wire:
            wire.send(frame(0x81, b"go"))
            wait_for_bytes(wire)
            wire.send(THEIRS)
            assert wire.closed() == (4001, "ours")
        assert reported(gunicorn, key) == "4001 ours []"

    def test_in_one_segment(self, gunicorn: Server) -> None:
        """The message that makes the view close arrives together with the peer's close frame."""
        key = uuid4().hex
        with gunicorn.upgraded(f"/leaving/{key}/") as wire:
            wire.send(frame(0x81, b"go") + THEIRS)
            assert wire.closed() == (4001, "ours")
        assert reported(gunicorn, key) == "4001 ours []"


class TestNoAnswer:
    """A peer that does not answer the server's close frame."""

    def test_the_view_goes_on_at_once(self, gunicorn: Server) -> None:
        """The view continues without waiting; late messages are dropped, then TCP is closed."""
        key = uuid4().hex
        with gunicorn.upgraded(f"/leaving/{key}/") as wire:
            started = time.monotonic()
            wire.send(frame(0x81, b"go"))
            assert wire.frame() == (8, b"\x0f\xa1ours")
            assert reported(gunicorn, key) == "4001 ours []"
            wire.send(frame(0x81, b"late") + frame(0x89, b"still there?"))
            # Section 5.5.2: a ping is answered until the peer has closed.
            assert wire.frame() == (10, b"still there?")
            assert wire.read(1) == b""
            # WEBSOCKET_CLOSE_TIMEOUT is 1 s here.
            assert time.monotonic() - started > 0.9

    def test_reset_instead(self, gunicorn: Server) -> None:
        """A peer that resets after the server's close frame leaves nothing behind."""
        with unharmed(gunicorn):
            key = uuid4().hex
            with gunicorn.upgraded(f"/leaving/{key}/") as wire:
                wire.send(frame(0x81, b"go"))
                wire.frame()
                wire.reset()
            assert reported(gunicorn, key) == "4001 ours []"


class TestAfterTheClose:
    """Section 1.4: bytes after a close frame are discarded."""

    @pytest.mark.parametrize(
        "more",
        [frame(0x81, b"x"), frame(0x89, b"x"), frame(0x88, b"\x03\xe8"), b"\xff" * 100],
        ids=["text", "ping", "close", "rubbish"],
    )
    def test_in_the_same_segment(self, gunicorn: Server, more: bytes) -> None:
        """One close frame is the answer, and the view sees nothing else."""
        key = uuid4().hex
        with gunicorn.upgraded(f"/report/{key}/") as wire:
            wire.send(frame(0x81, b"before") + THEIRS + more)
            assert wire.frame() == (8, b"\x0f\xa2")
            assert wire.read(1) == b""
        assert reported(gunicorn, key) == "4002 theirs ['before']"


@contextmanager
def overfull(server: Server, code: int) -> Iterator[tuple[Wire, str]]:
    """Open a socket whose view has filled its queue, and then closed if a code is given."""
    key = uuid4().hex
    with server.upgraded(f"/overfull/{key}/{code}/", receive_buffer=SMALL) as wire:
        reported(server, f"{key}-full")
        yield wire, key


def read_all(wire: Wire, answer: bytes = b"") -> tuple[int, int]:
    """Read numbered messages up to the close frame, answer it and read to the end of the stream.

    Returns:
        The number of messages, and the code.
    """
    count = 0
    while True:
        opcode, payload = wire.frame()
        if opcode == 8:
            if answer:
                wire.send(answer)
            assert wire.read(1) == b""
            return count, int.from_bytes(payload[:2], "big")
        assert payload == count.to_bytes(4, "big") * 4096
        count += 1


@pytest.fixture(scope="module", params=SERVERS)
def patient(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """A server that waits longer than any test for peers to read what is queued for them."""
    env = {"TEST_CLOSE_TIMEOUT": "600", "TEST_PING_INTERVAL": "0"}
    return start_lasting_server(request.param, env=env)


class TestFullQueue:
    """A close while the peer does not read, and much is queued for it."""

    def test_peer_never_reads(self, gunicorn: Server) -> None:
        """The descriptor is closed after WEBSOCKET_CLOSE_TIMEOUT; the view continues at once."""
        settled(gunicorn)
        with overfull(gunicorn, 4001) as (_wire, key):
            assert reported(gunicorn, key) == "4001 full []"
            settled(gunicorn)

    def test_peer_reads_in_time(self, patient: Server) -> None:
        """A peer that reads in time gets every message whole and in order, then the close frame."""
        with overfull(patient, 4001) as (wire, key):
            sent = int(reported(patient, f"{key}-full"))
            count, code = read_all(wire, frame(0x88, (4001).to_bytes(2, "big")))
            assert code == 4001
            # The send that had to wait was interrupted; what it had queued is still sent.
            assert count in (sent - 1, sent)
        settled(patient)

    def test_peer_closes_and_reads(self, patient: Server) -> None:
        """The same holds when the peer closes, which shuts its side down at once."""
        with overfull(patient, 0) as (wire, key):
            wire.send(THEIRS)
            wire.sock.shutdown(socket.SHUT_WR)
            assert reported(patient, key) == "4002 theirs []"
            count, code = read_all(wire)
            assert code == 4002
            assert count >= int(reported(patient, f"{key}-full")) - 1
        settled(patient)

    def test_peer_goes_on_after_its_close(self, patient: Server) -> None:
        """Bytes after its close frame are discarded while the answer waits behind messages."""
        with overfull(patient, 0) as (wire, key):
            wire.send(THEIRS)
            assert reported(patient, key) == "4002 theirs []"
            wire.send(frame(0x81, b"x") + b"\xff" * 100)
            assert read_all(wire)[1] == 4002
        settled(patient)

    def test_peer_breaks_a_rule_and_reads(self, patient: Server) -> None:
        """A protocol error does not discard what was sent before it."""
        with overfull(patient, 0) as (wire, key):
            wire.send(b"\x81\x02hi" + b"\0" * 100_000)
            assert reported(patient, key) == "1002 frame not masked []"
            # The server waits for an answer to its close frame, or for the end of the stream.
            wire.sock.shutdown(SHUT_WR)
            assert read_all(wire)[1] == 1002
        settled(patient)

    def test_simultaneous(self, patient: Server) -> None:
        """Both have closed, and the server's frame is behind its messages: all of it arrives."""
        with overfull(patient, 4001) as (wire, key):
            wire.send(THEIRS)
            assert reported(patient, key) == "4001 full []"
            assert read_all(wire)[1] == 4001
        settled(patient)


class TestHalfClosed:
    """A peer that shuts its sending side down and continues to read."""

    @pytest.mark.parametrize(
        "data",
        [
            frame(0x81, b"hello")[:3],
            frame(0x81, b"hello")[:-1],
            frame(0x82, b"hello" * 100)[:-1],
            frame(0x01, b"hello"),
            b"\x82\xff" + (2**19).to_bytes(8, "big") + b"mask" + bytes(2**18),
        ],
        ids=["in the header", "in text", "in binary", "between fragments", "in a large frame"],
    )
    def test_mid_message(self, gunicorn: Server, data: bytes) -> None:
        """In mid-message, the view sees 1006 and nothing of the incomplete message."""
        key = uuid4().hex
        with gunicorn.upgraded(f"/report/{key}/") as wire:
            wire.send(frame(0x81, b"whole") + data)
            wire.sock.shutdown(socket.SHUT_WR)
            assert wire.read(1) == b""
        assert reported(gunicorn, key) == "1006  ['whole']"

    def test_after_a_message(self, gunicorn: Server) -> None:
        """After a message, the message is delivered and its answer arrives."""
        with gunicorn.upgraded("/echo/") as wire:
            wire.send(frame(0x81, b"question"))
            wire.sock.shutdown(socket.SHUT_WR)
            assert wire.frame() == (1, b"question")
            assert wire.read(1) == b""
        settled(gunicorn)

    def test_after_its_close_frame(self, gunicorn: Server) -> None:
        """After its close frame, both see a clean close."""
        key = uuid4().hex
        with gunicorn.upgraded(f"/report/{key}/") as wire:
            wire.send(frame(0x81, b"one") + THEIRS)
            wire.sock.shutdown(socket.SHUT_WR)
            assert wire.frame() == (8, b"\x0f\xa2")
            assert wire.read(1) == b""
        assert reported(gunicorn, key) == "4002 theirs ['one']"

    def test_after_the_servers_close_frame(self, gunicorn: Server) -> None:
        """After the server's close frame, a FIN instead of a close frame ends the wait."""
        key = uuid4().hex
        settled(gunicorn)
        with gunicorn.upgraded(f"/leaving/{key}/") as wire:
            wire.send(frame(0x81, b"go"))
            assert wire.frame() == (8, b"\x0f\xa1ours")
            wire.sock.shutdown(socket.SHUT_WR)
            assert wire.read(1) == b""
        assert reported(gunicorn, key) == "4001 ours []"
        assert json.loads(gunicorn.get("/report/none/"))["open"] == 0


class TestUnread:
    """A peer that leaves while the server has stopped reading, as its view does not receive."""

    @pytest.mark.parametrize(
        ("end", "how"),
        [(THEIRS, "4002 theirs"), (b"", "1006 "), (b"\x81\x02hi", "1002 frame not masked")],
    )
    def test_end_of_the_stream(self, gunicorn: Server, end: bytes, how: str) -> None:
        """Once the view receives again, it gets every message, then the close."""
        key = uuid4().hex
        with gunicorn.upgraded(f"/late/{key}/0/") as wire:
            # More than fits into one read.
            message = frame(0x82, b"x" * 1000, b"\0\0\0\0")
            wire.send(message * 1000 + end)
            wire.sock.shutdown(socket.SHUT_WR)
            assert reported(gunicorn, key) == f"{how} 1000"
        settled(gunicorn)

    def test_reset(self, gunicorn: Server) -> None:
        """The system discards what it had not handed over; the rest arrives, then 1006."""
        key = uuid4().hex
        with gunicorn.upgraded(f"/late/{key}/0/") as wire:
            wire.send(frame(0x82, b"x" * 1000, b"\0\0\0\0") * 1000)
            reported(gunicorn, f"{key}-paused")
            wire.reset()
        code, count = reported(gunicorn, key).split()
        assert code == "1006"
        assert 64 <= int(count) < 1000

    def test_view_closes(self, patient: Server) -> None:
        """The server reads on for the peer's answer, and drops messages before it."""
        key = uuid4().hex
        with patient.upgraded(f"/late/{key}/4001/") as wire:
            wire.send(frame(0x82, b"x" * 1000, b"\0\0\0\0") * 1000)
            assert wire.frame() == (8, b"\x0f\xa1late")
            wire.send(frame(0x88, b"\x0f\xa1"))
            # Not after WEBSOCKET_CLOSE_TIMEOUT: the test would not wait that long.
            assert wire.read(1) == b""
        code, reason, count = reported(patient, key).split()
        assert (code, reason) == ("4001", "late")
        assert 64 <= int(count) < 1000
