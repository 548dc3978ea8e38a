"""The framing of a socket, which turns messages into bytes; it is chosen at the handshake.

Each socket has one ``Framing``, and most have ``PLAIN``. The compressor of permessage-deflate is
another one. ``V1`` wraps either of them, and adds what the subprotocol ``wsmux.v1`` puts around a
message.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from functools import lru_cache
from typing import Final

from ..protocol.frames import encode
from ..protocol.prepared import Framing, PreparedMessage, SingleMessage
from ..protocol.v1 import shown, wrap

__all__ = ["PLAIN", "V1", "Framing"]


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

# The key of the framings of wsmux.v1 without compression.
_KEY: Final = "v1"


@lru_cache(maxsize=64)
def _key_with(inner: Hashable) -> Hashable:
    """Return the key of wsmux.v1 with another framing: the same object for equal keys."""
    return (_KEY, inner)


class _Named:
    """The framing of ``wsmux.v1`` for messages of one group, under one name.

    Args:
        name: the name that the client sees.
        inner: the framing of the bytes.
    """

    __slots__ = ("_inner", "_name", "key")

    threshold: Final = 0

    def __init__(self, name: str, inner: Framing) -> None:
        self.key: Hashable | None = None if inner.key is None else (_KEY, inner.key, name)
        self._name = name
        self._inner = inner

    def encode(self, prepared: SingleMessage, group: str, position: str) -> bytes:
        """Return the whole frame."""
        return _wrapped(prepared, self._name, position, self._inner)


def _wrapped(prepared: SingleMessage, name: str, position: str, inner: Framing) -> bytes:
    """Return the whole frame of a message of ``wsmux.v1``."""
    opcode, payload = prepared.opcode, wrap(prepared, name, position)
    if len(payload) < inner.threshold:
        return encode(opcode, payload)
    return inner.encode(SingleMessage(opcode, payload), "", "")


class V1:
    """The framing of a socket with the subprotocol ``wsmux.v1``.

    Args:
        inner: the framing of the bytes.
        client_id: the id of the client.

    Attributes:
        key: the same for all sockets that see the groups' own names, so that a message is encoded
            once for them; ``None`` if the socket sees other names.
    """

    __slots__ = ("_aliases", "_inner", "client_id", "key")

    threshold: Final = 0

    def __init__(self, inner: Framing, client_id: str) -> None:
        self.client_id = client_id
        self.key: Hashable | None = _KEY if inner is PLAIN else inner.key and _key_with(inner.key)
        self._inner = inner
        self._aliases: dict[str, str] | None = None

    @property
    def aliases(self) -> dict[str, str]:
        """The names that the client sees, by the group's own name, where they differ."""
        return dict(self._aliases or ())

    def set_alias(self, group: str, alias: str) -> None:
        """Set the name that the client sees for a group."""
        if self._aliases is None:
            self._aliases = {}
            self.key = None
        self._aliases[group] = alias

    def name_of(self, group: str) -> str:
        """Return the name that the client sees for a group."""
        alias = None if self._aliases is None else self._aliases.get(group)
        return shown(group) if alias is None else alias

    def encode(self, prepared: SingleMessage, group: str, position: str) -> bytes:
        """Return the whole frame of a message; see ``Framing``."""
        name = self.name_of(group)
        if self._aliases is not None and isinstance(prepared, PreparedMessage):
            return prepared.form(_Named(name, self._inner))
        return _wrapped(prepared, name, position, self._inner)
