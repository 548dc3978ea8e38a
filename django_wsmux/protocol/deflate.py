"""permessage-deflate (RFC 7692): negotiation and compression streams.

``websockets`` does the negotiation. Without context takeover, the default, a connection keeps no
state between messages, and a message to many members is compressed once.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from .frames import FIN, RSV1, head
from .prepared import SingleMessage

__all__ = [
    "FLUSH",
    "TAIL",
    "Compression",
    "Compressor",
    "Deflate",
    "max_deflated_size",
    "negotiate",
]

NAME: Final = "permessage-deflate"

#: The end of a sync flush, which is not sent (section 7.2.1).
TAIL: Final = b"\x00\x00\xff\xff"

#: The most bytes that a flush adds: the header of a block that it ends early, and an empty block. A
#: sender may flush at the end of each fragment.
FLUSH: Final = 10


def max_deflated_size(size: int) -> int:
    """Return the largest compressed size of a message of this size, in bytes.

    Incompressible data grows: fixed codes use up to nine bits for a byte (RFC 1951 section 3.2.6),
    and blocks have headers. This is the bound of zlib's ``deflateBound()`` for the worst settings,
    with room for one flush.
    """
    return size + (size >> 3) + (size >> 8) + (size >> 9) + 4 + FLUSH


@dataclass(frozen=True, slots=True)
class Compression:
    """The compression that the server offers.

    Attributes:
        threshold: messages below this many bytes are sent uncompressed.
        level: zlib's level, 1 (fast) to 9 (small).
        window_bits: 9 to 15; each bit doubles the memory and the reach of the compressor.
        context_takeover: whether a message may refer to earlier ones. Messages become smaller, but
            each connection keeps up to 300 KiB, and a message to many members is compressed for
            each of them.
    """

    threshold: int = 512
    level: int = 6
    window_bits: int = 15
    context_takeover: bool = False


@dataclass(frozen=True, slots=True)
class Deflate:
    """The negotiated parameters; "local" is the server's compressor.

    Attributes:
        compression: the settings of the server.
        local_bits, remote_bits: window sizes.
        local_takeover, remote_takeover: whether the context is kept between messages.
    """

    compression: Compression
    local_bits: int
    remote_bits: int
    local_takeover: bool
    remote_takeover: bool

    def compressor(self) -> zlib._Compress:
        """Return a new stream for messages to the client."""
        return zlib.compressobj(self.compression.level, zlib.DEFLATED, -self.local_bits)

    def decompressor(self) -> zlib._Decompress:
        """Return a new stream for messages from the client."""
        return zlib.decompressobj(-self.remote_bits)


@lru_cache(maxsize=64)
def _shared(deflate: Deflate) -> Deflate:
    """Return the same object for equal parameters: keys of framings are first compared so."""
    return deflate


class Compressor:
    """Compresses the messages of one connection: the ``Framing`` of permessage-deflate.

    Args:
        deflate: the negotiated parameters.

    Attributes:
        threshold: messages of fewer bytes are sent uncompressed.
        key: the negotiated parameters, unless a message may refer to those before it.
    """

    __slots__ = ("_stream", "deflate", "key", "threshold")

    def __init__(self, deflate: Deflate) -> None:
        self.deflate = deflate
        self.threshold = deflate.compression.threshold
        self.key = None if deflate.local_takeover else _shared(deflate)
        # With the context of earlier messages, where that was agreed on.
        self._stream: zlib._Compress | None = None

    def encode(self, prepared: SingleMessage, group: str, position: str) -> bytes:
        """Return the whole frame of a message; see ``Framing``."""
        return self.frame(prepared.opcode, prepared.payload)

    def frame(self, opcode: int, payload: bytes) -> bytes:
        """Compress a message and return its frame (RFC 7692 section 7.2.1).

        Args:
            opcode: TEXT or BINARY.
            payload: the message.
        """
        stream = self._stream or self.deflate.compressor()
        if self.deflate.local_takeover:
            self._stream = stream
        data = stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH)
        data = data[: -len(TAIL)]
        return head(FIN | RSV1 | opcode, len(data)) + data


@lru_cache(maxsize=16)
def _factory(compression: Compression) -> ServerPerMessageDeflateFactory:
    bits = compression.window_bits if compression.window_bits < 15 else None
    fresh = not compression.context_takeover
    return ServerPerMessageDeflateFactory(
        server_no_context_takeover=fresh,
        client_no_context_takeover=fresh,
        server_max_window_bits=bits,
        client_max_window_bits=bits,
    )


def negotiate(offered: str | None, compression: Compression) -> tuple[str, Deflate] | None:
    """Choose one of the client's offers (RFC 7692 section 7.1).

    Args:
        offered: the ``Sec-WebSocket-Extensions`` header, or ``None``.
        compression: the compression that the server offers.

    Returns:
        The response header and the negotiated parameters; ``None`` if no offer is acceptable or
        the header is malformed.
    """
    if not offered:
        return None
    try:
        offers = parse_extension(offered)
    except InvalidHeader:
        return None
    for name, parameters in offers:
        if name != NAME:
            continue
        try:
            answer, agreed = _factory(compression).process_request_params(parameters, [])
        except NegotiationError:
            continue
        if agreed.local_max_window_bits < 9:
            # zlib has no raw stream with a window of 256 bytes; newer websockets refuse it too.
            continue  # pragma: no cover
        header = build_extension([(ServerPerMessageDeflateFactory.name, answer)])
        return header, Deflate(
            compression,
            agreed.local_max_window_bits,
            agreed.remote_max_window_bits,
            not agreed.local_no_context_takeover,
            not agreed.remote_no_context_takeover,
        )
    return None
