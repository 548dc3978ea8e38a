"""What one process tells the others about a group: the payload of a publication.

::

    opcode   1 byte     TEXT, BINARY or CLOSE
    count    1 byte     of the fields
    length   4 bytes    of the group's name, big-endian
    name                UTF-8
    fields              each: tag, 1 byte; length, 4 bytes; value
    data                the rest: a message, or the body of a close frame

A field that a process does not know is kept and otherwise ignored, so a later release can add one.
What changes in another way takes a new version of ``backends.packets``, which carries this.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = ["PREFIX", "Envelope", "UnreadableEnvelope", "pack", "unpack"]

#: Tag of the field that holds the prefix of a group's name: see ``WEBSOCKET_GROUP_PREFIX``.
PREFIX: Final = 1

_HEAD: Final = struct.Struct("!BBI")
_FIELD: Final = struct.Struct("!BI")

_NO_FIELDS: Final[Mapping[int, bytes]] = MappingProxyType({})

# Names of users' groups are made of primary keys, which may be any text: nothing is refused here.
_ERRORS: Final = "surrogatepass"


class Envelope(NamedTuple):
    """A publication for a group, taken apart.

    Attributes:
        opcode: TEXT or BINARY for a message, CLOSE to close the members.
        name: the group's name.
        data: the message, or the body of a close frame.
        fields: what else belongs to it, by tag.
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
    """It has been cut short, or is not text where text belongs."""


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
        prefix: of the group's name.
        fields: what else belongs to it, by tag, 255 of them at most. To pass an envelope on, hand
            in those that it came with, which include the prefix.
    """
    encoded = name.encode("utf-8", _ERRORS)
    if prefix:
        fields = {PREFIX: prefix.encode(), **fields}
    head = _HEAD.pack(opcode, len(fields), len(encoded)) + encoded
    for tag, value in fields.items():
        head += _FIELD.pack(tag, len(value)) + value
    return head + data


def unpack(payload: bytes) -> Envelope:
    """Take an envelope apart.

    Raises:
        UnreadableEnvelope: it is damaged.
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
            raise UnreadableEnvelope("it ends within its header")
        envelope = Envelope(opcode, name, payload[position:], fields)
        envelope.prefix  # noqa: B018  # it is text, too
    except (struct.error, UnicodeDecodeError) as error:
        raise UnreadableEnvelope(str(error)) from None
    return envelope
