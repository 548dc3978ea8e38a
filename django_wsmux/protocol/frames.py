"""Opcodes, close codes and the encoding of frames (RFC 6455 sections 5.2, 5.5 and 7.4)."""

from __future__ import annotations

from typing import Final

from .events import Closed, Violation

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "FIN",
    "MAX_CONTROL_PAYLOAD",
    "PING",
    "PONG",
    "RSV1",
    "SMALL_HEADS",
    "TEXT",
    "CloseCode",
    "check_header",
    "close_payload",
    "encode",
    "encode_message",
    "extended_length",
    "head",
    "is_valid_close_code",
    "parse_close",
]

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

FIN: Final = 0x80
RSV1: Final = 0x40

#: RFC 6455 section 5.5: the payload of a control frame has at most 125 bytes.
MAX_CONTROL_PAYLOAD: Final = 125


class CloseCode:
    """The close codes that this package sends or reports (RFC 6455 section 7.4.1)."""

    NORMAL: Final = 1000
    GOING_AWAY: Final = 1001
    PROTOCOL_ERROR: Final = 1002
    UNSUPPORTED_DATA: Final = 1003
    NO_STATUS: Final = 1005
    ABNORMAL: Final = 1006
    INVALID_DATA: Final = 1007
    POLICY_VIOLATION: Final = 1008
    MESSAGE_TOO_BIG: Final = 1009
    INTERNAL_ERROR: Final = 1011
    SERVICE_RESTART: Final = 1012
    TRY_AGAIN_LATER: Final = 1013


def is_valid_close_code(code: int) -> bool:
    """Return whether a close frame may contain ``code`` (RFC 6455 section 7.4, IANA registry).

    1004, 1005, 1006 and 1015 are never sent; 1016 to 2999 are unassigned.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


#: The heads of small data frames, by opcode and length: made once, because every message needs
#: one.
SMALL_HEADS: Final = {
    opcode: tuple(bytes((FIN | opcode, length)) for length in range(126))
    for opcode in (TEXT, BINARY)
}


def encode_message(message: str | bytes | bytearray | memoryview) -> tuple[int, bytes]:
    """Return the opcode and payload of a message: ``str`` is text, bytes are binary.

    Raises:
        TypeError: the message is neither ``str`` nor bytes.
        UnicodeEncodeError: the text contains a lone surrogate.
    """
    if isinstance(message, str):
        return TEXT, message.encode()
    if isinstance(message, (bytes, bytearray, memoryview)):
        return BINARY, bytes(message)
    raise TypeError(
        f"a message is str or bytes, not {type(message).__name__}; send_json() sends other values"
    )


def head(first: int, length: int) -> bytes:
    """Return the head of an unmasked frame (RFC 6455 section 5.2).

    Args:
        first: the first byte: FIN, reserved bits and opcode.
        length: the length of the payload.
    """
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return b"%c\x7e%b" % (first, length.to_bytes(2, "big"))
    return b"%c\x7f%b" % (first, length.to_bytes(8, "big"))


def encode(opcode: int, payload: bytes) -> bytes:
    """Return a server-to-client frame: FIN set, unmasked (RFC 6455 sections 5.1, 5.2).

    Args:
        opcode: one of the opcodes of this module.
        payload: the payload; at most 125 bytes for a control frame.

    Example:
        >>> encode(TEXT, b"hi")
        b'\\x81\\x02hi'
    """
    length = len(payload)
    if length < 126:
        small = SMALL_HEADS.get(opcode)
        if small is not None:
            return small[length] + payload
    return head(FIN | opcode, length) + payload


def close_payload(code: int, reason: str = "") -> bytes:
    """Return the payload of a close frame (RFC 6455 section 5.5.1).

    Args:
        code: a code that may be sent, or 1005 for a close frame without a body.
        reason: text; at most 123 bytes in UTF-8.

    Raises:
        ValueError: the code may not be sent, or the reason is too long.
    """
    if code == CloseCode.NO_STATUS and not reason:
        return b""
    if not is_valid_close_code(code):
        raise ValueError(
            f"close code {code!r} may not be sent: use 1000 to 1003, 1007 to 1014, "
            f"or one of your own from 3000 to 4999 (RFC 6455 section 7.4)"
        )
    encoded = reason.encode()
    if len(encoded) > MAX_CONTROL_PAYLOAD - 2:
        raise ValueError(
            f"close reason is {len(encoded)} bytes long in UTF-8: "
            f"at most 123 fit (RFC 6455 section 5.5)"
        )
    return code.to_bytes(2, "big") + encoded


# Reading


def check_header(first: int, length: int, *, may_compress: bool, is_inside: bool) -> None:
    """Check the rules that the first two bytes of a frame can break.

    Args:
        first: the first byte.
        length: the length in the second byte; negative if the mask bit is not set.
        may_compress: permessage-deflate is in use.
        is_inside: a fragmented message has begun.
    """
    opcode = first & 0x0F
    reserved = first & 0x70
    if reserved == RSV1 and may_compress and opcode in (TEXT, BINARY):
        # RFC 7692 section 6: set on the first frame of a compressed message, and only there.
        reserved = 0
    if reserved:
        # Section 5.2: MUST be 0 unless an extension is negotiated that defines them.
        raise Violation(CloseCode.PROTOCOL_ERROR, "reserved bits set")
    if length < 0:
        # Section 5.1: the server MUST close the connection upon an unmasked frame.
        raise Violation(CloseCode.PROTOCOL_ERROR, "frame not masked")
    if opcode & 0x8:
        if opcode > PONG:
            raise Violation(CloseCode.PROTOCOL_ERROR, "reserved opcode")
        # Section 5.5: control frames MUST NOT be fragmented nor exceed 125 bytes.
        if not first & 0x80:
            raise Violation(CloseCode.PROTOCOL_ERROR, "fragmented control frame")
        if length > MAX_CONTROL_PAYLOAD:
            raise Violation(CloseCode.PROTOCOL_ERROR, "control frame too long")
    elif opcode > BINARY:
        raise Violation(CloseCode.PROTOCOL_ERROR, "reserved opcode")
    elif opcode == CONTINUATION:
        if not is_inside:
            raise Violation(CloseCode.PROTOCOL_ERROR, "unexpected continuation frame")
    elif is_inside:
        # Section 5.4: fragments of two messages MUST NOT be interleaved.
        raise Violation(CloseCode.PROTOCOL_ERROR, "continuation frame expected")


def extended_length(data: bytes | bytearray, position: int, available: int) -> tuple[int, int]:
    """Return the sizes of a frame's head and payload; 0 and the needed size if it is incomplete."""
    if data[position + 1] & 0x7F == 126:
        if available < 4:
            return 0, 4
        length = data[position + 2] << 8 | data[position + 3]
        # Section 5.2: the minimal number of bytes MUST be used to encode the length.
        if length < 126:
            raise Violation(CloseCode.PROTOCOL_ERROR, "length not minimally encoded")
        return 8, length
    if available < 10:
        return 0, 10
    length = int.from_bytes(data[position + 2 : position + 10], "big")
    if length < 65536 or length >> 63:
        raise Violation(CloseCode.PROTOCOL_ERROR, "invalid 64-bit length")
    return 14, length


def parse_close(payload: bytes) -> Closed:
    """Parse the body of a close frame (section 5.5.1).

    Raises:
        UnicodeDecodeError: the reason is not UTF-8.
        Violation: the body is invalid.
    """
    if not payload:
        return Closed(CloseCode.NO_STATUS, "")
    if len(payload) == 1:
        raise Violation(CloseCode.PROTOCOL_ERROR, "close frame of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not is_valid_close_code(code):
        raise Violation(CloseCode.PROTOCOL_ERROR, "invalid close code")
    return Closed(code, payload[2:].decode())
