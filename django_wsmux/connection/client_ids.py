"""The public ids of sockets, by which other clients and processes name them.

A client of ``wsmux.v1`` brings its id back when it reconnects. Any other socket gets an id when it
is first asked for, so sockets that need none cost nothing.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from ..protocol.v1 import BROUGHT_KEY

__all__ = ["enter", "find", "known", "leave", "of"]

#: The key for ``Connection.on_close()``.
_KEY: Final = object()

# The sockets that have an id and are not closed, by id.
_sockets: Final[dict[str, Any]] = {}

# The ids of sockets other than those of wsmux.v1.
_ids: Final[WeakKeyDictionary[Any, str]] = WeakKeyDictionary()


def of(websocket: Any) -> str:
    """Return the id of a socket, which gets one if it has none."""
    client_id = _ids.get(websocket)
    if client_id is None:
        brought = websocket.environ.get(BROUGHT_KEY)
        client_id = brought.client_id if brought is not None else None
        if client_id is None or client_id in _sockets:
            client_id = secrets.token_urlsafe(12)
        _ids[websocket] = client_id
        if not websocket.closed:
            enter(client_id, websocket)
            websocket.on_close(_KEY, partial(leave, client_id, websocket))
    return client_id


def known(websocket: Any) -> str | None:
    """Return the id of a socket, without giving it one."""
    return _ids.get(websocket)


def find(client_id: str) -> Any:
    """Return the socket with an id, unless it is closed; ``None`` if this process has none."""
    return _sockets.get(client_id)


def enter(client_id: str, websocket: Any) -> None:
    """Make a socket known by its id."""
    _sockets[client_id] = websocket


def leave(client_id: str, websocket: Any) -> None:
    """Forget a socket, which has closed."""
    if _sockets.get(client_id) is websocket:
        del _sockets[client_id]
