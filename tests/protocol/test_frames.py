"""Opcodes, close codes and the encoding of frames."""

import pytest

from django_wsmux.protocol import frames
from django_wsmux.protocol.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    CloseCode,
    close_payload,
    encode,
    encode_message,
    is_valid_close_code,
)


class TestEncode:
    """Sections 5.2 and 5.7: base framing and its examples."""

    def test_text(self) -> None:
        """Text is sent as one unmasked frame with FIN set."""
        assert encode(TEXT, b"Hello") == b"\x81\x05Hello"

    def test_binary(self) -> None:
        """Binary data has its own opcode."""
        assert encode(BINARY, b"\x00\xff") == b"\x82\x02\x00\xff"

    @pytest.mark.parametrize(
        ("opcode", "first"), [(CONTINUATION, 0x80), (CLOSE, 0x88), (PING, 0x89), (PONG, 0x8A)]
    )
    def test_other_opcodes(self, opcode: int, first: int) -> None:
        """Every opcode can be sent."""
        assert encode(opcode, b"Hello") == bytes((first, 5)) + b"Hello"

    @pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
    def test_empty(self, opcode: int) -> None:
        """A frame without payload is its two header bytes."""
        assert encode(opcode, b"") == bytes((0x80 | opcode, 0))

    @pytest.mark.parametrize(
        ("length", "header"),
        [
            (125, b"\x82\x7d"),
            (126, b"\x82\x7e\x00\x7e"),
            (256, b"\x82\x7e\x01\x00"),
            (65535, b"\x82\x7e\xff\xff"),
            (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        ],
    )
    def test_length(self, length: int, header: bytes) -> None:
        """A length is written in its shortest form."""
        payload = bytes(length)
        assert encode(BINARY, payload) == header + payload

    @pytest.mark.parametrize("length", [126, 65536])
    def test_long_text(self, length: int) -> None:
        """The opcode stays in front of a longer length."""
        assert encode(TEXT, bytes(length))[0] == 0x81


class TestCloseCodes:
    """Section 7.4 and the IANA registry: the codes that a close frame may carry."""

    @pytest.mark.parametrize("code", [1000, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999])
    def test_valid(self, code: int) -> None:
        """Registered codes and the ranges for libraries and applications may be sent."""
        assert is_valid_close_code(code)

    @pytest.mark.parametrize(
        "code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535]
    )
    def test_invalid(self, code: int) -> None:
        """Reserved, unassigned and out-of-range codes must not be sent."""
        assert not is_valid_close_code(code)

    def test_numbers(self) -> None:
        """The named codes have the numbers of section 7.4.1 and of the registry."""
        assert CloseCode.NORMAL == 1000
        assert CloseCode.GOING_AWAY == 1001
        assert CloseCode.PROTOCOL_ERROR == 1002
        assert CloseCode.NO_STATUS == 1005
        assert CloseCode.ABNORMAL == 1006
        assert CloseCode.INVALID_DATA == 1007
        assert CloseCode.POLICY_VIOLATION == 1008
        assert CloseCode.MESSAGE_TOO_BIG == 1009
        assert CloseCode.INTERNAL_ERROR == 1011
        assert CloseCode.SERVICE_RESTART == 1012
        assert CloseCode.TRY_AGAIN_LATER == 1013

    def test_names(self) -> None:
        """All named codes may be sent except the two that only report."""
        codes = {code for name, code in vars(CloseCode).items() if name.isupper()}
        assert {code for code in codes if not is_valid_close_code(code)} == {
            CloseCode.NO_STATUS,
            CloseCode.ABNORMAL,
        }


class TestClosePayload:
    """Section 5.5.1: the body of a close frame."""

    def test_code(self) -> None:
        """A code alone is two bytes, in network byte order."""
        assert close_payload(1000) == b"\x03\xe8"

    def test_reason(self) -> None:
        """A reason follows in UTF-8."""
        assert close_payload(4401, "adiós") == b"\x11\x31adi\xc3\xb3s"

    def test_no_status(self) -> None:
        """Code 1005 stands for a close frame without a body."""
        assert close_payload(1005) == b""

    def test_no_status_with_reason(self) -> None:
        """A reason needs a code."""
        with pytest.raises(ValueError, match="close code 1005 may not be sent"):
            close_payload(1005, "bye")

    @pytest.mark.parametrize("code", [0, 999, 1006, 1015, 2999, 5000, 65536])
    def test_invalid_code(self, code: int) -> None:
        """The error for an invalid code lists the valid ones."""
        with pytest.raises(ValueError, match=f"close code {code} .* from 3000 to 4999"):
            close_payload(code)

    def test_longest_reason(self) -> None:
        """A reason of 123 bytes fills the control frame."""
        assert len(close_payload(1000, "x" * 123)) == frames.MAX_CONTROL_PAYLOAD

    @pytest.mark.parametrize(("reason", "size"), [("x" * 124, 124), ("é" * 62, 124)])
    def test_reason_too_long(self, reason: str, size: int) -> None:
        """A longer reason, counted in bytes, is refused."""
        with pytest.raises(ValueError, match=f"is {size} bytes long in UTF-8: at most 123"):
            close_payload(1000, reason)


def test_message_of_another_type() -> None:
    """The error says what to use instead."""
    with pytest.raises(TypeError, match=r"not dict; send_json\(\) sends other values"):
        encode_message({})  # type: ignore[arg-type]


def test_messages() -> None:
    """Text is text; any bytes-like object is binary."""
    assert encode_message("é") == (TEXT, b"\xc3\xa9")
    for message in (b"x", bytearray(b"x"), memoryview(b"x")):
        assert encode_message(message) == (BINARY, b"x")
