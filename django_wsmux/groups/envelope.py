"""The payload of a message for a group, as one process sends it to the others.

::

    kind     1 byte     TEXT, JSON, CONTENT, BINARY, CLOSE, REMOVE or PRESENCE
    count    1 byte     number of fields
    length   4 bytes    length of the group's name, big-endian
    name                UTF-8
    fields              each: tag, 1 byte; length, 4 bytes; value
    data                the rest: a message, the body of a close frame, a user's primary key, or
                        a version

The envelope of a numbered message follows its position::

    NUMBERED 1 byte
    length   1 byte     length of the position
    position            ASCII: epoch, "-", offset
    envelope            as above

Unknown fields are kept and otherwise ignored, so a later release can add fields. Any other change
needs a new version of ``backends.packets``, which carries this payload.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from ..protocol.positions import NUMBERED

__all__ = [
    "BEFORE",
    "ERRORS",
    "EXCLUDED",
    "FORGET",
    "NO_FIELDS",
    "NUMBERED",
    "PREFIX",
    "PRESENCE",
    "REMOVE",
    "TRACEPARENT",
    "Envelope",
    "UnreadableEnvelope",
    "before",
    "excluding",
    "numbered",
    "pack",
    "traced",
    "unpack",
]

_NUMBERED: Final = bytes((NUMBERED,))

#: Kind of an envelope without data: the group was forgotten, and its epoch is new.
FORGET: Final = 0x80

#: Kind of an envelope that removes the sockets of a user from a group. Its data is the primary key.
REMOVE: Final = 0x81

#: Kind of an envelope about a new version of who is present in a group. Its data is the version.
PRESENCE: Final = 0x82

#: Tag of the field with the prefix of a group's name; see ``WEBSOCKET_GROUP_PREFIX``.
PREFIX: Final = 1
#: Tag of the field with the ids of the clients that do not get the message, separated by spaces.
EXCLUDED: Final = 2
#: Tag of a field of CLOSE: only sockets that were opened before this moment are closed, in seconds
#: since 1970 as text.
BEFORE: Final = 4
#: Tag of the field with the trace context of the sender (W3C Trace Context, ``traceparent``).
TRACEPARENT: Final = 3

_HEAD: Final = struct.Struct("!BBI")
_FIELD: Final = struct.Struct("!BI")

#: No fields.
NO_FIELDS: Final[Mapping[int, bytes]] = MappingProxyType({})

#: For encoding the names of users' groups, which contain primary keys. These may be any text.
ERRORS: Final = "surrogatepass"


class Envelope(NamedTuple):
    """A parsed message for a group.

    Attributes:
        kind: kind of a message (``protocol.prepared``), CLOSE to close the members, REMOVE to
            remove those of a user, or FORGET.
        name: the group's name.
        data: the message, the body of a close frame, or the primary key of a user.
        fields: further fields, by tag.
        position: epoch and offset of a numbered message, else ``""``.
    """

    kind: int
    name: str
    data: bytes
    fields: Mapping[int, bytes] = NO_FIELDS
    position: str = ""

    @property
    def prefix(self) -> str:
        """The prefix of the group's name; ``""`` for none."""
        prefix = self.fields.get(PREFIX)
        return "" if prefix is None else prefix.decode()

    @property
    def excluded(self) -> tuple[str, ...]:
        """The ids of clients and pages that do not get the message."""
        ids = self.fields.get(EXCLUDED)
        return () if ids is None else tuple(ids.decode(errors="replace").split())

    @property
    def moment(self) -> float | None:
        """Close only sockets that were opened before this moment; ``None`` for all."""
        moment = self.fields.get(BEFORE)
        return None if moment is None else float(moment)

    @property
    def traceparent(self) -> str:
        """The trace context of the sender; ``""`` if there is none."""
        traceparent = self.fields.get(TRACEPARENT)
        return "" if traceparent is None else traceparent.decode("ascii", "replace")


class UnreadableEnvelope(Exception):
    """The envelope is truncated, or a text is not valid UTF-8."""


def before(moment: float) -> dict[int, bytes]:
    """Return the fields of a request to close sockets that were opened before a moment."""
    return {BEFORE: str(moment).encode()}


def excluding(ids: Collection[str]) -> Mapping[int, bytes]:
    """Return the fields of a message that some clients or pages do not get."""
    return {EXCLUDED: " ".join(ids).encode()} if ids else NO_FIELDS


def traced(fields: Mapping[int, bytes], traceparent: str) -> Mapping[int, bytes]:
    """Return fields with the trace context of the sender."""
    return {**fields, TRACEPARENT: traceparent.encode()}


def numbered(position: str, payload: bytes) -> bytes:
    """Return the envelope of a numbered message.

    Args:
        position: epoch and offset.
        payload: the envelope without its number.
    """
    return bytes((NUMBERED, len(position))) + position.encode() + payload


def pack(
    kind: int,
    name: str,
    data: bytes,
    prefix: str = "",
    fields: Mapping[int, bytes] = NO_FIELDS,
) -> bytes:
    """Return an envelope as bytes.

    Args:
        kind, name, data: see ``Envelope``.
        prefix: the prefix of the group's name.
        fields: other fields by tag, at most 255. To forward an envelope, pass the fields that it
            arrived with, which include the prefix.
    """
    encoded = name.encode("utf-8", ERRORS)
    if prefix:
        fields = {PREFIX: prefix.encode(), **fields}
    head = _HEAD.pack(kind, len(fields), len(encoded)) + encoded
    for tag, value in fields.items():
        head += _FIELD.pack(tag, len(value)) + value
    return head + data


def unpack(payload: bytes) -> Envelope:
    """Parse an envelope.

    Raises:
        UnreadableEnvelope: the envelope is damaged.
    """
    where = ""
    try:
        if payload[:1] == _NUMBERED:
            begin = 2 + payload[1]
            where, payload = payload[2:begin].decode("ascii"), payload[begin:]
        kind, count, length = _HEAD.unpack_from(payload)
        position = _HEAD.size + length
        name = payload[_HEAD.size : position].decode("utf-8", ERRORS)
        if not count:
            fields = NO_FIELDS
        else:
            fields = found = {}
            for _ in range(count):
                tag, length = _FIELD.unpack_from(payload, position)
                begin = position + _FIELD.size
                position = begin + length
                found[tag] = payload[begin:position]
        if position > len(payload):
            raise UnreadableEnvelope("the envelope is truncated")
        envelope = Envelope(kind, name, payload[position:], fields, where)
        if count:
            envelope.prefix  # noqa: B018  # raises unless it is UTF-8
            envelope.moment  # noqa: B018  # raises unless it is a number
    except (IndexError, struct.error, ValueError) as error:
        raise UnreadableEnvelope(str(error)) from None
    return envelope
