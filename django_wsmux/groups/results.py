"""The results of the methods of a group."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

__all__ = ["NOT_ASKED", "History", "Message", "Present", "Recovery"]


class Recovery(NamedTuple):
    """The result of joining a group.

    Attributes:
        recovered: True if the client now gets every message after the last one that it has; False
            if messages are missing (a gap); ``None`` if it sent no position, or if the store cannot
            be read yet: then the client is told later.
        replayed: how many messages are replayed.

    Example::

        recovery = Group("room.lobby").join(self.websocket)
        if recovery.recovered is False:
            self.send_json({"type": "reload"})
    """

    recovered: bool | None
    replayed: int = 0


#: The result for a client that sent no position.
NOT_ASKED: Final = Recovery(None)


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message.

    Attributes:
        position: epoch and offset, as clients see them.
        data: ``str`` for text, ``bytes`` for binary.
        sent: when it was stored, with a time zone, by the clock of the store.
    """

    position: str
    data: str | bytes
    sent: datetime


@dataclass(frozen=True, slots=True)
class History:
    """The stored messages of a group.

    Attributes:
        messages: the messages, the oldest first.
        position: the position of the newest message of the group.
        complete: whether ``messages`` contains all messages after ``since``, or, without ``since``,
            all messages of the group's epoch.
    """

    messages: list[Message]
    position: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Present:
    """Someone who is present in a group.

    Attributes:
        key: the argument ``key`` of ``presence()``, as a string.
        info: its argument ``info``; of several sockets with this key, that of the last call.
        since: when the first of them was entered, with a time zone, by the clock of the store.
    """

    key: str
    info: Any
    since: datetime
