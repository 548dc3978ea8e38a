"""A message that goes to many: encoded once for all who agreed on the same."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

from .frames import TEXT, encode

__all__ = ["Framing", "PreparedMessage"]


class Framing(Protocol):
    """How a message becomes the bytes that one peer gets, as agreed at its handshake.

    Attributes:
        threshold: messages of fewer bytes go out as plain frames.
        key: framings with equal keys make the same bytes of a message, once for all of them;
            ``None`` for one that depends on what it made before, so its peer shares with no other.
    """

    @property
    def threshold(self) -> int: ...
    @property
    def key(self) -> Hashable | None: ...

    def encode(self, prepared: PreparedMessage, group: str, position: str) -> bytes:
        """Return the whole frame.

        Args:
            prepared: the message.
            group: name of the group that it was sent to; ``""`` for a message to one socket.
            position: where it stands among the group's messages, if they are numbered, else ``""``.
        """


class PreparedMessage:
    """The frames of one message.

    Args:
        opcode: TEXT or BINARY.
        payload: the message.
        group, position: see ``Framing.encode()``.

    Attributes:
        plain: the frame for those who agreed on nothing.
    """

    __slots__ = ("_forms", "group", "opcode", "payload", "plain", "position")

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
        """The message as a view knows it."""
        return self.payload.decode() if self.opcode == TEXT else self.payload

    def form(self, framing: Framing) -> bytes:
        """Return the frame for one connection; those whose framings have equal keys share it."""
        key = framing.key
        if key is None:
            return framing.encode(self, self.group, self.position)
        frame = self._forms.get(key)
        if frame is None:
            frame = self._forms[key] = framing.encode(self, self.group, self.position)
        return frame
