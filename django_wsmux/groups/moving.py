"""Moves the memberships of open sockets to another process: nothing is lost, nothing is doubled.

The process that gives sockets away calls, in this order, ``request()``, ``wait_for()``, and then in
one step of the hub ``memberships()`` for each socket and ``cut()`` after all have left. The process
that takes them calls ``listen()``, and once it owns them ``rejoin()`` for each and ``replay()`` for
all. A process that takes its own sockets back calls ``rejoin()`` and ``replay()``, too.
"""

from __future__ import annotations

import _thread
import contextlib
import time
from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from .. import conf
from ..connection.counters import counters
from ..connection.guard import notify
from ..exceptions import BackendUnavailable
from ..logs import get_logger
from ..protocol import positions
from ..protocol.frames import CLOSE
from ..protocol.prepared import KINDS, PagedMessage, PreparedMessage, prepare
from ..signals import backend_gap
from . import clients, envelope, presence_hooks
from .envelope import ERRORS, REMOVE
from .excluding import variant_for
from .members import PEOPLE, Key, channel_of, full_name, key_of_full_name
from .pubsub import code_and_reason, connection_group, members, pubsub
from .ring import Ring, read_table, table_as_json

if TYPE_CHECKING:
    from ..connection.connection import Connection

logger = get_logger("django_wsmux.groups")

#: Seconds to wait for the answers of other processes.
_PATIENCE: Final = 1.0

#: Seconds for which late publications are expected after the last socket has come.
_GRACE: Final = 10.0

# The publications since sockets move, and those for whom: the processes that give sockets to this
# one, and this one ("") if it gives away its own.
_ring: Ring | None = None
_users: Final[set[str]] = set()

# Messages that a socket has brought from another process, until ``replay()``.
_brought: Final[WeakKeyDictionary[Connection, list[PreparedMessage]]] = WeakKeyDictionary()

__all__ = [
    "channels_of",
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
    channels = {PEOPLE}.union(*map(channels_of, websockets))
    backend = pubsub.backend()
    pubsub.note_awaited(channels)
    process = "" if backend is None else backend.process().hex()
    return {"channels": sorted(channels), "process": process}


def channels_of(websocket: Connection) -> set[str]:
    """Return the channels of the groups of a socket."""
    return {channel_of(key) for key in _keys(websocket)}


def listen(request: Mapping[str, Any]) -> dict[str, Any]:
    """Receive the messages of groups whose members are to come; may wait for some seconds.

    Args:
        request: the result of ``request()`` in the process that gives the sockets.

    Returns:
        Values of JSON, for ``wait_for()`` there.
    """
    backend = pubsub.backend()
    if backend is None:
        return {"is_alone": True}
    process = request["process"]
    _users.add(process)
    # This starts the backend, in a process that has not served anything yet.
    pubsub.serve()
    _start()
    # Without an answer the sockets come nevertheless; see ``replay()``.
    with contextlib.suppress(BackendUnavailable, OSError):
        if pubsub.await_members(request["channels"]):
            return backend.mark(bytes.fromhex(process), _PATIENCE)
    return {}


def wait_for(answer: Mapping[str, Any], seconds: float) -> bool:
    """Wait until each message that reaches this process from now on reaches the other one, too.

    Args:
        answer: the result of ``listen()`` in the process that takes the sockets.
        seconds: how long to wait at most.

    Returns:
        False if the sockets may miss messages when they move: pass it on to ``replay()``.
    """
    backend = pubsub.backend()
    return backend is None or backend.await_mark(answer, seconds)


def cut() -> dict[str, Any]:
    """Return which messages have reached the sockets here that have just left; never waits.

    Nothing may switch between ``memberships()`` of these sockets and this call. From now on this
    process keeps the messages of their groups, until ``end()``, to be able to take them back.

    Returns:
        Values of JSON, for ``replay()``.
    """
    backend = pubsub.backend()
    if backend is None:
        return {}
    _users.add("")
    _start()
    return table_as_json(backend.numbers.table())


def memberships(websocket: Connection) -> dict[str, Any]:
    """Return the groups of a socket; never waits, and changes nothing.

    Args:
        websocket: the socket, which is about to be detached in the same step of the hub.

    Returns:
        Values of JSON, for ``rejoin()`` and ``people()``.

    Raises:
        CannotMove: the socket is joining a group, is being entered as present, or is to close.
    """
    held = websocket.held_messages()
    own = [key for key in _own_keys(websocket) if members.has(key, websocket)]
    return {
        "people": [[full_name(key), _place(key, websocket, held)] for key in own],
        "groups": [
            [full_name(key), _place(key, websocket, held), members.info(key, websocket)]
            for key in _joined_keys(websocket)
        ],
        # The others are replayed.
        "held": [_pack_message(each) for each in held if not each.position],
        "presence": _presence(websocket),
    }


def _presence(websocket: Connection) -> list[list[Any]]:
    """Return the groups in which a socket is present or watches, as JSON."""
    hooks = presence_hooks.installed
    if hooks is None:
        return []
    states = ((key, hooks.state_of(key, websocket)) for key in _keys(websocket))
    return [[full_name(key), state] for key, state in states if state is not None]


def people(memberships: Mapping[str, Any]) -> tuple[Key, ...]:
    """Return the keys of the groups of user and session, for ``DjangoHooks.groups``.

    Args:
        memberships: the result of ``memberships()``.
    """
    return tuple(key_of_full_name(name) for name, _ in memberships["people"])


def rejoin(websocket: Connection, memberships: Mapping[str, Any]) -> None:
    """Join the groups that a socket had in another process; may wait for the store.

    The socket must be held. The client notices nothing, unless messages of a group with a history
    are lost. ``DjangoHooks.groups`` and the id of the client must be set before.

    Args:
        websocket: the socket.
        memberships: the result of ``memberships()``.

    Raises:
        BackendUnavailable: this process can never receive from others. The socket is in some of
            the groups; closing it leaves them.
    """
    for name, place in memberships["people"]:
        _join(key_of_full_name(name), websocket, None, place)
    for name, place, info in memberships["groups"]:
        key = key_of_full_name(name)
        websocket.on_close(key, partial(pubsub.discard, key, websocket))
        _join(key, websocket, info, place)
    if memberships.get("presence"):  # an earlier release sends none
        from .presence import presence

        for name, state in memberships["presence"]:
            presence.restore(key_of_full_name(name), websocket, state)
    if memberships["held"]:
        _brought[websocket] = [_unpack_message(*each) for each in memberships["held"]]


def replay(cut: Mapping[str, Any], is_complete: bool, websockets: Collection[Connection]) -> None:
    """Pass on the messages and closes that the sockets of a batch have missed; never waits.

    Call it after ``rejoin()``, while the sockets are held.

    Args:
        cut: the result of ``cut()`` in the process that gave the sockets.
        is_complete: the result of ``wait_for()`` there.
        websockets: the sockets, which are in their groups here.
    """
    ring = _ring
    table = read_table(cut)
    is_complete = is_complete and (ring is None or ring.is_complete(table))
    keys = {websocket: _keys(websocket) for websocket in websockets}
    found = _Missed(keys)
    for each in () if ring is None else ring.all():
        is_new = each.follows(table)
        if (is_new or not is_complete) and each.channel in found.channels:
            found.add(each.payload, is_new=is_new)
    for websocket, messages in found.messages.items():
        websocket.replay([*_brought.pop(websocket, ()), *messages], _has_no_position)
    if ring is not None:
        ring.note_arrivals(table, websockets)
    if not is_complete:
        _tell_of_gap([each for each in websockets if any(map(_is_plain, keys[each]))])


def end(request: Mapping[str, Any] | None = None) -> None:
    """Forget the kept messages: no more sockets come, or go.

    Args:
        request: what was passed to ``listen()``, in the process that took the sockets; ``None`` in
            the one that gave them.
    """
    _users.discard("" if request is None else request["process"])
    if not _users and _ring is not None:
        # What others have sent may still be under way, to be left out.
        _thread.start_new_thread(_end_later, (_ring,))


def _end_later(ring: Ring) -> None:
    time.sleep(_GRACE)
    if _ring is ring and not _users:
        _drop()


def _start() -> None:
    """Keep publications from now on, if that has not begun."""
    global _ring
    backend = pubsub.backend()
    if _ring is None and backend is not None:
        _ring = Ring(backend, pubsub)


def _drop() -> None:
    global _ring
    if _ring is not None:
        _ring.close()
        _ring = None
    pubsub.forget_awaited()


class _Missed:
    """What sockets have missed.

    Args:
        keys: the groups of each socket.

    Attributes:
        channels: the channels of the groups.
        messages: the messages, by socket.
    """

    def __init__(self, keys: Mapping[Any, Collection[Key]]) -> None:
        self.messages: dict[Connection, list[PreparedMessage]] = {each: [] for each in keys}
        self._members: dict[Key, list[Connection]] = {}
        for websocket, groups in keys.items():
            for key in groups:
                self._members.setdefault(key, []).append(websocket)
            if websocket.known_client_id is not None:
                self._members[connection_group(websocket.known_client_id)] = [websocket]
        self.channels = {PEOPLE, *map(channel_of, self._members)}

    def add(self, payload: bytes, *, is_new: bool) -> None:
        """Add a publication, close sockets, or remove them from a group.

        Args:
            payload: its envelope.
            is_new: whether the sockets have not got it. Closes and removals are repeated in case of
                doubt.
        """
        try:
            found = envelope.unpack(payload)
        except envelope.UnreadableEnvelope:
            return  # counted when it arrived
        key = (found.prefix, found.name) if found.prefix else found.name
        if found.kind == CLOSE and found.moment is not None:
            for websocket in self.messages:
                if clients.is_client(websocket, found.name):
                    clients.close_if_older(websocket, found.moment)
        elif found.kind == CLOSE:
            for websocket in self._members.get(key, ()):
                websocket.close_after_replay(*code_and_reason(found.data))
        elif found.kind == REMOVE:
            for websocket in list(self._members.get(key, ())):
                if websocket.hooks.user_id == found.data.decode(errors=ERRORS):
                    self._members[key].remove(websocket)
                    pubsub.leave(key, websocket)
        elif found.kind in KINDS and is_new and key in self._members and _is_plain(key):
            message = prepare(found.kind, found.data, found.name, found.traceparent)
            for websocket in self._members[key]:
                own = variant_for(message, found.excluded, websocket)
                if own is not None:
                    self.messages[websocket].append(own)


def _tell_of_gap(websockets: Collection[Connection]) -> None:
    """Tell the project that sockets may have missed messages of groups without a history."""
    if not websockets:
        return
    counters["moved_with_gap"] += len(websockets)
    logger.warning(
        "%d sockets from another process may have missed messages of groups", len(websockets)
    )
    backend = type(pubsub.backend())
    notify(
        backend_gap, backend, reason="sockets came from another process", seconds=0.0, missed=None
    )


def _has_no_position(message: PreparedMessage) -> bool:
    return not message.position


def _is_plain(key: Key) -> bool:
    """Return whether a group has no history."""
    if not conf.has_history():
        return True
    from .numbered import stream_of

    return stream_of(key) is None


def _place(key: Key, websocket: Connection, held: Sequence[PreparedMessage]) -> list[Any] | None:
    """Return where a socket is in a group with a history, as JSON; ``None`` without a history."""
    if _is_plain(key):
        return None
    from .joining import place_of

    place = place_of(key, websocket, held)
    if place is None:
        return None
    since, alias, is_silent = place
    return [None if since is None else str(since), alias, is_silent]


def _join(key: Key, websocket: Connection, info: Any, place: list[Any] | None) -> None:
    """Join a group, at a place if it has a history."""
    if _is_plain(key):
        pubsub.add(key, websocket, info)
        return
    from . import joining

    if place is None:
        # The settings have changed: the group had no history before.
        joining.join(key, websocket, info)
        return
    since, alias, is_silent = place
    position = None if since is None else positions.parse(since)
    joining.rejoin(key, websocket, info, joining.Place(position, alias, is_silent))


def _pack_message(message: PreparedMessage) -> list[Any]:
    payload = b64encode(message.payload).decode()
    packed = [message.kind, payload, message.group, list(message.pages)]
    return [*packed, message.traceparent] if message.traceparent else packed


def _unpack_message(
    kind: int, payload: str, group: str, pages: list[str], traceparent: str = ""
) -> PreparedMessage:
    message = prepare(kind, b64decode(payload), group, traceparent)
    return PagedMessage(message, pages) if pages else message


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
