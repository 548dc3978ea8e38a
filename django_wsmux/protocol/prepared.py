"""A message that goes to many: encoded once, compressed once for all who agreed on the same."""

from __future__ import annotations

from .deflate import Compressor, Deflate
from .frames import TEXT, encode

__all__ = ["PreparedMessage"]


class PreparedMessage:
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

    def __len__(self) -> int:
        return len(self.payload)

    @property
    def message(self) -> str | bytes:
        """The message as a view knows it."""
        return self.payload.decode() if self.opcode == TEXT else self.payload

    def compressed(self, compressor: Compressor) -> bytes:
        """Return the frame for one connection; those without context takeover share it."""
        deflate = compressor.deflate
        if deflate.local_takeover:
            return compressor.frame(self.opcode, self.payload)
        frame = self._compressed.get(deflate)
        if frame is None:
            frame = self._compressed[deflate] = compressor.frame(self.opcode, self.payload)
        return frame
