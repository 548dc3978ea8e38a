"""The payload of a message for a group, as one process sends it to the others.

::

    opcode   1 byte     TEXT, BINARY or CLOSE
    count    1 byte     number of fields
    length   4 bytes    length of the group's name, big-endian
    name                UTF-8
    fields              each: tag, 1 byte; length, 4 bytes; value
    data                the rest: a message, or the body of a close frame

Unknown fields are kept and otherwise ignored, so a later release can add fields. Any other change
needs a new version of ``backends.packets``, which carries this payload.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = ["PREFIX", "Envelope", "UnreadableEnvelope", "pack", "unpack"]

#: Tag of the field with the prefix of a group's name; see ``WEBSOCKET_GROUP_PREFIX``.
PREFIX: Final = 1

_HEAD: Final = struct.Struct("!BBI")
_FIELD: Final = struct.Struct("!BI")

_NO_FIELDS: Final[Mapping[int, bytes]] = MappingProxyType({})

# Names of users' groups contain primary keys, which may be any text: refuse no name.
_ERRORS: Final = "surrogatepass"


class Envelope(NamedTuple):
    """A parsed message for a group.

    Attributes:
        opcode: TEXT or BINARY for a message, CLOSE to close the members.
        name: the group's name.
        data: the message, or the body of a close frame.
        fields: further fields, by tag.
    """

    opcode: int
    name: str
    data: bytes
    fields: Mapping[int, bytes] = _NO_FIELDS

    @property
    def prefix(self) -> str:
        """The prefix of the group's name; ``""`` for none."""
        prefix = self.fields.get(PREFIX)
        return "" if prefix is None else prefix.decode()


class UnreadableEnvelope(Exception):
    """The envelope is truncated, or a text is not valid UTF-8."""


def pack(
    opcode: int,
    name: str,
    data: bytes,
    prefix: str = "",
    fields: Mapping[int, bytes] = _NO_FIELDS,
) -> bytes:
    """Return an envelope as bytes.

    Args:
        opcode, name, data: see ``Envelope``.
        prefix: the prefix of the group's name.
        fields: other fields by tag, at most 255. To forward an envelope, pass the fields that it
            arrived with, which include the prefix.
    """
    encoded = name.encode("utf-8", _ERRORS)
    if prefix:
        fields = {PREFIX: prefix.encode(), **fields}
    head = _HEAD.pack(opcode, len(fields), len(encoded)) + encoded
    for tag, value in fields.items():
        head += _FIELD.pack(tag, len(value)) + value
    return head + data


def unpack(payload: bytes) -> Envelope:
    """Parse an envelope.

    Raises:
        UnreadableEnvelope: the envelope is damaged.
    """
    try:
        opcode, count, length = _HEAD.unpack_from(payload)
        position = _HEAD.size + length
        name = payload[_HEAD.size : position].decode("utf-8", _ERRORS)
        if not count:
            fields = _NO_FIELDS
        else:
            fields = found = {}
            for _ in range(count):
                tag, length = _FIELD.unpack_from(payload, position)
                begin = position + _FIELD.size
                position = begin + length
                found[tag] = payload[begin:position]
        if position > len(payload):
            raise UnreadableEnvelope("the envelope is truncated")
        envelope = Envelope(opcode, name, payload[position:], fields)
        envelope.prefix  # noqa: B018  # raises unless it is UTF-8
    except (struct.error, UnicodeDecodeError) as error:
        raise UnreadableEnvelope(str(error)) from None
    return envelope
