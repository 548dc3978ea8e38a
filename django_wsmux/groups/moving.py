"""Moves the memberships of open sockets to another process: nothing is lost, nothing is doubled.

The process that gives sockets away calls, in this order, ``request()``, ``wait_for()``, and then in
one step of the hub ``memberships()`` for each socket and ``cut()`` after all have left. The process
that takes them calls ``listen()``, and once it owns them ``rejoin()`` for each and ``replay()`` for
all. A process that takes its own sockets back calls ``rejoin()`` and ``replay()``, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..protocol.events import CannotMove
from .members import Key, name_of, prefix_of
from .pubsub import channel_of, members, pubsub

if TYPE_CHECKING:
    from ..connection.connection import Connection

__all__ = [
    "cut",
    "end",
    "listen",
    "memberships",
    "people",
    "rejoin",
    "replay",
    "request",
    "wait_for",
]


def request(websockets: Collection[Connection]) -> dict[str, Any]:
    """Return what ``listen()`` needs to know in the process that takes sockets; never waits.

    Args:
        websockets: the sockets that are to move.

    Returns:
        Values of JSON.
    """
    channels = {channel_of(key) for each in websockets for key in _keys(each)}
    return {"channels": sorted(channels)}


def listen(request: Mapping[str, Any]) -> dict[str, Any]:
    """Receive the messages of groups whose members are to come; may wait for some seconds.

    Args:
        request: the result of ``request()`` in the process that gives the sockets.

    Returns:
        Values of JSON, for ``wait_for()`` there.
    """
    return {}


def wait_for(answer: Mapping[str, Any], seconds: float) -> bool:
    """Wait until each message that reaches this process from now on reaches the other one, too.

    Args:
        answer: the result of ``listen()`` in the process that takes the sockets.
        seconds: how long to wait at most.

    Returns:
        False if the sockets may miss messages when they move: pass it on to ``replay()``.
    """
    return True


def cut() -> dict[str, Any]:
    """Return which messages have reached the sockets here that have just left; never waits.

    Nothing may switch between ``memberships()`` of these sockets and this call. From now on this
    process keeps the messages of their groups, until ``end()``, to be able to take them back.

    Returns:
        Values of JSON, for ``replay()``.
    """
    return {}


def memberships(websocket: Connection) -> dict[str, Any]:
    """Return the groups of a socket; never waits, and changes nothing.

    Args:
        websocket: the socket, which is about to be detached in the same step of the hub.

    Returns:
        Values of JSON, for ``rejoin()`` and ``people()``.

    Raises:
        CannotMove: the socket is joining a group.
    """
    if websocket.is_held:
        raise CannotMove("messages of its groups are held back")
    own = [key for key in _own_keys(websocket) if members.has(key, websocket)]
    return {
        "people": [_pack(key) for key in own],
        "groups": [[*_pack(key), members.info(key, websocket)] for key in _joined_keys(websocket)],
    }


def people(memberships: Mapping[str, Any]) -> tuple[Key, ...]:
    """Return the keys of the groups of user and session, for ``DjangoHooks.groups``.

    Args:
        memberships: the result of ``memberships()``.
    """
    return tuple(_unpack(*each) for each in memberships["people"])


def rejoin(websocket: Connection, memberships: Mapping[str, Any]) -> None:
    """Join the groups that a socket had in another process; may wait for the store.

    The socket must not be open yet, so that messages are held back. The client notices nothing,
    unless messages of a group with a history are lost. ``DjangoHooks.groups`` must be set before.

    Args:
        websocket: the socket.
        memberships: the result of ``memberships()``.

    Raises:
        BackendUnavailable: this process can never receive from others. The socket is in some of
            the groups; closing it leaves them.
    """
    pubsub.add_all(people(memberships), websocket)
    for prefix, name, info in memberships["groups"]:
        key = _unpack(prefix, name)
        websocket.on_close(key, partial(pubsub.discard, key, websocket))
        pubsub.add(key, websocket, info)


def replay(cut: Mapping[str, Any], is_complete: bool, websockets: Collection[Connection]) -> None:
    """Pass on the messages and closes that the sockets of a batch have missed; never waits.

    Call it after ``rejoin()`` and before the sockets open.

    Args:
        cut: the result of ``cut()`` in the process that gave the sockets.
        is_complete: the result of ``wait_for()`` there.
        websockets: the sockets, which are in their groups here.
    """


def end(request: Mapping[str, Any] | None = None) -> None:
    """Forget the kept messages: no more sockets come, or go.

    Args:
        request: what was passed to ``listen()``, in the process that took the sockets; ``None`` in
            the one that gave them.
    """


def _own_keys(websocket: Connection) -> tuple[Key, ...]:
    """Return the keys of the groups of user and session."""
    keys: tuple[Key, ...] = getattr(websocket.hooks, "groups", ())
    return keys


def _joined_keys(websocket: Connection) -> list[Key]:
    """Return the keys of the groups that the view has joined."""
    found = websocket.close_keys(lambda key: isinstance(key, (str, tuple)))
    return [key for key in found if members.has(key, websocket)]


def _keys(websocket: Connection) -> list[Key]:
    return [*_own_keys(websocket), *_joined_keys(websocket)]


def _pack(key: Key) -> list[str]:
    return [prefix_of(key), name_of(key)]


def _unpack(prefix: str, name: str) -> Key:
    return (prefix, name) if prefix else name
