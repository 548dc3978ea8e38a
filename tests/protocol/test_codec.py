"""Bytes to messages: a class for each section of RFC 6455, then one for each way of reading."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from itertools import cycle

import pytest

from django_wsmux.protocol.codec import LARGE, Codec
from django_wsmux.protocol.events import Closed, Control, Failure, Ping, Pong
from django_wsmux.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

pytestmark = pytest.mark.usefixtures("unmasking")

Message = str | bytes

LIMIT = 300  # low, so that random streams reach it
MASK = b"\x37\xfa\x21\x3d"  # of the examples in section 5.7


def header(opcode: int, length: int, *, fin: bool = True) -> bytes:
    """Return the header of a client's frame, up to the masking key."""
    first = 0x80 * fin | opcode
    if length < 126:
        return bytes((first, 0x80 | length))
    if length < 65536:
        return bytes((first, 0xFE)) + length.to_bytes(2, "big")
    return bytes((first, 0xFF)) + length.to_bytes(8, "big")


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bytes = MASK) -> bytes:
    """Return a client's frame."""
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return header(opcode, len(payload), fin=fin) + mask + masked


def receive(*pieces: bytes, limit: int = LIMIT) -> tuple[list[Message], list[Control]]:
    """Return the messages and control frames that a new codec finds in these pieces."""
    codec, messages = Codec(limit), list[Message]()
    controls = [control for piece in pieces for control in codec.receive(piece, messages)]
    assert {type(message) for message in messages} <= {str, bytes}
    assert receive_fast(*pieces, limit=limit) == (messages, controls)
    return messages, controls


def receive_fast(*pieces: bytes, limit: int) -> tuple[list[Message], list[Control]]:
    """Return the same as a connection reads it, which tries ``whole()`` first."""
    codec, messages, controls = Codec(limit), list[Message](), list[Control]()
    for piece in pieces:
        message = codec.decode_single_frame(piece, len(piece))
        if message is None:
            controls += codec.receive(piece, messages)
        else:
            messages.append(message)
    return messages, controls


def receive_as_read(
    stream: bytes, sizes: Iterable[int], limit: int = LIMIT
) -> tuple[list[Message], list[Control]]:
    """Return the same as ``receive()``, read as a server does, with a maximum of bytes at a time.

    A large frame is read into a buffer of its own, everything else into a buffer that is reused.
    """
    codec, messages, controls = Codec(limit), list[Message](), list[Control]()
    buffer, source = bytearray(max(sizes := list(sizes))), BytesIO(stream)
    for most in cycle(sizes):
        if codec.large is None:
            size = source.readinto(memoryview(buffer)[:most])
            controls += codec.receive(buffer, messages, size)
        else:
            with codec.get_buffer() as space:
                size = source.readinto(space[:most])
            controls += codec.buffer_updated(size, messages)
        if not size:
            break
    return messages, controls


def assert_messages(stream: bytes, *expected: Message, limit: int = LIMIT) -> None:
    """Assert that a stream is these messages and nothing else."""
    assert receive(stream, limit=limit) == (list(expected), [])


def assert_controls(stream: bytes, *expected: Control) -> None:
    """Assert that a stream is these control frames and nothing else."""
    assert receive(stream) == ([], list(expected))


def assert_fails(stream: bytes, code: int, *after: Message, limit: int = LIMIT) -> None:
    """Assert that a stream, whole and byte by byte, fails with a code after these messages."""
    for pieces in [stream], [bytes((byte,)) for byte in stream]:
        messages, controls = receive(*pieces, limit=limit)
        assert messages == list(after)
        (failure,) = controls
        assert isinstance(failure, Failure)
        assert failure.code == code


class TestMasking:
    """Section 5.1: a client masks; a server closes the connection if it does not."""

    def test_example(self) -> None:
        """The masked example of section 5.7 is unmasked."""
        assert_messages(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", "Hello")

    @pytest.mark.parametrize("first", [0x81, 0x82, 0x01, 0x02, 0x88, 0x89, 0x8A])
    def test_not_masked(self, first: int) -> None:
        """A frame of any kind fails without a mask."""
        assert_fails(bytes((first, 5)) + b"Hello", 1002)

    def test_zero_mask(self) -> None:
        """A masking key of zeros is a masking key."""
        assert_messages(b"\x81\x82\0\0\0\0hi", "hi")

    @pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 4095, 4096, 4097])
    def test_any_length(self, length: int) -> None:
        """The key repeats over a payload of any length."""
        payload = b"abcdefg" * (length // 7) + b"abcdefg"[: length % 7]
        assert_messages(frame(BINARY, payload), payload, limit=length)


class TestWhole:
    """A message in a single frame, the usual case."""

    @pytest.mark.parametrize("length", [0, 1, 125, 126, 4095, 4096, 65535, 65536])
    def test_message(self, length: int) -> None:
        """A whole frame is a message at once, of either kind."""
        codec = Codec(65536)
        for opcode, message in (TEXT, "x" * length), (BINARY, b"x" * length):
            data = frame(opcode, b"x" * length)
            assert codec.decode_single_frame(data, len(data)) == message
            # Like the buffer that a server reads into, with old bytes behind.
            assert codec.decode_single_frame(bytearray(data + b"before"), len(data)) == message

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            frame(BINARY, b"x")[:-1],
            frame(BINARY, b"x") + b"\x82",
            frame(BINARY, b"x" * 1025),
            frame(BINARY, b"x" * 65536),
            frame(BINARY, b"x", fin=False),
            frame(PING, b"x"),
            frame(TEXT, b"\xff"),
            b"\x82\xfe\x00\x7d" + MASK + b"x" * 125,
            b"\x82\xff" + (125).to_bytes(8, "big") + MASK + b"x" * 125,
            b"\x82\xff" + bytes(5),
            b"\x82\x01" + MASK + b"x",
            b"\xc2\x81" + MASK + b"x",
        ],
    )
    def test_anything_else(self, data: bytes) -> None:
        """Fewer or more bytes, a message too large or wrong: all of these are left to receive()."""
        assert Codec(1024).decode_single_frame(data, len(data)) is None

    @pytest.mark.parametrize(
        "data", [b"\x82", frame(TEXT, fin=False), frame(TEXT, b"x" * 9)[:-1], frame(8)]
    )
    def test_not_between(self, data: bytes) -> None:
        """After half a frame, half a message or the end, a frame is not a whole message."""
        codec, messages, whole = Codec(1024), list[Message](), frame(BINARY, b"x")
        codec.receive(data, messages)
        assert codec.decode_single_frame(whole, len(whole)) is None
        assert messages == []


class TestFraming:
    """Section 5.2: the base framing protocol."""

    def test_text(self) -> None:
        """A text frame is a str."""
        assert_messages(frame(TEXT, b"Hello"), "Hello")

    def test_binary(self) -> None:
        """A binary frame is bytes."""
        assert_messages(frame(BINARY, b"\xff\x00"), b"\xff\x00")

    def test_empty(self) -> None:
        """An empty message is a message of its own type."""
        assert_messages(frame(TEXT) + frame(BINARY), "", b"")

    def test_several_at_once(self) -> None:
        """All frames of one call are delivered, in order."""
        assert_messages(frame(TEXT, b"a") + frame(BINARY, b"b") + frame(TEXT, b"c"), "a", b"b", "c")

    def test_nothing(self) -> None:
        """No bytes are no message, in mid-frame too."""
        data = frame(TEXT, b"Hello")
        assert receive(b"", data[:7], b"", data[7:], b"") == (["Hello"], [])

    def test_delivered_when_complete(self) -> None:
        """A message is delivered with its last byte, not with the next frame."""
        codec, messages = Codec(LIMIT), list[Message]()
        data = frame(TEXT, b"Hello")
        assert codec.receive(data[:-1], messages) == []
        assert messages == []
        codec.receive(data[-1:] + frame(TEXT, b"next")[:3], messages)
        assert messages == ["Hello"]

    def test_first_byte(self) -> None:
        """Seven of the 256 first bytes may open a stream."""
        for first in {*range(256)} - {0x01, 0x02, 0x81, 0x82, 0x88, 0x89, 0x8A}:
            assert_fails(bytes((first, 0x80)), 1002)

    @pytest.mark.parametrize("bit", [0x40, 0x20, 0x10])
    @pytest.mark.parametrize("first", [0x81, 0x01, 0x80, 0x89])
    def test_reserved_bits(self, first: int, bit: int) -> None:
        """No extension is negotiated, so no reserved bit may be set."""
        assert_fails(bytes((first | bit, 0x80)), 1002)

    @pytest.mark.parametrize("opcode", [*range(0x3, 0x8), *range(0xB, 0x10)])
    @pytest.mark.parametrize("fin", [True, False])
    def test_reserved_opcodes(self, opcode: int, fin: bool) -> None:
        """An opcode that the RFC does not define fails."""
        assert_fails(header(opcode, 0, fin=fin), 1002)

    @pytest.mark.parametrize("length", [125, 126, 127, 65535, 65536])
    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    def test_lengths(self, opcode: int, length: int) -> None:
        """A payload survives in each of the three forms of its length."""
        payload = b"x" * length
        expected = payload.decode() if opcode == TEXT else payload
        assert_messages(frame(opcode, payload), expected, limit=length)

    @pytest.mark.parametrize("length", [126, 65536])
    @pytest.mark.parametrize("cut", [1, 2, 3, 9, 10, 13, 14, 15, 100, -1])
    def test_cut(self, length: int, cut: int) -> None:
        """A frame may be cut in its header, its key and its payload."""
        data, payload = frame(BINARY, b"x" * length), b"x" * length
        assert receive(data[:cut], data[cut:], limit=length) == ([payload], [])

    @pytest.mark.parametrize("length", [0, 125])
    def test_longer_form_of_16_bits(self, length: int) -> None:
        """A length that fits into 7 bits must not use 16."""
        assert_fails(b"\x82\xfe" + length.to_bytes(2, "big"), 1002)

    @pytest.mark.parametrize("length", [0, 125, 126, 65535])
    def test_longer_form_of_64_bits(self, length: int) -> None:
        """A length that fits into 7 or 16 bits must not use 64."""
        assert_fails(b"\x82\xff" + length.to_bytes(8, "big"), 1002, limit=65535)

    @pytest.mark.parametrize("limit", [LIMIT, 2**64])
    def test_highest_bit(self, limit: int) -> None:
        """The highest bit of a 64-bit length must be 0, with any limit."""
        assert_fails(b"\x82\xff\x80\0\0\0\0\1\0\0", 1002, limit=limit)


class TestFragmentation:
    """Section 5.4: a message in several frames, with control frames between them."""

    def test_text(self) -> None:
        """The fragments of a text are one str."""
        first, second = frame(TEXT, b"Hel", fin=False), frame(CONTINUATION, b"l", fin=False)
        assert_messages(first + second + frame(CONTINUATION, b"o"), "Hello")

    def test_binary(self) -> None:
        """The fragments of a binary message are one bytes."""
        assert_messages(frame(BINARY, b"\xff", fin=False) + frame(CONTINUATION, b"\0"), b"\xff\0")

    @pytest.mark.parametrize(("opcode", "expected"), [(TEXT, ""), (BINARY, b"")])
    def test_empty(self, opcode: int, expected: Message) -> None:
        """Empty fragments are an empty message."""
        assert_messages(frame(opcode, fin=False) + frame(CONTINUATION), expected)

    def test_unfinished(self) -> None:
        """Nothing is delivered before the last fragment."""
        assert_messages(frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", fin=False))

    def test_one_after_another(self) -> None:
        """A fragmented message may follow another, or a whole one."""
        text = frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b")
        binary = frame(BINARY, b"c", fin=False) + frame(CONTINUATION, b"\xff")
        assert_messages(text + binary + frame(TEXT, b"d") + text, "ab", b"c\xff", "d", "ab")

    def test_control_frames_between(self) -> None:
        """Control frames between fragments are handled and change nothing."""
        ping, pong = frame(PING, b"1"), frame(PONG, b"2")
        start, end = frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"b")
        assert receive(start + ping + pong + end) == (["ab"], [Ping(b"1"), Pong(b"2")])

    def test_control_frame_at_once(self) -> None:
        """A ping does not wait for the end of the message around it."""
        assert_controls(frame(TEXT, b"a", fin=False) + frame(PING, b"1"), Ping(b"1"))

    def test_close_between(self) -> None:
        """The peer may close in the middle of its message, which is then lost."""
        assert_controls(frame(TEXT, b"a", fin=False) + frame(CLOSE), Closed(1005, ""))

    @pytest.mark.parametrize("fin", [True, False])
    def test_continuation_first(self, fin: bool) -> None:
        """A message does not start with a continuation."""
        assert_fails(frame(CONTINUATION, b"a", fin=fin), 1002)

    def test_continuation_after_the_end(self) -> None:
        """A message that has ended is not continued."""
        stream = frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b")
        assert_fails(stream + frame(CONTINUATION, b"c"), 1002, "ab")

    def test_continuation_after_a_whole_message(self) -> None:
        """A message that was whole is not continued."""
        assert_fails(frame(TEXT, b"a") + frame(CONTINUATION, b"b"), 1002, "a")

    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    @pytest.mark.parametrize("fin", [True, False])
    def test_interleaved(self, opcode: int, fin: bool) -> None:
        """Another message does not start before this one has ended."""
        assert_fails(frame(TEXT, b"a", fin=False) + frame(opcode, b"b", fin=fin), 1002)


class TestControlFrames:
    """Section 5.5: close, ping and pong."""

    def test_ping(self) -> None:
        """A ping is reported with its payload, for the pong."""
        assert_controls(frame(PING, b"\xff\0") + frame(PING), Ping(b"\xff\0"), Ping(b""))

    def test_pong(self) -> None:
        """A pong is reported, solicited or not."""
        assert_controls(b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", Pong(b"Hello"))

    def test_among_messages(self) -> None:
        """Control frames keep their order, and so do messages."""
        stream = frame(PING, b"1") + frame(TEXT, b"a") + frame(PING, b"2") + frame(TEXT, b"b")
        assert receive(stream) == (["a", "b"], [Ping(b"1"), Ping(b"2")])

    def test_longest(self) -> None:
        """A payload of 125 bytes is allowed."""
        assert_controls(frame(PING, b"x" * 125), Ping(b"x" * 125))

    @pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
    @pytest.mark.parametrize("length", [126, 65536])
    def test_too_long(self, opcode: int, length: int) -> None:
        """A longer one fails with the first two bytes of its header."""
        assert_fails(header(opcode, length)[:2], 1002, limit=2**20)

    @pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
    def test_fragmented(self, opcode: int) -> None:
        """A control frame without FIN fails."""
        assert_fails(frame(opcode, fin=False), 1002)


class TestClose:
    """Section 5.5.1: the close frame."""

    def test_empty(self) -> None:
        """Section 7.1.5: a close frame without a body has code 1005."""
        assert_controls(frame(CLOSE), Closed(1005, ""))

    def test_code(self) -> None:
        """A code needs no reason."""
        assert_controls(frame(CLOSE, b"\x03\xe8"), Closed(1000, ""))

    def test_reason(self) -> None:
        """A reason is UTF-8."""
        assert_controls(frame(CLOSE, b"\x0f\xa0adi\xc3\xb3s"), Closed(4000, "adiós"))

    def test_longest_reason(self) -> None:
        """A reason of 123 bytes fits."""
        assert_controls(frame(CLOSE, b"\x03\xe8" + b"x" * 123), Closed(1000, "x" * 123))

    def test_one_byte(self) -> None:
        """Half a code fails."""
        assert_fails(frame(CLOSE, b"\x03"), 1002)

    def test_reason_not_utf_8(self) -> None:
        """Section 8.1: a reason that is not UTF-8 fails as text does."""
        assert_fails(frame(CLOSE, b"\x03\xe8\xff"), 1007)

    @pytest.mark.parametrize("rest", [frame(TEXT, b"a"), frame(PING), frame(CLOSE), b"\xff\xff"])
    def test_last(self, rest: bytes) -> None:
        """Section 1.4: bytes that follow are discarded, in the same call and in later ones."""
        assert receive(frame(CLOSE) + rest, rest) == ([], [Closed(1005, "")])

    def test_after_messages(self) -> None:
        """Messages before the close frame are delivered."""
        assert receive(frame(TEXT, b"a") + frame(CLOSE)) == (["a"], [Closed(1005, "")])


class TestCloseCodes:
    """Section 7.4: the codes that a close frame may carry."""

    @pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1014, 3000, 4999])
    def test_valid(self, code: int) -> None:
        """A valid code is reported."""
        assert_controls(frame(CLOSE, code.to_bytes(2, "big")), Closed(code, ""))

    @pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
    def test_invalid(self, code: int) -> None:
        """An invalid code fails."""
        assert_fails(frame(CLOSE, code.to_bytes(2, "big")), 1002)


class TestFailure:
    """Section 7.1.7: how a connection fails."""

    def test_messages_before(self) -> None:
        """Messages that were complete before the failure are delivered."""
        assert_fails(frame(TEXT, b"a") + b"\x81\0", 1002, "a")

    def test_control_frames_before(self) -> None:
        """The failure comes after the control frames of the same call."""
        messages, controls = receive(frame(PING) + b"\x81\0")
        assert messages == []
        assert [type(control) for control in controls] == [Ping, Failure]

    @pytest.mark.parametrize("bad", [b"\x81\0", frame(TEXT, b"\xff"), header(TEXT, LIMIT + 1)])
    def test_last(self, bad: bytes) -> None:
        """Bytes that follow are discarded, in the same call and in later ones."""
        good = frame(TEXT, b"a") + frame(PING) + frame(CLOSE)
        messages, controls = receive(bad + good, bad, good)
        assert messages == []
        assert len(controls) == 1

    def test_at_the_second_byte(self) -> None:
        """An error in the first two bytes of a frame is reported before the rest arrives."""
        codec, messages = Codec(LIMIT), list[Message]()
        assert codec.receive(b"\xf1", messages) == []
        assert len(codec.receive(b"\x80", messages)) == 1


class TestText:
    """Section 8.1: text is UTF-8."""

    @pytest.mark.parametrize(
        "text", ["é", "€", "😀", "\0", "\x7f", "\uffff", "\U0010ffff", "\ufeff"]
    )
    def test_valid(self, text: str) -> None:
        """Every character survives, noncharacters too."""
        assert_messages(frame(TEXT, text.encode()), text)

    @pytest.mark.parametrize(
        "payload",
        [
            b"\xff",  # no such byte
            b"\x80",  # second byte without a first
            b"\xe2\x82",  # truncated
            b"\xc0\xaf",  # not in its shortest form
            b"\xed\xa0\x80",  # lone surrogate
            b"\xed\xa0\xbd\xed\xb8\x80",  # pair of surrogates
            b"\xf4\x90\x80\x80",  # above U+10FFFF
        ],
    )
    def test_invalid(self, payload: bytes) -> None:
        """Invalid UTF-8 fails, whole or in fragments cut anywhere."""
        assert_fails(frame(TEXT, b"ok " + payload), 1007)
        for cut in range(len(payload) + 1):
            start = frame(TEXT, payload[:cut], fin=False)
            assert_fails(start + frame(CONTINUATION, payload[cut:]), 1007)

    @pytest.mark.parametrize("payload", [b"\xff", b"\xc0", b"\xf4\x90", b"\xed\xa0\x80"])
    def test_invalid_before_the_end(self, payload: bytes) -> None:
        """A fragment that cannot become UTF-8 fails before the message ends."""
        assert_fails(frame(TEXT, b"ok", fin=False) + frame(CONTINUATION, payload, fin=False), 1007)
        assert_fails(frame(TEXT, payload, fin=False), 1007)

    def test_character_over_fragments(self) -> None:
        """A character may be cut by fragments, and by a ping between them."""
        frames = [frame(TEXT, b"\xf0", fin=False), frame(CONTINUATION, b"\x9f\x98", fin=False)]
        stream = frames[0] + frame(PING) + frames[1] + frame(CONTINUATION, b"\x80")
        assert receive(stream) == (["😀"], [Ping(b"")])

    def test_character_not_over_messages(self) -> None:
        """A character that one message truncates is not completed by the next."""
        assert_fails(frame(TEXT, b"\xc3") + frame(TEXT, b"\xa9"), 1007)

    def test_binary(self) -> None:
        """Binary data is not checked, whole or in fragments."""
        stream = frame(BINARY, b"\xff", fin=False) + frame(CONTINUATION, b"\xed\xa0\x80")
        assert_messages(stream + frame(BINARY, b"\xff"), b"\xff\xed\xa0\x80", b"\xff")


class TestLimit:
    """Section 10.4: a limit on the size of a message."""

    @pytest.mark.parametrize("limit", [10, 125, 126, 65535, 65536])
    def test_whole(self, limit: int) -> None:
        """A message of exactly the limit passes; one more byte fails."""
        assert_messages(frame(BINARY, b"x" * limit), b"x" * limit, limit=limit)
        assert_fails(frame(BINARY, b"x" * (limit + 1)), 1009, limit=limit)

    @pytest.mark.parametrize("length", [11, 126, 65536, 2**63 - 1])
    @pytest.mark.parametrize("fin", [True, False])
    def test_at_the_header(self, length: int, fin: bool) -> None:
        """A larger one fails with the last byte of its length."""
        assert_fails(header(BINARY, length, fin=fin), 1009, limit=10)

    def test_sum_of_fragments(self) -> None:
        """Fragments that add up to exactly the limit pass."""
        start, middle = frame(TEXT, b"12345", fin=False), frame(CONTINUATION, b"6789", fin=False)
        assert_messages(start + middle + frame(CONTINUATION, b"0"), "1234567890", limit=10)

    @pytest.mark.parametrize("fin", [True, False])
    def test_sum_at_the_header(self, fin: bool) -> None:
        """The fragment that exceeds the limit fails with the last byte of its length."""
        start = frame(TEXT, b"12345", fin=False) + frame(CONTINUATION, b"6789", fin=False)
        assert_fails(start + header(CONTINUATION, 2, fin=fin), 1009, limit=10)

    def test_sum_of_each_message(self) -> None:
        """The sum starts again with the next message."""
        message = frame(TEXT, b"12345", fin=False) + frame(CONTINUATION, b"67890")
        assert_messages(message * 2, "1234567890", "1234567890", limit=10)

    def test_control_frames_do_not_count(self) -> None:
        """Control frames between fragments do not count."""
        start, end = frame(BINARY, b"x" * LIMIT, fin=False), frame(CONTINUATION)
        ping, close = frame(PING, b"x" * 125), frame(CLOSE, b"\x03\xe8")
        assert receive(start + ping + end) == ([b"x" * LIMIT], [Ping(b"x" * 125)])
        assert_controls(start + close, Closed(1000, ""))

    def test_bytes_not_characters(self) -> None:
        """Text is measured in bytes."""
        assert_messages(frame(TEXT, "é".encode() * 5), "ééééé", limit=10)
        assert_fails(frame(TEXT, "é".encode() * 6), 1009, limit=10)


class TestOtherLimits:
    """Limits on parts of a message; each failure names its counter."""

    def failure(self, stream: bytes, codec: Codec) -> tuple[int, str]:
        """Return code and counter of the failure of a stream."""
        (failure,) = codec.receive(stream, [])
        assert isinstance(failure, Failure)
        return failure.code, failure.counter

    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    @pytest.mark.parametrize("fin", [True, False])
    def test_frame(self, opcode: int, fin: bool) -> None:
        """A frame that is too large fails at its header, before its message does."""
        assert self.failure(header(opcode, 11, fin=fin), Codec(LIMIT, 10)) == (
            1009,
            "frame_too_big",
        )

    def test_frame_of_the_size(self) -> None:
        """Frames of exactly the limit make a larger message."""
        codec, messages = Codec(LIMIT, 10), list[Message]()
        assert not codec.receive(frame(BINARY, b"x" * 10), messages)
        assert not codec.receive(frame(TEXT, b"y" * 10, fin=False), messages)
        assert not codec.receive(frame(CONTINUATION, b"y" * 10), messages)
        assert messages == [b"x" * 10, "y" * 20]

    def test_frame_larger_than_a_message(self) -> None:
        """The limit of messages applies, with any limit of frames."""
        assert self.failure(header(BINARY, LIMIT + 1), Codec(LIMIT, LIMIT * 2)) == (
            1009,
            "message_too_big",
        )

    def test_message(self) -> None:
        """Fragments that add up to too much count as a message that is too large."""
        stream = frame(BINARY, b"x" * 10, fin=False) + header(CONTINUATION, 10)
        assert self.failure(stream, Codec(19, 10)) == (1009, "message_too_big")

    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    def test_fragments(self, opcode: int) -> None:
        """The limit passes; the header of one more fragment fails, even if fragments are empty."""
        start, middle = frame(opcode, fin=False), frame(CONTINUATION, fin=False)
        codec, messages = Codec(LIMIT, max_fragments=4), list[Message]()
        assert not codec.receive((start + middle * 2 + frame(CONTINUATION)) * 2, messages)
        assert len(messages) == 2
        assert self.failure(start + middle * 3 + header(CONTINUATION, 0), codec) == (
            1009,
            "too_many_fragments",
        )

    def test_fragments_in_pieces(self) -> None:
        """A text frame that arrives in pieces is one fragment."""
        stream = frame(TEXT, b"x" * 100, fin=False) + frame(CONTINUATION, b"y" * 100)
        codec, messages = Codec(LIMIT, max_fragments=2), list[Message]()
        for byte in stream:
            assert not codec.receive(bytes((byte,)), messages)
        assert messages == ["x" * 100 + "y" * 100]

    def test_protocol_error_has_no_counter(self) -> None:
        """A protocol error has no counter of a limit."""
        assert self.failure(frame(0x3), Codec(LIMIT)) == (1002, "")


class TestHolding:
    """If a segment has more messages than fit, parsing stops and continues when asked."""

    STREAM = b"".join(frame(TEXT, b"%d" % number) for number in range(10))

    def test_messages(self) -> None:
        """Messages that do not fit into the sink stay bytes."""
        codec, messages = Codec(LIMIT, max_messages=4), list[Message]()
        assert not codec.receive(self.STREAM, messages)
        assert (messages, codec.is_suspended) == (list("0123"), True)
        assert not codec.receive(b"", messages)
        assert (messages, codec.is_suspended) == (list("0123"), True)
        del messages[:3]
        assert not codec.receive(b"", messages)
        assert (messages, codec.is_suspended) == (list("3456"), True)
        messages.clear()
        assert not codec.receive(b"", messages)
        assert (messages, codec.is_suspended) == (list("789"), False)

    @pytest.mark.parametrize("cut", range(0, 75, 7))
    def test_more_arrives(self, cut: int) -> None:
        """The order stays the same, with any cut of the bytes."""
        codec, messages = Codec(LIMIT, max_messages=4), list[Message]()
        assert not codec.receive(self.STREAM[:cut], messages)
        taken = list(messages)
        messages.clear()
        assert not codec.receive(self.STREAM[cut:], messages)
        while codec.is_suspended:
            taken += messages
            messages.clear()
            assert not codec.receive(b"", messages)
        assert taken + messages == list("0123456789")

    def test_buffer_of_the_caller(self) -> None:
        """Held bytes are copied from a buffer that is reused."""
        codec, messages, buffer = Codec(LIMIT, max_messages=4), list[Message](), bytearray(100)
        buffer[: len(self.STREAM)] = self.STREAM
        assert not codec.receive(buffer, messages, len(self.STREAM))
        buffer[:] = bytes(100)
        messages.clear()
        assert not codec.receive(b"", messages)
        assert messages == list("4567")

    def test_just_enough(self) -> None:
        """Nothing is held if nothing is left."""
        codec, messages = Codec(LIMIT, max_messages=10), list[Message]()
        assert not codec.receive(self.STREAM, messages)
        assert (len(messages), codec.is_suspended) == (10, False)

    def test_control_frames(self) -> None:
        """A thousand pings are reported by the hundred."""
        codec, count = Codec(LIMIT), 0
        controls = codec.receive(frame(PING) * 1000 + frame(CLOSE), [])
        while codec.is_suspended:
            assert controls == [Ping(b"")] * 256
            count += 256
            controls = codec.receive(b"", [])
        assert controls == [Ping(b"")] * (1000 - count) + [Closed(1005, "")]

    def test_fragments(self) -> None:
        """Fragments count too, even empty ones."""
        codec, messages, rounds = Codec(LIMIT), list[Message](), 1
        stream = frame(TEXT, b"x", fin=False) + frame(CONTINUATION, fin=False) * 1000
        assert not codec.receive(stream + frame(CONTINUATION, b"y"), messages)
        while codec.is_suspended:
            assert not codec.receive(b"", messages)
            rounds += 1
        assert (messages, rounds) == (["xy"], 4)


class TestTextInPieces:
    """A text frame is checked as it arrives: section 8.1 allows failing early."""

    def test_mask(self) -> None:
        """The key continues where the payload was cut, at any offset (section 5.3)."""
        data = frame(TEXT, b"0123456789abcdef")
        for first in range(6, len(data)):
            for second in range(first, len(data)):
                pieces = data[:first], data[first:second], data[second:]
                assert receive(*pieces) == (["0123456789abcdef"], [])

    @pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536])
    def test_after_the_header(self, length: int) -> None:
        """The header may come alone, in each of the three forms of its length."""
        data = frame(TEXT, b"x" * length)
        at = len(data) - length
        assert receive(data[:at], data[at:], limit=length) == (["x" * length], [])

    @pytest.mark.parametrize("payload", [b"ok \xff", b"\xc3\xa9\xc0", b"\xf4\x90"])
    @pytest.mark.parametrize("fin", [True, False])
    @pytest.mark.parametrize("opcode", [TEXT, CONTINUATION])
    def test_invalid(self, opcode: int, fin: bool, payload: bytes) -> None:
        """Invalid text fails with its first bad byte, in a frame that is still arriving."""
        codec, messages = Codec(LIMIT), list[Message]()
        if opcode == CONTINUATION:
            codec.receive(frame(TEXT, b"start", fin=False), messages)
        data = frame(opcode, payload + b"more", fin=fin)
        at = 6 + len(payload) - 1
        for byte in data[:at]:
            assert codec.receive(bytes((byte,)), messages) == []
        (failure,) = codec.receive(data[at : at + 1], messages)
        assert failure == Failure(1007, "invalid UTF-8")
        assert codec.receive(data[at + 1 :] + frame(TEXT, b"next"), messages) == []
        assert messages == []

    def test_surrogate(self) -> None:
        """A surrogate fails with its last byte: Python's decoder waits for it, which is allowed."""
        data = frame(TEXT, b"\xed\xa0\x80more")
        assert receive(data[:8]) == ([], [])
        assert receive(data[:9]) == ([], [Failure(1007, "invalid UTF-8")])

    def test_invalid_after_messages(self) -> None:
        """Invalid text fails in the call that brings it, after the messages before it."""
        stream = frame(TEXT, b"a") + frame(PING) + frame(TEXT, b"\xff" + b"x" * 20)
        messages, controls = receive(stream[:-10])
        assert messages == ["a"]
        assert controls == [Ping(b""), Failure(1007, "invalid UTF-8")]

    def test_character(self) -> None:
        """A character may be cut anywhere."""
        data = frame(TEXT, "é€😀".encode())
        for at in range(6, len(data)):
            assert receive(data[:at], data[at:]) == (["é€😀"], [])

    def test_character_over_fragments(self) -> None:
        """A character may continue in a frame after one that came in pieces."""
        start = frame(TEXT, b"a\xf0\x9f", fin=False)
        end = frame(CONTINUATION, b"\x98\x80b")
        for at in range(6, len(start)):
            pieces = start[:at], start[at:] + frame(PING) + end[:7], end[7:]
            assert receive(*pieces) == (["a😀b"], [Ping(b"")])

    def test_cut_short(self) -> None:
        """A character that the end of the message truncates fails there."""
        data = frame(TEXT, b"a\xe2\x82")
        codec, messages = Codec(LIMIT), list[Message]()
        assert codec.receive(data[:7], messages) == codec.receive(data[7:8], messages) == []
        assert codec.receive(data[8:], messages) == [Failure(1007, "invalid UTF-8")]
        assert messages == []

    def test_next(self) -> None:
        """Bytes that follow in the same piece are parsed as the next message."""
        data = frame(TEXT, b"Hello")
        rest = frame(PING) + frame(BINARY, b"a", fin=False) + frame(CONTINUATION, b"b") + data
        assert receive(data[:8], data[8:] + rest) == (["Hello", b"ab", "Hello"], [Ping(b"")])

    def test_close(self) -> None:
        """A close frame may follow a fragment that came in pieces."""
        data = frame(TEXT, b"Hello", fin=False)
        assert receive(data[:8], data[8:] + frame(CLOSE)) == ([], [Closed(1005, "")])

    def test_binary(self) -> None:
        """Binary data is not checked in pieces either."""
        start, end = frame(BINARY, b"\xff\xc0", fin=False), frame(CONTINUATION, b"\xed\xa0\x80")
        pieces = start[:7], start[7:] + end[:8], end[8:]
        assert receive(*pieces) == ([b"\xff\xc0\xed\xa0\x80"], [])

    @pytest.mark.parametrize("text", ["\r\n", "a\rb\nc\r\n\r", "\n\r", "\x85\u2028\u2029\x1c"])
    def test_line_ends(self, text: str) -> None:
        """Line ends stay unchanged: whole, in fragments and in pieces."""
        data = text.encode()
        assert_messages(frame(TEXT, data), text)
        for at in range(len(data) + 1):
            assert_messages(
                frame(TEXT, data[:at], fin=False) + frame(CONTINUATION, data[at:]), text
            )
            whole = frame(TEXT, data)
            assert receive(whole[: 6 + at], whole[6 + at :]) == ([text], [])

    def test_limit(self) -> None:
        """Frames that came in pieces count in full, and once."""
        start, end = frame(TEXT, b"12345", fin=False), frame(CONTINUATION, b"67890")
        pieces = [start[:8], start[8:], end[:8], end[8:]]
        assert receive(*pieces, *pieces, limit=10) == (["1234567890"] * 2, [])
        more = header(CONTINUATION, 6)
        assert receive(*pieces[:2], more, limit=10) == ([], [Failure(1009, "11 bytes, limit 10")])
        assert receive(header(TEXT, 11), limit=10) == ([], [Failure(1009, "11 bytes, limit 10")])


class TestReading:
    """Reading from a buffer that is reused."""

    def test_size(self) -> None:
        """Bytes beyond the given size are ignored."""
        codec, messages = Codec(LIMIT), list[Message]()
        data = frame(TEXT, b"Hello")
        assert codec.receive(data + b"\xff\xff", messages, len(data)) == []
        assert codec.receive(data[:3] + b"\xff\xff", messages, 3) == []
        assert codec.receive(data[3:] + b"\xff\xff", messages, len(data) - 3) == []
        assert messages == ["Hello", "Hello"]

    @pytest.mark.parametrize("opcode", [TEXT, BINARY, PING])
    @pytest.mark.parametrize("sizes", [[1], [7, 2], [100]])
    def test_not_kept(self, opcode: int, sizes: list[int]) -> None:
        """The buffer may be overwritten at once, whether the frame is whole or not."""
        data = frame(opcode, b"Hello")
        assert receive_as_read(data * 3, sizes) == receive(data * 3)


def arriving(length: int, opcode: int = BINARY) -> Codec:
    """Return a codec that has a frame's header and 100 bytes of its payload."""
    codec = Codec(2**62)
    assert codec.receive(header(opcode, length) + MASK + MASK * 25, []) == []
    return codec


def total(length: int) -> int:
    """Return the size of a frame with that payload."""
    return len(header(BINARY, length)) + 4 + length


class TestLarge:
    """A large frame is read into a buffer of its own."""

    SIZES = (1, 1000, 65536)

    @pytest.mark.parametrize("size", [LARGE - 14, LARGE, 3 * LARGE + 1])
    @pytest.mark.parametrize("most", [1000, 65536, LARGE - 14, 2**20])
    def test_message(self, size: int, most: int) -> None:
        """A large message arrives like any other, and so do the bytes behind it."""
        payload = (b"%06d " * (size // 7 + 1) % tuple(range(size // 7 + 1)))[:size]
        data = frame(BINARY, payload)
        stream = frame(TEXT, b"a") + data + frame(PING) + data + frame(TEXT, b"b")
        expected = ["a", payload, payload, "b"], [Ping(b"")]
        assert receive_as_read(stream, [most], limit=size) == expected

    def test_from(self) -> None:
        """A frame is large from ``LARGE`` bytes on, including its header."""
        assert total(LARGE - 14) == LARGE
        assert arriving(LARGE - 14).large is not None
        assert arriving(LARGE - 15).large is None

    def test_not_text(self) -> None:
        """A text frame never is: it is decoded as it arrives."""
        assert arriving(LARGE, TEXT).large is None

    def test_not_before_its_length(self) -> None:
        """A frame becomes large once its length is known, before key and payload."""
        codec, data = Codec(2**62), header(BINARY, LARGE)
        codec.receive(data[:-1], [])
        assert codec.large is None
        codec.receive(data[-1:], [])
        assert codec.large is not None

    @pytest.mark.parametrize("length", [LARGE, 2**20, 2**40, 2**62])
    def test_growth(self, length: int) -> None:
        """The buffer is 64 KiB or twice what has arrived: a claimed length costs little."""
        codec, messages, arrived = arriving(length), list[Message](), 114
        assert codec.large is not None
        assert len(codec.large) == arrived
        while codec.large is not None and arrived < 2**21:
            with codec.get_buffer() as space:
                assert 0 < len(space) <= max(arrived, LARGE // 2)
                size = min(len(space), 50000)
            assert len(codec.large) <= min(max(2 * arrived, LARGE // 2), total(length))
            codec.buffer_updated(size, messages)
            arrived += size
        assert (codec.large is None) == (arrived == total(length))
        assert [len(message) for message in messages] == [length] * (codec.large is None)

    def test_without_space(self) -> None:
        """The bytes may also be passed without using that buffer."""
        payload = bytes(range(256)) * 1000
        data = frame(BINARY, payload) + frame(TEXT, b"next")
        assert receive(data[:20], data[20:90_000], data[90_000:], limit=2**20) == (
            [payload, "next"],
            [],
        )

    def test_not_past_its_end(self) -> None:
        """The space never extends into the next frame."""
        codec, messages, rest = arriving(LARGE), list[Message](), LARGE - 100
        while codec.large is not None:
            with codec.get_buffer() as space:
                size = len(space)
            rest -= size
            codec.buffer_updated(size, messages)
        assert rest == 0
        assert len(messages) == 1

    def test_unused_space(self) -> None:
        """Unused space is returned again, not allocated twice."""
        codec = arriving(LARGE)
        with codec.get_buffer() as space:
            size = len(space)
        codec.buffer_updated(10, [])
        for _ in range(2):
            with codec.get_buffer() as space:
                assert len(space) == size - 10

    def test_fragments(self) -> None:
        """Large fragments are one message, with control frames between them."""
        part = bytes(range(256)) * (LARGE // 256)
        stream = frame(BINARY, part, fin=False) + frame(PING, b"1")
        stream += frame(CONTINUATION, part, fin=False) + frame(CONTINUATION, b"end")
        expected = [part + part + b"end"], [Ping(b"1")]
        assert receive_as_read(stream, self.SIZES, limit=2 * LARGE + 3) == expected

    def test_text(self) -> None:
        """A large text arrives, whole and in fragments."""
        part = "é€😀".encode() * (LARGE // 9 + 1)
        whole = frame(TEXT, part)
        fragments = frame(TEXT, part, fin=False) + frame(CONTINUATION, part)
        expected = [part.decode(), (part + part).decode()], list[Control]()
        assert receive_as_read(whole + fragments, self.SIZES, limit=2 * len(part)) == expected

    def test_limit(self) -> None:
        """A message of exactly the limit passes; one more byte fails at the header, unbuffered."""
        data = frame(BINARY, bytes(LARGE))
        assert receive_as_read(data, self.SIZES, limit=LARGE) == ([bytes(LARGE)], [])
        codec = Codec(LARGE)
        (failure,) = codec.receive(header(BINARY, LARGE + 1), [])
        assert isinstance(failure, Failure)
        assert failure.code == 1009
        assert codec.large is None

    def test_limit_of_fragments(self) -> None:
        """The same holds for the sum of fragments."""
        part = bytes(LARGE)
        stream = frame(BINARY, part, fin=False) + frame(CONTINUATION, part)
        assert receive_as_read(stream, self.SIZES, limit=2 * LARGE) == ([part + part], [])
        messages, controls = receive_as_read(stream, self.SIZES, limit=2 * LARGE - 1)
        assert messages == []
        assert [control.code for control in controls if isinstance(control, Failure)] == [1009]

    def test_end_of_stream(self) -> None:
        """A large frame that does not arrive whole is no message."""
        data = frame(BINARY, bytes(LARGE))
        assert receive_as_read(data[:-1], self.SIZES, limit=LARGE) == ([], [])
