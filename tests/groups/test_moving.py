"""Sockets that move from one process to another with their groups."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import override_settings

from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import Group, moving
from django_wsmux.groups import sequencer as sequencer_module
from django_wsmux.groups.envelope import REMOVE, pack
from django_wsmux.groups.members import Key, channel_of
from django_wsmux.groups.pubsub import members, pubsub
from django_wsmux.groups.sequencer import sequencer
from django_wsmux.protocol.events import CannotMove
from django_wsmux.protocol.frames import TEXT
from django_wsmux.protocol.prepared import PagedMessage, prepare
from tests.gauges import wait_until

from . import peers
from .peers import Peer, elsewhere, settle


class Hooks(peers.Hooks):
    """A framework whose socket belongs to a user."""

    def __init__(self, *groups: Key) -> None:
        super().__init__()
        self.groups = groups

    def leave(self, websocket: Any) -> None:
        """Leave the groups of the user."""
        for key in self.groups:
            pubsub.discard(key, websocket)


@override_settings(WEBSOCKET_BACKEND="memory://")
def test_memberships() -> None:
    """A socket is in the same groups again, with the same infos, and leaves them when it closes."""
    keys: list[Key] = ["@user:1", ("blue", "room"), "room"]
    old, new = Peer(), Peer()
    old.websocket.hooks = new.websocket.hooks = Hooks("@user:1")
    old.open()
    pubsub.add("@user:1", old.websocket)
    Group("room").join(old.websocket, {"name": "Ann"})
    with override_settings(WEBSOCKET_GROUP_PREFIX="tests.groups.test_moving.prefix"):
        Group("room").join(old.websocket)
    assert moving.request([old.websocket])["channels"] == sorted(map(channel_of, keys))
    record = json.loads(json.dumps(moving.memberships(old.websocket)))
    assert moving.people(record) == ("@user:1",)
    moving.rejoin(new.websocket, record)
    for key in keys:
        assert members.of(key) == [old.websocket, new.websocket]
    assert members.info("room", new.websocket) == {"name": "Ann"}
    assert members.info(("blue", "room"), new.websocket) is None
    old.websocket.connection_lost()
    new.websocket.abandon()
    assert not any(map(members.of, keys))


def prefix() -> str:
    """Return the prefix of groups."""
    return "blue"


@override_settings(WEBSOCKET_BACKEND="memory://")
def test_held() -> None:
    """A socket that is joining a group cannot move now."""
    peer = Peer().open()
    peer.websocket.hold()
    with pytest.raises(CannotMove, match="joins a group"):
        moving.memberships(peer.websocket)
    peer.websocket.connection_lost()


def moved(old: Peer, new: Peer) -> Peer:
    """Move a socket to another one, through JSON."""
    record = json.loads(json.dumps(moving.memberships(old.websocket)))
    old.websocket.detached()
    old.websocket.connection_lost()
    cut = json.loads(json.dumps(moving.cut()))
    new.websocket.hold()
    moving.rejoin(new.websocket, record)
    moving.replay(cut, True, [new.websocket])
    new.websocket.release()
    return new


@pytest.mark.usefixtures("history")
def test_live(connect: Callable[[], Peer]) -> None:
    """A live member continues where it was; the client is told nothing."""
    group = Group("room.1")
    old, new = connect(), connect()
    group.join(old.websocket)
    group.send("1")
    assert old.received == ["1"]
    record = moving.memberships(old.websocket)
    elsewhere(group, "2")
    moving.rejoin(new.websocket, record)
    group.send("3")
    settle(group)
    assert new.received == ["2", "3"]
    assert new.hooks.news == []


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("is_slow", [True, False])
def test_in_a_replay(connect: Callable[[], Peer], is_slow: bool) -> None:
    """What the peer has not taken of a replay follows there, and what came behind it."""
    group, plain = Group("room.1"), Group("plain")
    at = group.position()
    group.send("1")
    group.send("2")
    old, new = connect(), connect()
    plain.join(old.websocket)
    old.transport.unsent = 10**9
    assert group.join(old.websocket, since=at) == (True, 2)
    plain.send("a")
    group.send("3")
    old.transport.unsent = 0
    if is_slow:
        new.transport.unsent = 10**9
    moved(old, new)
    group.send("4")
    plain.send("b")
    if is_slow:
        assert new.received == []
        new.transport.unsent = 0
        new.websocket.drained()
    received = new.received
    assert [each for each in received if each.isdigit()] == ["1", "2", "3", "4"]
    assert [each for each in received if each.isalpha()] == ["a", "b"]
    assert not old.received
    assert not new.hooks.news


@pytest.mark.usefixtures("history")
def test_lost(connect: Callable[[], Peer]) -> None:
    """If messages are lost, the client is told of a gap, and not that it has joined."""
    group = Group("room.1")
    old, new = connect(), connect()
    group.join(old.websocket)
    group.send("1")
    record = moving.memberships(old.websocket)
    old.websocket.connection_lost()
    group.forget()
    group.send("2")
    moving.rejoin(new.websocket, record)
    assert new.received == []
    assert new.hooks.news == [("gap", "room.1", group.position())]
    group.send("3")
    assert new.received == ["3"]


@pytest.mark.usefixtures("history")
def test_behind(connect: Callable[[], Peer]) -> None:
    """A member that was too slow for a message gets it there."""
    group = Group("room.1")
    old, new = connect(), connect()
    group.join(old.websocket)
    tracked = sequencer.tracked(group.key())
    assert tracked is not None
    group.send("1")
    assert old.received == ["1"]
    old.transport.unsent = 10**9
    tracked.note_behind(old.websocket, tracked.position)
    group.send("2")
    old.transport.unsent = 0
    moved(old, new)
    assert new.received == ["2"]
    assert new.hooks.news == []


class Unavailable:
    """A store that cannot be read."""

    is_private = True

    def __getattr__(self, name: str) -> Any:
        raise BackendUnavailable("memory://", "away", "")


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize("was_waiting", [True, False])
def test_waiting(
    connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch, was_waiting: bool
) -> None:
    """A member that waits for the store, before or after it moves, gets what it missed."""
    group = Group("room.1")
    at = group.position()
    group.send("1")
    old, new = connect(), connect()
    monkeypatch.setattr(sequencer_module, "_RETRY", 0.01)
    real = sequencer.store()
    if not was_waiting:
        group.join(old.websocket, since=at)
        assert old.received == ["1"]
    monkeypatch.setattr(sequencer, "store", Unavailable)
    if was_waiting:
        group.join(old.websocket, since=at, alias="here")
        assert old.hooks.news == [("joined", "room.1", "here", None, None)]
    record = moving.memberships(old.websocket)
    old.websocket.connection_lost()
    moving.rejoin(new.websocket, record)
    assert moving.memberships(new.websocket) == record
    assert new.hooks.news == []
    monkeypatch.setattr(sequencer, "store", lambda: real)
    elsewhere(group, "2")
    wait_until(lambda: bool(new.websocket._messages_out), "the member is admitted")
    assert new.received == (["1", "2"] if was_waiting else ["2"])
    told = ("joined", "room.1", "here", group.position(), True)
    assert new.hooks.news == ([told] if was_waiting else [])


@pytest.mark.usefixtures("history")
def test_settings_change(connect: Callable[[], Peer]) -> None:
    """The new process may have other settings: a group gains a history, or loses it."""
    plain, kept = Group("gains"), Group("room.1")
    old, new = connect(), connect()
    plain.join(old.websocket)
    kept.join(old.websocket)
    record = moving.memberships(old.websocket)
    old.websocket.connection_lost()
    with override_settings(WEBSOCKET_HISTORY={"gains": {"messages": 5, "seconds": 600}}):
        moving.rejoin(new.websocket, record)
        assert [each[:3] for each in new.hooks.news] == [("joined", "gains", None)]
        plain.send("1")
        kept.send("2")
        assert new.received == ["1", "2"]
        new.websocket.connection_lost()


@override_settings(WEBSOCKET_BACKEND="memory://")
def test_pages(connect: Callable[[], Peer]) -> None:
    """A message that waits keeps the pages that do not get it, and its trace context."""
    for traceparent in ("", "00-a-b-01"):
        message = PagedMessage(prepare(TEXT, b"hello", "room", traceparent), ["p1"])
        found = moving._unpack_message(*json.loads(json.dumps(moving._pack_message(message))))
        assert (found.kind, found.payload, found.group) == (TEXT, b"hello", "room")
        assert (found.pages, found.traceparent) == (["p1"], traceparent)


@override_settings(WEBSOCKET_BACKEND="memory://")
def test_missed_on_the_way(connect: Callable[[], Peer]) -> None:
    """A socket gets what was sent to it alone, and nothing of a group that its user has left."""
    peer, other = connect(), connect()
    peer.hooks.user_id = "7"
    keys: dict[Any, list[Key]] = {}
    for websocket in (peer.websocket, other.websocket):
        Group("room").join(websocket)
        keys[websocket] = ["room"]
    alone = Group.for_connection(peer.websocket.client_id)
    missed = moving._Missed(keys)
    for kind, group, data in [
        (TEXT, Group("room"), b"1"),
        (TEXT, alone, b"2"),
        (REMOVE, Group("elsewhere"), b"7"),
        (TEXT, Group("room"), b"3"),
        (REMOVE, Group("room"), b"7"),
        (TEXT, Group("room"), b"4"),
    ]:
        missed.add(pack(kind, group.name, data), is_new=True)
    found = {ws: [each.message for each in messages] for ws, messages in missed.messages.items()}
    assert found == {peer.websocket: ["1", "2", "3"], other.websocket: ["1", "3", "4"]}
    assert members.of("room") == [other.websocket]
