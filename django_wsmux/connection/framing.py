"""The framing of a socket, which turns messages into bytes; it is chosen at the handshake.

Each socket has one ``Framing``, and most have ``PLAIN``. The compressor of permessage-deflate is
another one. A subprotocol that adds more to a message than a frame may have its own.
"""

from __future__ import annotations

import sys
from typing import Final

from ..protocol.frames import encode
from ..protocol.prepared import Framing, SingleMessage

__all__ = ["PLAIN", "Framing"]


class _Plain:
    """Sends each message as it is, in one frame that all sockets share."""

    __slots__ = ()

    threshold: Final = sys.maxsize
    key: Final = "plain"

    def encode(self, prepared: SingleMessage, group: str, position: str) -> bytes:
        """Return the plain frame."""
        return encode(prepared.opcode, prepared.payload)


#: The framing if none was negotiated. The connection first compares with it by identity.
PLAIN: Final[Framing] = _Plain()
