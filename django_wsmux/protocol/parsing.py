"""Parts of a frame, read and judged."""

from __future__ import annotations

from .events import Closed, Violation
from .frames import CloseCode, is_valid_close_code

__all__ = ["decode", "extended_length", "parse_close"]


def extended_length(data: bytes | bytearray, position: int, available: int) -> tuple[int, int]:
    """Return the sizes of a frame's head and payload; for the head 0 and how much is needed."""
    if data[position + 1] & 0x7F == 126:
        if available < 4:
            return 0, 4
        length = data[position + 2] << 8 | data[position + 3]
        # Section 5.2: the minimal number of bytes MUST be used to encode the length.
        if length < 126:
            raise Violation(CloseCode.PROTOCOL_ERROR, "length not in its shortest form")
        return 8, length
    if available < 10:
        return 0, 10
    length = int.from_bytes(data[position + 2 : position + 10], "big")
    if length < 65536 or length >> 63:
        raise Violation(CloseCode.PROTOCOL_ERROR, "invalid 64-bit length")
    return 14, length


def decode(payload: bytes) -> str:
    """Return the text of a whole message."""
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        # Section 8.1; also refuses lone surrogates.
        raise Violation(CloseCode.INVALID_DATA, "invalid UTF-8") from error


def parse_close(payload: bytes) -> Closed:
    """Read a close frame's body (section 5.5.1)."""
    if not payload:
        return Closed(CloseCode.NO_STATUS, "")
    if len(payload) == 1:
        raise Violation(CloseCode.PROTOCOL_ERROR, "close frame of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not is_valid_close_code(code):
        raise Violation(CloseCode.PROTOCOL_ERROR, "invalid close code")
    return Closed(code, decode(payload[2:]))
