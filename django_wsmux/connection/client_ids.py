"""The public ids of sockets, which other clients and processes use to refer to them.

A client of ``wsmux.v1`` sends its id again when it reconnects. Any other socket gets an id at first
use, so sockets that need none cost nothing.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from ..protocol.v1 import BROUGHT_KEY, Brought

__all__ = ["disown", "find", "known", "leave", "of", "restore", "settle"]

#: The key for ``Connection.on_close()``.
_KEY: Final = object()

# The sockets that have an id and are not closed, by id.
_sockets: Final[dict[str, Any]] = {}

# The ids of sockets whose framing does not keep it.
_ids: Final[WeakKeyDictionary[Any, str]] = WeakKeyDictionary()


def of(websocket: Any) -> str:
    """Return the id of a socket; create one if it has none."""
    client_id = _ids.get(websocket)
    if client_id is None:
        client_id = _ids[websocket] = _choose(websocket)
        if not websocket.closed:
            _sockets[client_id] = websocket
            websocket.on_close(_KEY, partial(leave, client_id, websocket))
    return client_id


def settle(websocket: Any) -> str:
    """Return the id of a socket whose framing keeps it, and whose hooks call ``leave()``."""
    client_id = _ids.pop(websocket, None) or _choose(websocket)
    websocket.cancel_on_close(_KEY)
    _sockets[client_id] = websocket
    return client_id


def restore(client_id: str, websocket: Any, *, is_kept: bool) -> None:
    """Give a socket that comes from another process the id that it had there.

    Args:
        client_id: the id.
        websocket: the socket.
        is_kept: whether its framing keeps the id, and its hooks call ``leave()``.
    """
    _sockets[client_id] = websocket
    if not is_kept:
        _ids[websocket] = client_id
        websocket.on_close(_KEY, partial(leave, client_id, websocket))


def _choose(websocket: Any) -> str:
    """Return the id that the client sent, or a new one if another socket has that id."""
    client_id = _brought(websocket)
    if client_id is None or client_id in _sockets:
        client_id = secrets.token_urlsafe(12)
    return client_id


def _brought(websocket: Any) -> str | None:
    brought: Brought | None = websocket.environ.get(BROUGHT_KEY)
    return None if brought is None else brought.client_id


def known(websocket: Any) -> str | None:
    """Return the id of a socket, or the id that its client sent; ``None`` if there is neither."""
    client_id = _ids.get(websocket)
    if client_id is None and _brought(websocket) is not None:
        client_id = of(websocket)
    return client_id


def find(client_id: str) -> Any:
    """Return the socket with an id, unless it is closed; ``None`` if this process has none."""
    return _sockets.get(client_id)


def leave(client_id: str, websocket: Any) -> None:
    """Forget a socket, which has closed."""
    if _sockets.get(client_id) is websocket:
        del _sockets[client_id]


def disown() -> None:
    """Forget all sockets, in a forked child: they belong to the parent."""
    _sockets.clear()
