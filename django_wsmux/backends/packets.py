"""The packets between processes: a publication with its header.

::

    version  1 byte     3
    kind     1 byte     see Kind
    sender   16 bytes   random id of the sending process
    number   8 bytes    number of a publication, big-endian, else 0; see ``numbers``
    length   2 bytes    of the channel's name, big-endian
    channel             UTF-8
    payload             the rest

The version comes first, so that a process of an older or a newer release recognises packets that it
cannot read. Never use pickle: anyone who can write to the broker could then run code in every
worker.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

__all__ = [
    "MAX_CHANNEL",
    "VERSION",
    "Kind",
    "Packet",
    "UnreadablePacket",
    "pack",
    "split",
    "unpack",
]

#: The version that is written; only this version is read.
VERSION: Final = 3

#: Largest size of a channel's name in bytes: a group's name and its prefix, 200 characters each.
MAX_CHANNEL: Final = 2_048

_HEAD: Final = struct.Struct("!BB16sQH")


class Kind(IntEnum):
    """The purpose of a packet."""

    #: A publication.
    MESSAGE = 1
    #: A question that every process subscribed to the channel answers.
    QUESTION = 2
    #: The answer of one process.
    ANSWER = 3
    #: A note that the sender has dropped packets for this receiver.
    GAP = 4
    #: A publication by a store in the broker. Its sender receives it, too, because the store's
    #: reply may have been lost.
    STORED = 5
    #: A mark for one process among the publications that it receives; see ``numbers``.
    MARK = 6


class Packet(NamedTuple):
    """A parsed packet."""

    kind: int
    sender: bytes
    channel: str
    payload: bytes
    number: int = 0


class UnreadablePacket(Exception):
    """A packet of another version, or bytes that are not a packet."""


def pack(kind: int, sender: bytes, channel: str, payload: bytes, number: int = 0) -> bytes:
    """Return a packet as bytes.

    Args:
        kind, channel, payload: see ``Packet``.
        sender: the id of the sending process.
        number: the number of a publication.

    Raises:
        ValueError: the channel's name is too long.
    """
    name = channel.encode()
    if len(name) > MAX_CHANNEL:
        raise ValueError(f"a channel's name has at most {MAX_CHANNEL} bytes, not {len(name)}")
    return _HEAD.pack(VERSION, kind, sender, number, len(name)) + name + payload


def unpack(data: bytes) -> Packet:
    """Parse a packet.

    Raises:
        UnreadablePacket: it has another version or is truncated.
    """
    if not data or data[0] != VERSION:
        version = data[0] if data else "none"
        raise UnreadablePacket(f"version {version}; this release reads version {VERSION}")
    try:
        _, kind, sender, number, length = _HEAD.unpack_from(data)
        end = _HEAD.size + length
        if end > len(data):
            raise UnreadablePacket("it ends within its header")
        # As Packet(...), without a call of its ``__new__()`` for each packet.
        return tuple.__new__(
            Packet, (kind, sender, data[_HEAD.size : end].decode(), data[end:], number)
        )
    except (struct.error, UnicodeDecodeError) as error:
        raise UnreadablePacket(str(error)) from None


def split(data: bytes) -> tuple[bytes, bytes]:
    """Return the header of a packet, including the channel, and its payload."""
    end = _HEAD.size + int.from_bytes(data[_HEAD.size - 2 : _HEAD.size], "big")
    return data[:end], data[end:]
