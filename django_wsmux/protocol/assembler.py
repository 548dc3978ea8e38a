"""Messages that arrive in parts: fragments, pieces of a frame, compressed data."""

from __future__ import annotations

import codecs
import io
import zlib
from typing import Any

from .deflate import TAIL
from .events import CannotMove, Violation
from .frames import BINARY, TEXT, CloseCode

__all__ = ["PartialMessage"]

_new_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class PartialMessage:
    """Assembles a message, up to a limit.

    Text is decoded as it arrives, so that invalid text fails immediately and not at the end of the
    message (RFC 6455 section 8.1).

    Args:
        opcode: TEXT or BINARY.
        limit: largest size of the message after decompression, in bytes.
        inflater: the stream that decompresses it, for a compressed message.
    """

    __slots__ = (
        "_bytes",
        "_limit",
        "_text",
        "_utf8",
        "announced",
        "fragments",
        "inflated",
        "inflater",
        "is_ascii",
        "is_text",
    )

    def __init__(self, opcode: int, limit: int, inflater: zlib._Decompress | None = None) -> None:
        self.is_text = opcode == TEXT
        # Whether add() takes ASCII as str: only until the decoder is used, because it may keep the
        # start of a character.
        self.is_ascii = self.is_text
        self.inflater = inflater
        # The frames so far and the bytes that they announced; the codec checks both limits.
        self.fragments = 0
        self.announced = 0
        self.inflated = 0
        self._limit = limit
        self._utf8 = _new_utf8_decoder()
        self._text = io.StringIO()
        self._bytes = bytearray()

    def add(self, payload: str | bytes, final: bool) -> None:
        """Add bytes, or ASCII text while ``is_ascii``; ``final`` marks the last part.

        Raises:
            UnicodeDecodeError: the text is not UTF-8.
            Violation: the compressed data is invalid, or inflates beyond the limit.
        """
        if isinstance(payload, str):
            self._text.write(payload)
            return
        if self.inflater is not None:
            payload = self._inflate(self.inflater, payload, final)
        if not self.is_text:
            self._bytes += payload
            return
        self.is_ascii = False
        self._text.write(self._utf8.decode(payload, final))

    def decode_single_frame(self) -> str | bytes:
        """Return the message."""
        return self._text.getvalue() if self.is_text else bytes(self._bytes)

    def state(self) -> dict[str, Any]:
        """Return what ``restored()`` needs, as JSON knows it; bytes are Latin-1.

        Raises:
            CannotMove: the message is compressed.
        """
        if self.inflater is not None:
            raise CannotMove("it is in the middle of a compressed message")
        content = self._text.getvalue() if self.is_text else self._bytes.decode("latin-1")
        return {
            "is_text": self.is_text,
            "is_ascii": self.is_ascii,
            "fragments": self.fragments,
            "announced": self.announced,
            "content": content,
            "character": self._utf8.getstate()[0].decode("latin-1"),
        }

    @classmethod
    def restored(cls, state: dict[str, Any], limit: int) -> PartialMessage:
        """Return a message that goes on where another one was.

        Args:
            state: of that one.
            limit: bytes that the message may have.
        """
        message = cls(TEXT if state["is_text"] else BINARY, limit)
        message.is_ascii = state["is_ascii"]
        message.fragments, message.announced = state["fragments"], state["announced"]
        if message.is_text:
            message._text.write(state["content"])
        else:
            message._bytes += state["content"].encode("latin-1")
        message._utf8.setstate((state["character"].encode("latin-1"), 0))
        return message

    def _inflate(self, inflater: zlib._Decompress, payload: bytes, final: bool) -> bytes:
        """Decompress (RFC 7692 section 7.2.2), never beyond the limit."""
        if inflater.eof:
            # Nothing may follow the last block of a stream (section 7.2.3.4). zlib would keep such
            # data and copy it again with each fragment: seconds of work for a few megabytes.
            return b""
        room = self._limit - self.inflated
        try:
            # One byte more than the limit allows shows that the message is too large.
            inflated = inflater.decompress(payload + TAIL if final else payload, room + 1)
        except zlib.error as error:
            raise Violation(CloseCode.PROTOCOL_ERROR, "invalid compressed data") from error
        if len(inflated) > room:
            raise Violation(
                CloseCode.MESSAGE_TOO_BIG,
                f"inflates beyond {self._limit} bytes",
                "message_too_big",
            )
        self.inflated += len(inflated)
        return inflated
