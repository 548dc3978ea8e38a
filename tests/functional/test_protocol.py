"""Frames on the wire: the server's answer to any input."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.support import Server, frame


class TestFrames:
    """RFC 6455 sections 5.4 and 5.5."""

    def test_fragments(self, server: Server) -> None:
        """Fragments with a ping between them are one message."""
        with server.upgraded("/echo/") as wire:
            wire.send(frame(0x01, b"a") + frame(0x00, b"b") + frame(0x89, b"?"))
            assert wire.frame() == (10, b"?")
            wire.send(frame(0x80, b"c"))
            assert wire.frame() == (1, b"abc")

    @pytest.mark.parametrize("payload", [b"", b"hello", b"\0" * 125])
    def test_ping(self, server: Server, payload: bytes) -> None:
        """A ping is answered with its payload, also an empty one."""
        with server.upgraded("/echo/") as wire:
            wire.send(frame(0x89, payload))
            assert wire.frame() == (10, payload)

    def test_ping_without_a_receiver(self, server: Server) -> None:
        """The hub answers a ping while no view waits."""
        with server.upgraded("/silent/") as wire:
            wire.send(frame(0x89, b"x"))
            assert wire.frame() == (10, b"x")

    def test_unasked_pong(self, server: Server) -> None:
        """An unsolicited pong is ignored."""
        with server.upgraded("/echo/") as wire:
            wire.send(frame(0x8A, b"x") + frame(0x81, b"next"))
            assert wire.frame() == (1, b"next")


class TestClose:
    """RFC 6455 section 7."""

    @pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
    def test_echoes_the_code(self, server: Server, code: int) -> None:
        """The close frame comes back and TCP is closed."""
        with server.upgraded("/echo/") as wire:
            wire.send(frame(0x88, code.to_bytes(2, "big") + b"bye"))
            assert wire.closed()[0] == code

    def test_empty(self, server: Server) -> None:
        """A close frame without a body is answered with one."""
        with server.upgraded("/echo/") as wire:
            wire.send(frame(0x88, b""))
            assert wire.frame() == (8, b"")
            assert wire.read(1) == b""

    def test_messages_before_it_are_answered(self, server: Server) -> None:
        """A close right behind a message does not overtake it."""
        with server.upgraded("/silent/") as wire:
            wire.send(frame(0x81, b"x") + frame(0x88, b"\x03\xe8"))
            assert wire.closed() == (1000, "")

    def test_peer_never_answers(self, server: Server) -> None:
        """The descriptor is closed after WEBSOCKET_CLOSE_TIMEOUT."""
        with server.upgraded("/closing/4000/x/") as wire:
            assert wire.closed(hangs_up=False) == (4000, "x")

    def test_half_closed(self, server: Server) -> None:
        """A peer that only stops sending still gets the close frame that answers its own."""
        with server.upgraded("/echo/") as wire:
            wire.send(frame(0x88, b"\x03\xe8"))
            wire.sock.shutdown(socket.SHUT_WR)
            assert wire.closed() == (1000, "")

    def test_reset(self, server: Server) -> None:
        """A reset affects no other socket."""
        with server.upgraded("/echo/") as other:
            with server.upgraded("/echo/") as wire:
                linger = struct.pack("ii", 1, 0)
                wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            other.send(frame(0x81, b"fine"))
            assert other.frame() == (1, b"fine")


class TestViolations:
    """RFC 6455 section 7.1.7: the right code, and no exception."""

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (b"\x81\x02hi", 1002),
            (frame(0x83, b"x"), 1002),
            (frame(0xC1, b"x"), 1002),
            (frame(0x80, b"x"), 1002),
            (frame(0x09, b"x"), 1002),
            (frame(0x89, b"x" * 126), 1002),
            (frame(0x88, b"x"), 1002),
            (frame(0x88, b"\x03\xed"), 1002),
            (frame(0x01, b"x") + frame(0x81, b"y"), 1002),
            (b"\x82\xff" + b"\xff" * 8, 1002),
            (frame(0x81, b"\xff"), 1007),
            (frame(0x81, b"\xed\xa0\x80"), 1007),
            (frame(0x01, b"\xc3") + frame(0x80, b"("), 1007),
            (frame(0x88, b"\x03\xe8\xff"), 1007),
        ],
    )
    def test_invalid_input(self, server: Server, data: bytes, code: int) -> None:
        """The connection fails with the code of the error."""
        with server.upgraded("/echo/") as wire:
            wire.send(data)
            assert wire.closed()[0] == code

    def test_too_big(self, server: Server) -> None:
        """The close with 1009 comes at the header, before any byte of the payload."""
        with server.upgraded("/echo/") as wire:
            wire.send(b"\x82\xff" + (2**20 + 1).to_bytes(8, "big") + b"mask")
            assert wire.closed() == (1009, "1048577 bytes, limit 1048576")

    def test_too_big_in_fragments(self, server: Server) -> None:
        """The sum of the fragments counts."""
        with server.upgraded("/echo/") as wire:
            wire.send(frame(0x02, b"x" * 2**20))
            wire.send(frame(0x80, b"x"))
            assert wire.closed()[0] == 1009

    def test_close_frame_survives_unread_bytes(self, server: Server) -> None:
        """The server reads on, so that no reset overtakes the close frame."""
        with server.upgraded("/echo/") as wire:
            wire.send(b"\x81\x02hi" + b"x" * 300_000)
            assert wire.closed()[0] == 1002

    def test_log_is_quiet(self, server: Server) -> None:
        """No input of a peer raises an exception."""
        assert "Bug in django_wsmux" not in server.log


class TestBackPressure:
    """A peer that does not read, and a view that does not receive."""

    def test_send_waits(self, server: Server) -> None:
        """A view that sends 16 MiB waits for its reader, and all of it arrives."""
        with server.upgraded("/flood/") as wire:
            frames = [wire.frame() for _ in range(256)]
            assert {(opcode, len(payload)) for opcode, payload in frames} == {(2, 65536)}
            assert wire.frame()[0] == 8

    def test_reading_stops(self, server: Server) -> None:
        """TCP pushes back on a peer whose messages no view receives."""
        with server.upgraded("/silent/") as wire:
            wire.sock.settimeout(0.5)
            message = frame(0x82, b"x" * 100_000, b"\0\0\0\0")
            with pytest.raises(TimeoutError):
                wire.send(message * 1000)
