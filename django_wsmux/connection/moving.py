"""What a socket takes along when it moves to another process, beside its bytes and its groups."""

from __future__ import annotations

from typing import Any, Final
from weakref import WeakKeyDictionary

from ..protocol.events import CannotMove
from ..protocol.v1 import BROUGHT_KEY, Brought
from . import tracing
from .inbox import Traffic

__all__ = ["earlier", "pack", "require_movable", "unpack"]

#: The traffic of moved sockets in the processes that had them before. The processes' own counters
#: do not contain it.
earlier: Final[WeakKeyDictionary[Any, Traffic]] = WeakKeyDictionary()


def require_movable(websocket: Any) -> None:
    """Raise if a socket uses something that stays in this process.

    Raises:
        CannotMove: a helper of ``spawn()`` runs.
    """
    if websocket.close_keys(callable):
        raise CannotMove("a helper of spawn() runs", is_final=True)


def pack(websocket: Any) -> dict[str, Any]:
    """Return what the socket takes along, as values of JSON.

    Raises:
        CannotMove: see ``require_movable()``.
    """
    require_movable(websocket)
    brought: Brought | None = websocket.environ.get(BROUGHT_KEY)
    traced = None if tracing.tracer is None else tracing.tracer.state(websocket)
    return {
        **({"traced": traced} if traced else {}),
        "subprotocol": websocket.subprotocol,
        "client": websocket.known_client_id,
        "aliases": websocket.aliases,
        "brought": None if brought is None else brought.state(),
        "expires_at": websocket.expires_at,
        "latency": websocket.latency,
        "traffic": list(websocket.traffic),
    }


def unpack(websocket: Any, state: dict[str, Any]) -> None:
    """Give a new socket what another one took along, after the state of its codec is restored.

    Args:
        websocket: the socket, which is not open yet.
        state: the result of ``pack()``.
    """
    websocket.subprotocol = state["subprotocol"]
    websocket.latency = state["latency"]
    earlier[websocket] = Traffic(*state["traffic"])
    if state["brought"] is not None:
        websocket.environ[BROUGHT_KEY] = Brought.restored(state["brought"])
    websocket.restore_client(state["client"], state["aliases"])
    if state["expires_at"] is not None:
        websocket.expires_at = state["expires_at"]
    if tracing.tracer is not None and "traced" in state:
        tracing.tracer.restore(websocket, state["traced"])
