"""Reads and checks parts of a frame."""

from __future__ import annotations

from .events import Closed, Violation
from .frames import (
    BINARY,
    CONTINUATION,
    MAX_CONTROL_PAYLOAD,
    PONG,
    RSV1,
    TEXT,
    CloseCode,
    is_valid_close_code,
)

__all__ = ["check_header", "extended_length", "parse_close"]


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
