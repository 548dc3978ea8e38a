"""A message for many sockets, encoded once for all sockets with the same framing."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Final, Protocol

from .frames import BINARY, TEXT, encode

__all__ = [
    "BARE",
    "CONTENT",
    "JSON",
    "KINDS",
    "OPCODE",
    "Framing",
    "PagedMessage",
    "PreparedMessage",
    "SingleMessage",
    "TracedMessage",
    "frames_of",
    "prepare",
]

#: Kinds of messages besides TEXT and BINARY: a text that is JSON, and a text that is HTML.
JSON: Final = 0x10 | TEXT
CONTENT: Final = 0x20 | TEXT
#: Kind of a text that is sent unchanged, without the additions of a subprotocol.
BARE: Final = 0x30 | TEXT

#: All kinds of messages.
KINDS: Final = frozenset({TEXT, JSON, CONTENT, BINARY})

#: The bits of a kind that are the opcode of its frame.
OPCODE: Final = 0x0F


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
        kind: TEXT, JSON, CONTENT, BARE or BINARY.
        payload: the message.
    """

    __slots__ = ("kind", "payload")

    #: The pages of the client, if it has several, that do not get the message.
    pages: Sequence[str] = ()

    def __init__(self, kind: int, payload: bytes) -> None:
        self.kind = kind
        self.payload = payload

    @property
    def opcode(self) -> int:
        """The opcode of the frame: TEXT or BINARY."""
        return self.kind & OPCODE


class PreparedMessage(SingleMessage):
    """The frames of one message for many sockets.

    Args:
        kind: TEXT, JSON, CONTENT, BARE or BINARY.
        payload: the message.
        group, position: see ``Framing.encode()``.

    Attributes:
        plain: the frame for sockets without a negotiated framing.
    """

    __slots__ = ("_forms", "group", "plain", "position")

    #: Trace context of the sender (W3C Trace Context, ``traceparent``); ``""`` if there is none.
    traceparent = ""

    def __init__(self, kind: int, payload: bytes, group: str = "", position: str = "") -> None:
        self.kind = kind
        self.payload = payload
        self.group = group
        self.position = position
        self.plain = encode(kind & OPCODE, payload)
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


class TracedMessage(PreparedMessage):
    """A message whose sender is traced.

    Args:
        kind, payload, group: see ``PreparedMessage``.
        traceparent: the trace context of the sender.
    """

    __slots__ = ("traceparent",)

    def __init__(self, kind: int, payload: bytes, group: str, traceparent: str) -> None:
        super().__init__(kind, payload, group)
        self.traceparent = traceparent


def prepare(kind: int, payload: bytes, group: str, traceparent: str) -> PreparedMessage:
    """Return a message with the trace context of its sender, which may be ``""``."""
    if traceparent:
        return TracedMessage(kind, payload, group, traceparent)
    return PreparedMessage(kind, payload, group)


def frames_of(messages: Iterable[PreparedMessage], framing: Framing) -> bytes:
    """Return the frames of several messages for one socket."""
    key, threshold = framing.key, framing.threshold
    # As form(), without a call for each message that is encoded already.
    return b"".join(
        [
            each.plain
            if len(each.payload) < threshold
            else each._forms.get(key) or each.form(framing)
            for each in messages
        ]
    )


class PagedMessage(PreparedMessage):
    """A message for one socket that some of the client's pages do not get.

    Args:
        message: the message.
        pages: the pages that do not get it.
    """

    __slots__ = ("pages", "source")

    def __init__(self, message: PreparedMessage, pages: Sequence[str]) -> None:
        super().__init__(message.kind, message.payload, message.group, message.position)
        self.source = message
        self.pages = pages

    @property
    def traceparent(self) -> str:  # type: ignore[override]
        """See ``PreparedMessage``."""
        return self.source.traceparent
