"""A message of a group with its number, and the stream of a group in the store."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django.core.signals import setting_changed

from .. import conf
from ..history.patterns import keep_of
from ..history.store import Stream
from ..protocol.positions import Position
from ..protocol.prepared import PagedMessage, PreparedMessage
from .envelope import Envelope
from .members import Key, channel_of, full_name, name_of

__all__ = ["NumberedMessage", "is_of", "most_of", "numbered_of", "source_of", "stream_of"]


class NumberedMessage(PreparedMessage):
    """A message of a group with a history.

    Args:
        key: the group's key.
        where: the position of the message.
        envelope: the envelope that it came in.
        sent: when it was stored, in the clock of ``time.time()``.

    Attributes:
        offset: its offset.
        epoch: the epoch of its offset.
        excluded: the ids of the clients that do not get it.
        traceparent: see ``PreparedMessage``.
    """

    __slots__ = ("epoch", "excluded", "key", "offset", "sent", "traceparent")

    def __init__(self, key: Key, where: Position, envelope: Envelope, sent: float) -> None:
        super().__init__(
            envelope.kind, envelope.data, envelope.name, envelope.position or str(where)
        )
        self.key = key
        self.sent = sent
        self.epoch, self.offset = where
        if envelope.fields:
            self.excluded, self.traceparent = envelope.excluded, envelope.traceparent
        else:
            self.excluded, self.traceparent = (), ""


def source_of(message: PreparedMessage) -> NumberedMessage | None:
    """Return the numbered message that a frame was made from; ``None`` if it has no number."""
    source = message.source if isinstance(message, PagedMessage) else message
    return source if isinstance(source, NumberedMessage) else None


def numbered_of(key: Key, message: PreparedMessage) -> NumberedMessage | None:
    """Return the message that a frame was made from; ``None`` if it belongs to another group."""
    source = source_of(message)
    return source if source is not None and source.key == key else None


def is_of(key: Key, message: PreparedMessage) -> bool:
    """Return whether a frame was made from a numbered message of a group."""
    return numbered_of(key, message) is not None


@lru_cache(maxsize=1024)
def stream_of(key: Key) -> Stream | None:
    """Return the stream of a group; ``None`` if the group has no history."""
    keep = keep_of(name_of(key))
    return None if keep is None else Stream(full_name(key), keep, channel_of(key))


@lru_cache(maxsize=1024)
def most_of(key: Key) -> int:
    """Return how many messages of a group a client that returns may get."""
    stream = stream_of(key)
    most: int = conf.get("WEBSOCKET_HISTORY_LIMIT")
    return 1 if stream is None else min(stream.keep.messages, most)


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in ("WEBSOCKET_HISTORY", "WEBSOCKET_HISTORY_LIMIT"):
        stream_of.cache_clear()
        most_of.cache_clear()


setting_changed.connect(_forget, dispatch_uid="django_wsmux.groups.numbered")
