"""A message that goes to many: encoded once, compressed once for all who agreed on the same."""

from __future__ import annotations

from .deflate import Compressor, Deflate
from .frames import encode

__all__ = ["Prepared"]


class Prepared:
    """The frames of one message.

    Args:
        opcode: TEXT or BINARY.
        payload: the message.

    Attributes:
        plain: the frame for those without compression.
    """

    __slots__ = ("_compressed", "opcode", "payload", "plain")

    def __init__(self, opcode: int, payload: bytes) -> None:
        self.opcode = opcode
        self.payload = payload
        self.plain = encode(opcode, payload)
        self._compressed: dict[Deflate, bytes] = {}

    def compressed(self, compressor: Compressor) -> bytes:
        """Return the frame for one connection; those without context takeover share it."""
        deflate = compressor.deflate
        if deflate.local_takeover:
            return compressor.frame(self.opcode, self.payload)
        frame = self._compressed.get(deflate)
        if frame is None:
            frame = self._compressed[deflate] = compressor.frame(self.opcode, self.payload)
        return frame
