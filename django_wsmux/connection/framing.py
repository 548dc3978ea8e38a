"""How the messages of a socket become bytes: chosen at the handshake, kept until its end.

A socket has one ``Framing``. ``PLAIN`` is what most have. The compressor of permessage-deflate is
another one, and a subprotocol that puts more around a message than a frame may bring its own.
"""

from __future__ import annotations

import sys
from typing import Final

from ..protocol.prepared import Framing, PreparedMessage

__all__ = ["PLAIN", "Framing"]


class _Plain:
    """Sends each message as it is, in one frame that all share."""

    __slots__ = ()

    threshold: Final = sys.maxsize
    key: Final = "plain"

    def encode(self, prepared: PreparedMessage, group: str, position: str) -> bytes:
        """Return the plain frame."""
        return prepared.plain


#: Nothing was agreed on. The connection tests for it by identity, before anything else.
PLAIN: Final[Framing] = _Plain()
