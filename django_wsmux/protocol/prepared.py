"""A message for many sockets, encoded once for all sockets with the same framing."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from .frames import TEXT, encode

__all__ = ["Framing", "PreparedMessage", "SingleMessage"]


class Framing(Protocol):
    """Encodes messages for one peer, as negotiated at its handshake.

    Attributes:
        threshold: messages of fewer bytes are sent as plain frames.
        key: framings with equal keys encode a message to the same bytes, so it is encoded once for
            all of them; ``None`` for a framing that depends on earlier messages.
    """

    @property
    def threshold(self) -> int: ...
    @property
    def key(self) -> Hashable | None: ...

    def encode(self, prepared: SingleMessage, group: str, position: str) -> bytes:
        """Return the whole frame.

        Args:
            prepared: the message.
            group: name of the group that it was sent to; ``""`` for a message to one socket.
            position: its position among the group's messages if they are numbered, else ``""``.
        """


class SingleMessage:
    """A message for one socket.

    Args:
        opcode: TEXT or BINARY.
        payload: the message.
    """

    __slots__ = ("opcode", "payload")

    def __init__(self, opcode: int, payload: bytes) -> None:
        self.opcode = opcode
        self.payload = payload


class PreparedMessage(SingleMessage):
    """The frames of one message for many sockets.

    Args:
        opcode: TEXT or BINARY.
        payload: the message.
        group, position: see ``Framing.encode()``.

    Attributes:
        plain: the frame for sockets without a negotiated framing.
    """

    __slots__ = ("_forms", "group", "plain", "position")

    def __init__(self, opcode: int, payload: bytes, group: str = "", position: str = "") -> None:
        self.opcode = opcode
        self.payload = payload
        self.group = group
        self.position = position
        self.plain = encode(opcode, payload)
        self._forms: dict[Hashable, bytes] = {}

    def __len__(self) -> int:
        return len(self.payload)

    @property
    def message(self) -> str | bytes:
        """The message as a view gets it: ``str`` or ``bytes``."""
        return self.payload.decode() if self.opcode == TEXT else self.payload

    def form(self, framing: Framing) -> bytes:
        """Return the frame for one socket; sockets whose framings have equal keys share it."""
        key = framing.key
        if key is None:
            return framing.encode(self, self.group, self.position)
        frame = self._forms.get(key)
        if frame is None:
            frame = self._forms[key] = framing.encode(self, self.group, self.position)
        return frame
