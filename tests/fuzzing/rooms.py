"""Groups of the plays: with and without a history; their members speak ``wsmux.v1`` or do not.

Elsewhere, ids are random, and clocks go on by themselves. Here they depend only on the play.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import django
from django.conf import settings

from django_wsmux.connection import client_ids, fanout
from django_wsmux.connection.framing import V1
from django_wsmux.connection.group_receive import intercept
from django_wsmux.connection.interfaces import DefaultHooks
from django_wsmux.groups import Group
from django_wsmux.groups.sequencer import sequencer
from django_wsmux.history import memory, stores
from django_wsmux.protocol import rate_limit, v1
from django_wsmux.protocol.handshake import V1 as SUBPROTOCOL

if TYPE_CHECKING:
    import random

    from django_wsmux.protocol.prepared import PreparedMessage
    from django_wsmux.websocket import WebSocket

__all__ = ["GroupHooks", "Rooms"]

#: Longer than the clock below differs from the real one.
_FOR_EVER: Final = 10**10

#: Many messages are kept, one, and none.
_HISTORY: Final = {
    "room.*": {"messages": 4, "seconds": _FOR_EVER},
    "price.*": {"messages": 1, "seconds": _FOR_EVER},
}
_NAMES: Final = ("room.a", "room.b", "price.c", "plain", "other")

#: Microseconds; any moment.
_START: Final = 10**15

settings.configure(
    SECRET_KEY="plays",
    INSTALLED_APPS=["django_wsmux"],
    WEBSOCKET_BACKEND="memory://",
    WEBSOCKET_HISTORY=_HISTORY,
    WEBSOCKET_HISTORY_LIMIT=4,
)
django.setup()


def _is_v1(websocket: WebSocket) -> bool:
    return type(websocket._framing) is V1


class GroupHooks(DefaultHooks):
    """The part of the framework that groups call; tells clients of ``wsmux.v1`` what it does.

    Args:
        note: adds a line to the transcript.
    """

    user_id = None

    def __init__(self, note: Callable[..., None]) -> None:
        self.note = note

    def group_joined(
        self,
        websocket: WebSocket,
        name: str,
        alias: str | None,
        position: str | None,
        recovered: bool | None,
    ) -> None:
        """Note a join."""
        self.note("joined", name, alias, position, recovered)
        if not websocket.connecting and _is_v1(websocket):
            if alias is not None:
                websocket.name_group(name, alias)
            if position != "":
                websocket.tell(v1.joined({websocket.name_of_group(name): (position, recovered)}))

    def group_renamed(
        self, websocket: WebSocket, name: str, alias: str, position: str | None
    ) -> None:
        """Note another alias."""
        self.note("renamed", name, alias, position)
        websocket.name_group(name, alias)

    def group_left(self, websocket: WebSocket, name: str) -> None:
        """Note that a socket has left."""
        self.note("left", name)
        if _is_v1(websocket):
            websocket.tell(v1.left([websocket.name_of_group(name)]))

    def group_gap(self, websocket: WebSocket, name: str, position: str) -> None:
        """Note that messages are missing."""
        self.note("gap", name, position)
        if _is_v1(websocket):
            websocket.tell(v1.gap({websocket.name_of_group(name): position}))

    def group_dropped(self, websocket: WebSocket, message: PreparedMessage) -> None:
        """Note that a slow socket did not get a message."""
        self.note("dropped", message.group, message.position)
        sequencer.note_dropped(websocket, message)

    def group_handled(self, websocket: WebSocket, message: PreparedMessage) -> None:
        """Note that an event view has handled a message."""
        self.note("handled", message.group, message.position)
        if _is_v1(websocket):
            websocket.tell(v1.mark(websocket.name_of_group(message.group), message.position))

    def leave(self, websocket: WebSocket) -> None:
        """Note that a socket leaves its groups."""
        self.note("leave")
        if _is_v1(websocket):
            client_ids.leave(websocket.client_id, websocket)


class Rooms:
    """The groups of a play, which start empty.

    Args:
        chance: decides what happens.
        note: adds a line to the transcript.
    """

    def __init__(self, chance: random.Random, note: Callable[..., None]) -> None:
        self._chance = chance
        self._note = note
        self._positions: list[tuple[str, str]] = []
        #: By the clock of the limit of messages.
        self.seconds = 0.0
        stores.reset()
        sequencer.reset()
        moments, ids = count(_START), count()
        replacements: Any = {
            "_now": lambda: next(moments),
            "secrets": SimpleNamespace(token_hex=lambda size: "0" * 2 * size),
        }
        vars(memory).update(replacements)
        vars(client_ids)["secrets"] = SimpleNamespace(token_urlsafe=lambda size: f"id{next(ids)}")
        vars(rate_limit)["time"] = SimpleNamespace(monotonic=lambda: self.seconds)
        # A slice without an end, or one for each member; see fanout.py.
        vars(fanout).update(
            _STEP=1,
            _SLICE=chance.choice((0.0, 0.0, 1000.0)),
            _FEW=chance.choice((0, 0, 2, 64)),
            _MOST=chance.choice((3, 30, 2**18, 2**18)),
        )

    def prepare(self, websocket: WebSocket) -> None:
        """Do what belongs to the handshake of a socket."""
        chance = self._chance
        if chance.random() < 0.3:
            websocket.subprotocol = SUBPROTOCOL
            websocket.use_v1()
        if chance.random() < 0.2:
            self.join(websocket)

    def intercept(self, websocket: WebSocket) -> None:
        """Let some event views see the messages of groups."""
        if self._chance.random() < 0.3:
            intercept(websocket)

    def join_some(self, websocket: WebSocket) -> None:
        """Let a socket join groups."""
        for _ in range(self._chance.choice((0, 1, 3))):
            self.join(websocket)

    def join(self, websocket: WebSocket) -> None:
        """Let a socket join a group, perhaps with the position of a client that returns."""
        chance = self._chance
        name, since = chance.choice(_NAMES), None
        if self._positions and chance.random() < 0.4:
            name, since = chance.choice(self._positions[-8:])
        alias = chance.choice((None, None, None, "alias"))
        self._note("join", name, since, Group(name).join(websocket, since=since, alias=alias))

    def leave(self, websocket: WebSocket) -> None:
        """Let a socket leave a group."""
        Group(self._chance.choice(_NAMES)).leave(websocket)

    def send(self, sender: WebSocket) -> None:
        """Send to a group, and note the position."""
        chance = self._chance
        group = Group(chance.choice(_NAMES))
        text = chance.choice(("", "é", "text ", "x")) * chance.choice((1, 1, 10, 3_000))
        way, exclude = chance.randrange(4), chance.choice(((), (), sender))
        if way == 0:
            group.send_json({"text": text}, exclude=exclude)
        elif way == 1:
            group.send(text.encode(), exclude=exclude)
        else:
            group.send(text, exclude=exclude)
        if group.has_history:
            self._positions.append((group.name, group.position()))

    def end_one(self) -> None:
        """Forget the messages of a group, or close its members."""
        group = Group(self._chance.choice(_NAMES))
        if self._chance.random() < 0.5:
            group.close(4100, "group")
        elif group.has_history:
            group.forget()
