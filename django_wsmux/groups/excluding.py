"""Excludes sockets of this process, clients, and pages of clients from a message to a group."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable
from typing import Any, Final

from ..connection import client_ids
from ..connection.websocket import WebSocket
from ..protocol.prepared import PagedMessage, PreparedMessage

__all__ = [
    "EXCLUDE_NONE",
    "Exclude",
    "exclusion",
    "is_id",
    "require_socket",
    "variant_for",
    "variants",
]

#: The argument ``exclude`` of ``Group.send()``.
Exclude = WebSocket | str | Container[WebSocket | str] | None

#: The default of that argument.
EXCLUDE_NONE: Final = ()

#: The most ids that one message can exclude.
_MOST: Final = 8

#: The id of a client, or of one of its pages. Ids are separated by spaces in an envelope.
_ID: Final = re.compile(r"[!-~]{1,100}")


def is_id(text: str) -> bool:
    """Return whether a text can be the id of a client, or of one of its pages."""
    return _ID.fullmatch(text) is not None


def exclusion(
    exclude: Exclude, *, by_id: bool
) -> tuple[Container[WebSocket | str], tuple[str, ...]]:
    """Return the sockets and the ids that do not get a message.

    Args:
        exclude: a socket, the id of a client or of a page, or several of them; ``None`` for none.
        by_id: whether a socket stands for its client.

    Raises:
        TypeError: ``exclude`` is something else.
        ValueError: there are too many ids, or one is not an id.
    """
    if exclude is EXCLUDE_NONE or exclude is None:
        return (), ()
    if isinstance(exclude, WebSocket):
        return ((), (exclude.client_id,)) if by_id else ((exclude,), ())
    several = (exclude,) if isinstance(exclude, str) else exclude
    if not hasattr(several, "__contains__"):
        require_socket(several)
    if not isinstance(several, Iterable):
        if by_id:
            raise TypeError(f"exclude={several!r}: a group with a history needs a list")
        return several, ()
    ids = tuple(
        each.client_id if isinstance(each, WebSocket) else each
        for each in several
        if by_id or isinstance(each, str)
    )
    for each in ids:
        if not isinstance(each, str):
            require_socket(each)
        if not is_id(each):
            raise ValueError(f"{each!r} is not the id of a client")
    if len(ids) > _MOST:
        raise ValueError(f"exclude has {len(ids)} clients: at most {_MOST} can be left out")
    return () if by_id else several, ids


def require_socket(value: object) -> None:
    """Raise unless a value is a socket.

    Raises:
        TypeError: the value is not a socket; the message says what to pass.
    """
    if not isinstance(value, WebSocket):
        has_one = isinstance(getattr(value, "websocket", None), WebSocket)
        advice = "pass its attribute websocket" if has_one else "pass the view's WebSocket"
        raise TypeError(f"{value!r} is not a WebSocket: {advice}")


def variants(message: PreparedMessage, ids: Collection[str]) -> dict[Any, PreparedMessage | None]:
    """Return the variants of a message for excluded clients of this process, by socket.

    ``None`` stands for nothing. A socket of which only some pages are excluded gets the message
    with the names of those pages.
    """
    found = {client_ids.find(each.partition(".")[0]) for each in ids}
    return {
        websocket: variant_for(message, ids, websocket)
        for websocket in found
        if websocket is not None
    }


def variant_for(
    message: PreparedMessage, ids: Collection[str], websocket: Any
) -> PreparedMessage | None:
    """Return the variant of a message for a socket: the message itself if it is not excluded.

    Args:
        message: the message.
        ids: the ids that the message excludes.
        websocket: the socket.
    """
    client_id = websocket.known_client_id if ids else None
    if client_id is None:
        return message
    if client_id in ids:
        return None
    own = f"{client_id}."
    pages = [each.removeprefix(own) for each in ids if each.startswith(own)]
    return PagedMessage(message, pages) if pages else message
