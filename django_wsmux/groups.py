"""Groups: tell everybody at once.

A message is encoded once and the same bytes go to every member, straight to its socket. In this
version a group reaches the sockets of its own process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from .protocol.frames import CloseCode, encode_message
from .protocol.prepared import Prepared
from .server.websocket import WebSocket

__all__ = ["Group"]

_NAME: Final = re.compile(r"[A-Za-z0-9_.:@-]{1,200}")

# Name to members in the order in which they joined. An empty group is forgotten.
_members: dict[str, dict[WebSocket, None]] = {}


class Group:
    """The sockets that joined under one name.

    A group need not be made or removed: it is there while it has members. A socket that closes
    leaves by itself.

    Args:
        name: 1 to 200 of ASCII letters, digits and ``_ . : @ -``.

    Raises:
        ValueError: the name is not like that.

    Example::

        @websocket
        def chat(request, websocket, room):
            group = Group(f"room.{room}")
            with group.joined(websocket):
                for message in websocket:
                    group.send(message)
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"group name {name!r}: use 1 to 200 of ASCII letters, digits and _ . : @ -"
            )
        self.name = name

    def __repr__(self) -> str:
        return f"<Group {self.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Group) and other.name == self.name

    def __hash__(self) -> int:
        return hash((Group, self.name))

    def join(self, websocket: WebSocket) -> None:
        """Add a socket; does nothing when it is a member already or is closed."""
        members = _members.get(self.name, {})
        if websocket in members or websocket.closed:
            return
        websocket.on_close(self, partial(_leave, self.name, websocket))
        _members.setdefault(self.name, members)[websocket] = None

    def leave(self, websocket: WebSocket) -> None:
        """Remove a socket; does nothing when it is not a member."""
        websocket.cancel_on_close(self)
        _leave(self.name, websocket)

    @contextmanager
    def joined(self, websocket: WebSocket) -> Iterator[None]:
        """Be a member for the length of a ``with`` block."""
        self.join(websocket)
        try:
            yield
        finally:
            self.leave(websocket)

    def send(self, message: str | bytes, *, exclude: WebSocket | Container[WebSocket] = ()) -> None:
        """Send one message to every member; waits for nobody.

        A member too slow to take it is closed with 1013; the others do not notice.

        Args:
            message: ``str`` goes out as text, ``bytes`` as binary.
            exclude: a socket, or several, not to send to: the sender, say.

        Raises:
            TypeError: the message is neither text nor bytes.
        """
        prepared = Prepared(*encode_message(message))
        excluded = (exclude,) if isinstance(exclude, WebSocket) else exclude
        for websocket in self.members():
            if websocket not in excluded:
                websocket.deliver(prepared)

    def send_json(
        self, value: Any, *, exclude: WebSocket | Container[WebSocket] = (), **options: Any
    ) -> None:
        """Send a value as JSON text to every member.

        Args:
            value: anything that ``json.dumps`` takes.
            exclude: see ``send()``.
            options: passed on to ``json.dumps``.
        """
        self.send(json.dumps(value, **options), exclude=exclude)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the sockets of all members; see ``WebSocket.close()``."""
        for websocket in self.members():
            websocket.close(code, reason)

    def count(self) -> int:
        """Return how many members there are."""
        return len(_members.get(self.name, ()))

    def members(self) -> list[WebSocket]:
        """Return the members in the order in which they joined."""
        return list(_members.get(self.name, ()))


def _leave(name: str, websocket: WebSocket) -> None:
    members = _members.get(name)
    if members is not None:
        members.pop(websocket, None)
        if not members:
            del _members[name]
