"""permessage-deflate: negotiation, and round trips of messages."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from django_wsmux.protocol.codec import Codec
from django_wsmux.protocol.deflate import Compression, Compressor, Deflate, negotiate
from django_wsmux.protocol.events import Closed, Control, Failure, Ping
from django_wsmux.protocol.frames import BINARY, TEXT
from django_wsmux.protocol.prepared import PreparedMessage
from tests.gauges import allocated
from tests.support import frame

OFFER = "permessage-deflate; client_max_window_bits"
FRESH = "server_no_context_takeover; client_no_context_takeover"
PLAIN = Compression()
KEEPING = Compression(context_takeover=True)


def agreed(offer: str = OFFER, compression: Compression = PLAIN) -> Deflate:
    """Return the result of an offer."""
    result = negotiate(offer, compression)
    assert result is not None
    return result[1]


def deflated(payload: bytes) -> bytes:
    """Compress as a client does."""
    stream = zlib.compressobj(wbits=-15)
    return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def codec(limit: int = 2**20, deflate: Deflate | None = None) -> Codec:
    """Return a codec with compression."""
    codec = Codec(limit)
    codec.deflate = deflate or agreed()
    return codec


def receive(data: bytes, codec: Codec) -> tuple[list[str | bytes], list[Control]]:
    """Return the result for these bytes, which must not depend on how they are cut."""
    messages: list[str | bytes] = []
    controls: list[Control] = []
    for byte in data:
        controls += codec.receive(bytes((byte,)), messages)
    return messages, controls


class TestNegotiation:
    """RFC 7692 section 7.1."""

    @pytest.mark.parametrize(
        ("offer", "compression", "answer"),
        [
            ("permessage-deflate", PLAIN, f"permessage-deflate; {FRESH}"),
            (OFFER, PLAIN, f"permessage-deflate; {FRESH}"),
            (f"x-other, {OFFER}", PLAIN, f"permessage-deflate; {FRESH}"),
            ("permessage-deflate", KEEPING, "permessage-deflate"),
            (OFFER, Compression(window_bits=10), f"permessage-deflate; {FRESH}; "
             "server_max_window_bits=10; client_max_window_bits=10"),
            ("permessage-deflate; server_max_window_bits=9", KEEPING,
             "permessage-deflate; server_max_window_bits=9"),
        ],
    )  # fmt: skip
    def test_answer(self, offer: str, compression: Compression, answer: str) -> None:
        """The answer accepts the first offer that fits."""
        result = negotiate(offer, compression)
        assert result is not None
        assert result[0] == answer

    @pytest.mark.parametrize(
        "offer",
        [
            None,
            "",
            "x-webkit-deflate-frame",
            "permessage-deflate; unknown",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=99",
            "permessage-deflate; ;;",
            "\x00",
        ],
    )
    def test_without(self, offer: str | None) -> None:
        """A bad or malformed offer is no error: the socket opens without compression."""
        assert negotiate(offer, PLAIN) is None

    def test_the_next_offer(self) -> None:
        """A client lists its offers in order of preference."""
        offer = "permessage-deflate; server_max_window_bits=8, permessage-deflate"
        assert agreed(offer).local_bits == 15


class TestReceiving:
    """RFC 7692 sections 6 and 7.2.2."""

    @pytest.mark.parametrize("first", [0xC1, 0xC2])
    def test_message(self, first: int) -> None:
        """RSV1 marks a compressed message."""
        data = frame(first, deflated(b"hello " * 100))
        expected: str | bytes = b"hello " * 100 if first == 0xC2 else "hello " * 100
        assert receive(data, codec()) == ([expected], [])

    def test_plain_among_them(self) -> None:
        """A message need not be compressed."""
        data = frame(0x81, b"plain") + frame(0xC1, deflated(b"not")) + frame(0x82, b"")
        assert receive(data, codec()) == (["plain", "not", b""], [])

    def test_fragments(self) -> None:
        """RSV1 is on the first fragment only; the message may be cut anywhere."""
        data = deflated("äöü".encode() * 50)
        stream = frame(0x41, data[:5]) + frame(0x00, b"") + frame(0x80, data[5:])
        assert receive(stream, codec()) == (["äöü" * 50], [])

    def test_a_large_frame(self) -> None:
        """Compressed text is not decoded as text while it arrives."""
        text = "".join(chr(0x4E00 + i % 20000) for i in range(200_000))
        data = frame(0xC1, deflated(text.encode()), b"\0\0\0\0")
        messages: list[str | bytes] = []
        subject = codec()
        assert subject.receive(data[:70_000], messages) == []
        rest = data[70_000:]
        while subject.large is not None and rest:
            with subject.get_buffer() as space:
                size = min(len(space), len(rest))
                space[:size] = rest[:size]
            subject.buffer_updated(size, messages)
            rest = rest[size:]
        assert messages == [text]

    @pytest.mark.parametrize(
        "data",
        [
            frame(0xC9, b""),
            frame(0x41, b"") + frame(0xC0, b""),
            frame(0xA1, b""),
            frame(0x91, b""),
            frame(0xF1, b""),
            frame(0xC1, b"\xff\xff\xff"),
        ],
    )
    def test_violations(self, data: bytes) -> None:
        """Other reserved bits, and data that does not inflate, fail with 1002."""
        assert [type(control) for control in receive(data, codec())[1]] == [Failure]

    def test_not_agreed_on(self) -> None:
        """Without an agreement RSV1 is an error."""
        _, controls = receive(frame(0xC1, deflated(b"x")), Codec(100))
        assert controls == [Failure(1002, "reserved bits set")]

    def test_bad_text(self) -> None:
        """The inflated bytes must be UTF-8."""
        _, controls = receive(frame(0xC1, deflated(b"\xff")), codec())
        assert controls == [Failure(1007, "invalid UTF-8")]

    def test_bomb(self) -> None:
        """Inflating stops at the limit, with any content of a small frame."""
        data = frame(0xC2, deflated(bytes(10**7)))
        assert len(data) < 11_000
        assert receive(data, codec(2**16))[1] == [Failure(1009, "inflates beyond 65536 bytes")]

    def test_bomb_in_fragments(self) -> None:
        """The sum of the fragments counts."""
        data = deflated(bytes(1000))
        stream = frame(0x42, data[:-1]) + frame(0x80, data[-1:])
        assert receive(stream, codec(1000))[0] == [bytes(1000)]
        assert receive(stream, codec(999))[1] == [Failure(1009, "inflates beyond 999 bytes")]

    def test_last_block(self) -> None:
        """A stream that ends (section 7.2.3.4) is a message; the next message starts a new one."""
        stream = zlib.compressobj(wbits=-15)
        data = stream.compress(b"end") + stream.flush(zlib.Z_FINISH) + b"\x00"
        for deflate in (agreed(), agreed(compression=KEEPING)):
            assert receive(frame(0xC1, data) * 2, codec(deflate=deflate)) == (["end"] * 2, [])

    def test_after_the_last_block(self) -> None:
        """Bytes behind the end of a stream are dropped: copying them each time would be slow."""
        stream = zlib.compressobj(wbits=-15)
        data = stream.compress(b"end") + stream.flush(zlib.Z_FINISH)
        subject, messages = codec(2**20), list[str | bytes]()
        subject.receive(frame(0x41, data), messages)
        rest = frame(0x00, bytes(2**16))

        def work() -> None:
            for _ in range(4):
                assert subject.receive(rest, messages) == []

        assert allocated(work) < 2**16
        subject.receive(frame(0x80, b"\x00"), messages)
        assert messages == ["end"]

    def test_context_takeover(self) -> None:
        """A message may refer to earlier ones, with plain messages between them."""
        client = zlib.compressobj(wbits=-15)
        stream = b""
        for number in range(3):
            part = client.compress(b"the same words again") + client.flush(zlib.Z_SYNC_FLUSH)
            stream += frame(0xC1, part[:-4]) + frame(0x81, b"%d" % number)
        messages, _ = receive(stream, codec(deflate=agreed(compression=KEEPING)))
        assert messages[::2] == ["the same words again"] * 3


class TestManyBombs:
    """Small frames, each of which inflates to the maximum."""

    LIMIT = 10_000
    BOMB = frame(0xC2, deflated(bytes(LIMIT)))

    def test_held(self) -> None:
        """Parsing stops once the size of one message is inflated, and continues when asked."""
        subject, messages = codec(self.LIMIT), list[str | bytes]()
        assert subject.receive(self.BOMB * 3 + frame(0x89, b"x"), messages) == []
        assert (len(messages), subject.is_suspended) == (1, True)
        assert subject.receive(b"", messages) == []
        assert (len(messages), subject.is_suspended) == (2, True)
        assert subject.receive(b"", messages) == []
        assert (len(messages), subject.is_suspended) == (3, True)
        assert subject.receive(b"", messages) == [Ping(b"x")]
        assert (len(messages), subject.is_suspended) == (3, False)

    def test_more_arrives(self) -> None:
        """Held bytes come first."""
        subject, messages = codec(self.LIMIT), list[str | bytes]()
        subject.receive(self.BOMB + frame(0x81, b"first"), messages)
        assert subject.is_suspended
        subject.receive(frame(0x81, b"second"), messages)
        assert messages == [bytes(self.LIMIT), "first", "second"]

    def test_at_the_end(self) -> None:
        """Nothing is held if nothing follows."""
        subject = codec(self.LIMIT)
        subject.receive(self.BOMB, [])
        assert not subject.is_suspended

    def test_failure_ends_it(self) -> None:
        """After a failure, nothing is left to parse."""
        subject = codec(self.LIMIT)
        subject.receive(self.BOMB + frame(0x83, b""), [])
        assert subject.is_suspended
        assert subject.receive(b"", []) == [Failure(1002, "reserved opcode")]
        assert not subject.is_suspended


class TestDiscarding:
    """A socket that closes only waits for a close frame."""

    def test_not_inflated(self) -> None:
        """Bombs are not inflated, and the close frame behind them is found at once."""
        subject, messages = codec(2000), list[str | bytes]()
        subject.is_discarding = True
        bomb = frame(0xC2, deflated(bytes(10**6)))
        assert subject.receive(bomb * 3 + frame(0x88, b""), messages) == [Closed(1005, "")]
        assert messages == []

    def test_in_fragments(self) -> None:
        """The current message ends, and the next one begins."""
        subject, messages = codec(), list[str | bytes]()
        subject.receive(frame(0x01, b"a"), messages)
        subject.is_discarding = True
        stream = frame(0x00, b"\xff") + frame(0x80, b"b") + frame(0x01, b"c") + frame(0x80, b"")
        assert subject.receive(stream + frame(0x89, b""), messages) == [Ping(b"")]
        assert messages == []


class TestSending:
    """RFC 7692 section 7.2.1, read by another implementation."""

    @pytest.mark.parametrize("payload", [b"", b"x", b"hello " * 1000, bytes(100_000)])
    def test_round_trip(self, payload: bytes) -> None:
        """A message survives the round trip."""
        data = Compressor(agreed()).frame(BINARY, payload)
        assert data[0] == 0xC2
        body = data[2 if data[1] < 126 else 4 :]
        reader = PerMessageDeflate(True, True, 15, 15)
        read = reader.decode(Frame(Opcode.BINARY, body, rsv1=True))
        assert bytes(read.data) == payload

    def test_compressed_once(self) -> None:
        """Members with the same parameters get the same bytes."""
        message = PreparedMessage(TEXT, b"to many " * 100)
        first, second = Compressor(agreed()), Compressor(agreed("permessage-deflate"))
        assert message.form(first) is message.form(second)
        assert message.form(first) != message.plain

    def test_context(self) -> None:
        """With context takeover each connection has its own, and a repeated message is shorter."""
        message = PreparedMessage(TEXT, b"to many " * 100)
        compressor = Compressor(agreed("permessage-deflate", KEEPING))
        first, second = message.form(compressor), message.form(compressor)
        assert len(second) < len(first)
        reader = zlib.decompressobj(wbits=-15)
        for data in (first, second):
            assert reader.decompress(data[2:] + b"\0\0\xff\xff") == message.payload


def nine_bits(payload: bytes) -> bytes:
    """Compress badly: with fixed codes (RFC 1951 section 3.2.6), nine bits per byte."""
    codes = {byte: f"{byte + 256:09b}" for byte in range(144, 256)}
    # One block with its end, and the header of the empty block that a flush adds.
    bits = "010" + "".join(codes[byte] for byte in payload) + "0000000" + "000"
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[start : start + 8][::-1], 2) for start in range(0, len(bits), 8))


class TestLimits:
    """The limit of messages applies after inflating, that of frames to the bytes on the wire."""

    SIZE = 2**14

    @pytest.mark.parametrize("deflate", [nine_bits, deflated])
    @pytest.mark.parametrize("parts", [1, 2, 100])
    def test_message_of_maximum_size(self, deflate: Callable[[bytes], bytes], parts: int) -> None:
        """A message of the maximum size passes even if larger compressed; one more byte fails."""
        payload = bytes(random.Random(1).choices(range(144, 256), k=self.SIZE))
        for message, outcome in ((payload, [payload]), (payload + b"\xff", [])):
            data = deflate(message)
            step = -(-len(data) // parts)
            pieces = [data[start : start + step] for start in range(0, len(data), step)]
            stream = frame(0x42 if parts > 1 else 0xC2, pieces[0])
            stream += b"".join(frame(0, piece) for piece in pieces[1:])
            messages, controls = receive(stream + frame(0x80, b"") * (parts > 1), codec(self.SIZE))
            assert messages == outcome
            assert [type(control) for control in controls] == [Failure] * (not outcome)
        assert len(nine_bits(payload)) > self.SIZE * 9 // 8

    def test_flushed_after_each_fragment(self) -> None:
        """Each flush adds some bytes."""
        stream = zlib.compressobj(0, wbits=-15)
        parts = [stream.compress(b"x") + stream.flush(zlib.Z_SYNC_FLUSH) for _ in range(1000)]
        data = frame(0x42, parts[0]) + b"".join(frame(0, part) for part in parts[1:])
        messages, controls = receive(data + frame(0x80, b""), codec(1000))
        assert (messages, controls) == ([b"x" * 1000], [])

    def test_too_large_before_it_inflates(self) -> None:
        """A message that is too large in any case fails at its header."""
        head = b"\xc2\xff" + (2**20).to_bytes(8, "big") + bytes(4)
        _, (failure,) = receive(head, codec(self.SIZE))
        assert failure == Failure(1009, f"{2**20} compressed bytes, limit {self.SIZE}")

    def test_frames(self) -> None:
        """The limit of frames counts the bytes on the wire."""
        data = deflated(random.Random(1).randbytes(90))
        subject = Codec(100, 90)
        subject.deflate = agreed()
        _, controls = receive(frame(0xC2, data), subject)
        assert controls == [Failure(1009, f"frame of {len(data)} bytes, limit 90")]
