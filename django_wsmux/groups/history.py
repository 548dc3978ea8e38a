"""Reads the history of a group."""

from __future__ import annotations

from datetime import UTC, datetime

from django.core.exceptions import ImproperlyConfigured

from ..history.sequence import offset_in, position_of
from ..history.store import Entry, Stream
from ..protocol import positions
from ..protocol.positions import Position
from ..protocol.prepared import PreparedMessage
from . import envelope
from .members import Key, name_of
from .numbered import stream_of
from .results import History, Message
from .sequencer import sequencer

__all__ = ["forget", "history", "parse", "position", "require_stream"]


def require_stream(key: Key) -> Stream:
    """Return the stream of a group.

    Raises:
        ImproperlyConfigured: the group has no history.
    """
    stream = stream_of(key)
    if stream is None:
        raise ImproperlyConfigured(
            f"the group {name_of(key)!r} has no history: add a pattern that matches its name to "
            f'WEBSOCKET_HISTORY, such as {{"{name_of(key)}": {{"messages": 200, "seconds": 600}}}}'
        )
    return stream


def parse(since: str | None) -> Position | None:
    """Return a position from its text.

    Raises:
        ValueError: the text is not a position.
    """
    found = None if since is None else positions.parse(since)
    if since is not None and found is None:
        raise ValueError(f"{since!r} is not a position of a group")
    return found


def position(key: Key) -> str:
    """Return the position of a group's newest message; see ``Group.position()``."""
    return str(position_of(sequencer.store().read(require_stream(key))))


def history(key: Key, since: str | None, most: int | None) -> History:
    """Return the messages of a group; see ``Group.history()``."""
    stream = require_stream(key)
    wanted = parse(since)
    if most is not None and most < 1:
        raise ValueError(f"limit must be at least 1, not {most!r}")
    limit = stream.keep.messages if most is None else most
    reading = sequencer.store().read(stream, 0, limit, newest=True)
    start = 0 if wanted is None else offset_in(reading, wanted)
    entries = [entry for entry in reading.entries if start is None or entry.offset > start]
    messages = [_message(reading.epoch, entry) for entry in entries]
    is_complete = start is not None and len(entries) == reading.top - start
    return History(messages, str(position_of(reading)), is_complete)


def _message(epoch: str, entry: Entry) -> Message:
    found = envelope.unpack(entry.message)
    data = PreparedMessage(found.kind, found.data).message
    sent = datetime.fromtimestamp(entry.sent, UTC)
    return Message(str(Position(epoch, entry.offset)), data, sent)


def forget(key: Key) -> None:
    """Delete the messages of a group; see ``Group.forget()``."""
    require_stream(key)
    sequencer.forget(key)
