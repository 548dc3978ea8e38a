"""Messages of groups with a history: each once, in the order of the store."""

from __future__ import annotations

import json
import tracemalloc
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from django_wsmux.connection import hub_thread
from django_wsmux.connection.group_receive import intercept
from django_wsmux.groups import Group
from django_wsmux.groups import sequencer as module
from django_wsmux.groups.envelope import numbered, pack
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.groups.sequencer import sequencer
from django_wsmux.history.store import Reading, Store
from django_wsmux.protocol.frames import TEXT
from django_wsmux.protocol.options import Options
from django_wsmux.protocol.prepared import PreparedMessage

from .peers import Peer, arrive, elsewhere, settle, store

pytestmark = pytest.mark.usefixtures("history")


def test_hole(connect: Callable[[], Peer]) -> None:
    """Messages that the transport lost are read from the store; duplicates are dropped."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    group.send("1")
    lost, third = elsewhere(group, "2", "3")
    arrive(group, third, "3")
    settle(group)
    arrive(group, lost, "2")
    arrive(group, third, "3")
    group.send("4")
    assert peer.received == ["1", "2", "3", "4"]


def test_late(connect: Callable[[], Peer]) -> None:
    """Messages that overtake each other are delivered in order."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    group.send("1")
    first, second = elsewhere(group, "2", "3")
    arrive(group, second, "3")
    assert peer.received == ["1"]
    arrive(group, first, "2")
    assert peer.received == ["2", "3"]


def test_lost_last_message(connect: Callable[[], Peer]) -> None:
    """Polling finds a last message that was lost."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    seen, _ = store().changed("")
    elsewhere(group, "1")
    _, changed = store().changed(seen)
    sequencer._compare(changed)
    settle(group)
    assert peer.received == ["1"]


def test_deleted_hole(connect: Callable[[], Peer]) -> None:
    """Members are told of a gap if the messages that they missed were deleted."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    positions = elsewhere(group, *"12345678")
    arrive(group, positions[-1], "8")
    settle(group)
    assert peer.received == ["4", "5", "6", "7", "8"]
    assert peer.hooks.news[1:] == [("gap", "room.1", positions[2])]


def test_forget(connect: Callable[[], Peer]) -> None:
    """Members are told the new epoch; a late message of the old one is dropped."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    at = group.position()
    (late,) = elsewhere(group, "1")
    group.forget()
    settle(group)
    new = group.position()
    assert new.endswith("-0")
    assert new != at
    arrive(group, late, "1")
    settle(group)
    group.send("2")
    assert peer.received == ["2"]
    assert peer.hooks.news[1:] == [("gap", "room.1", new)]
    again = connect()
    assert group.join(again.websocket, since=at) == (False, 0)
    assert [each.data for each in group.history().messages] == ["2"]


def test_unnumbered(connect: Callable[[], Peer], caplog: pytest.LogCaptureFixture) -> None:
    """A message without a number (from a process with different settings) causes a gap."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    pubsub._receive("channel", pack(TEXT, group.name, b"1"))
    assert peer.received == ["1"]
    assert peer.hooks.news[-1] == ("gap", "room.1", peer.hooks.news[0][3])
    assert "WEBSOCKET_HISTORY" in caplog.text


def test_unnumbered_during_a_replay(connect: Callable[[], Peer]) -> None:
    """The gap ends a replay, which would continue below the position of the gap."""
    group, price = Group("room.1"), Group("price.1")
    at = group.position()
    group.send("1")
    price.send("9")
    peer = connect()
    peer.websocket.hold()
    assert group.join(peer.websocket, since=at) == (True, 1)
    assert price.join(peer.websocket) == (None, 1)
    for each in (group, price):
        pubsub._receive("channel", pack(TEXT, each.name, b"x"))
    peer.websocket.release()
    assert peer.received == ["9", "x", "x"]
    assert [each[:2] for each in peer.hooks.news if each[0] == "gap"] == [("gap", "room.1")]


def test_last_member(connect: Callable[[], Peer]) -> None:
    """A group without members takes no memory, and starts over with the next member."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    group.send("1")
    group.leave(peer.websocket)
    assert sequencer.tracked(group.key()) is None
    assert sequencer._windows.size == 0
    group.join(peer.websocket)
    group.send("2")
    assert peer.received == ["1", "2"]


def test_key(connect: Callable[[], Peer]) -> None:
    """A second message with the same key is not sent."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    group.send("1", key="paid")
    group.send("1", key="paid")
    group.send_json({}, key="other")
    assert peer.received == ["1", "{}"]
    for wrong in ("", "x" * 201):
        with pytest.raises(ValueError, match="key"):
            group.send("1", key=wrong)


def test_slow_member(connect: Callable[[], Peer]) -> None:
    """A member is told of a dropped message before the next one, once it has caught up."""
    group = Group("room.1")
    slow, quick = connect(), connect()
    group.join(slow.websocket)
    group.join(quick.websocket)
    group.send("1")
    dropped = PreparedMessage(TEXT, b"2", group.name)
    sequencer.note_dropped(slow.websocket, dropped)  # not numbered: no one is behind
    group.send("2")
    tracked = sequencer.tracked(group.key())
    assert tracked is not None
    sequencer.note_dropped(slow.websocket, next(iter(tracked.window)))
    at = group.position()
    slow.transport.unsent = 10**9
    group.send("3")
    slow.transport.unsent = 0
    assert (slow.received, quick.received) == (["1", "2"], ["1", "2", "3"])
    group.send("4")
    assert slow.received == ["4"]
    gap = slow.hooks.news[-1]
    assert gap == ("gap", "room.1", at.replace("-2", "-3"))


def test_slow_member_that_is_held(connect: Callable[[], Peer]) -> None:
    """A member that did not get a message is told before it gets the next one."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    group.send("1")
    tracked = sequencer.tracked(group.key())
    assert tracked is not None
    (message,) = tracked.window
    sequencer.note_dropped(peer.websocket, message)
    peer.websocket.hold()
    group.send("2")
    peer.websocket.release()
    assert peer.received == ["1"]
    assert peer.hooks.news[1:] == []
    at = group.position()
    group.send("3")
    assert peer.received == ["3"]
    assert peer.hooks.news[1:] == [("gap", "room.1", at)]


class Meanwhile:
    """A store that runs a function during its first reading."""

    def __init__(self, real: Store, act: Callable[[], None]) -> None:
        self.real, self.act, self.reads = real, act, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def read(self, *args: Any, **options: Any) -> Reading:
        """Read, then run the function."""
        self.reads += 1
        assert self.reads < 10, "the store is read again and again"
        found = self.real.read(*args, **options)
        if self.reads == 1:
            self.act()
        return found


def test_last_member_leaves_during_a_repair(
    connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair ends when the last member has left."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    group.send("1")
    elsewhere(group, "2")
    tracked = sequencer.tracked(group.key())
    assert tracked is not None
    tracked.doubt()
    meanwhile = Meanwhile(store(), lambda: group.leave(peer.websocket))
    monkeypatch.setattr(sequencer, "store", lambda: meanwhile)
    sequencer.catch_up(tracked)
    assert meanwhile.reads == 1
    assert peer.received == ["1"]


def test_last_member_leaves_during_a_delivery(connect: Callable[[], Peer]) -> None:
    """A message that closes the last member, which is too slow, leaves nothing in the windows."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    group.send("1")
    group.leave(peer.websocket)
    group.join(peer.websocket)

    peer.websocket.hold()
    peer.websocket.options = Options(max_unsent_bytes=1)
    group.send("2")
    group.send("3")
    assert peer.websocket.closed
    assert sequencer.tracked(group.key()) is None
    assert sequencer._windows.size == 0


def test_forget_is_told_at_once(
    connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The members of the process that forgets are told before forget() returns."""
    monkeypatch.setattr(module, "_start", lambda target: False)
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    group.send("1")
    group.forget()
    assert peer.hooks.news[1:] == [("gap", "room.1", group.position())]


def test_native_thread_reads_nothing(
    connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A native thread sends, and the hub reads the store and tells the members."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    tracked = sequencer.tracked(group.key())
    assert tracked is not None
    tracked.doubt()
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(hub_thread, "is_foreign", lambda: True)
    monkeypatch.setattr(hub_thread, "hand_over", lambda *call: calls.append(call))
    meanwhile = Meanwhile(store(), lambda: None)
    monkeypatch.setattr(sequencer, "store", lambda: meanwhile)
    group.send("1")
    assert meanwhile.reads == 0
    monkeypatch.undo()
    for function, *args in calls:
        function(*args)
    settle(group)
    assert peer.received == ["1"]


def test_newer_version(connect: Callable[[], Peer]) -> None:
    """A message of a kind that is unknown here is left out, live and when it is read."""
    group = Group("room.1")
    peer = connect()
    peer.websocket.use_v1()
    group.join(peer.websocket)
    tracked = sequencer.tracked(group.key())
    assert tracked is not None
    body = pack(0x7E, group.name, b"?")
    for is_lost in (False, True):
        group.send("1")
        appended = store().append(tracked.stream, body)
        assert appended is not None
        if not is_lost:
            position = f"{appended.epoch}-{appended.offset}"
            pubsub._receive("channel", numbered(position, body))
        group.send("2")
        settle(group)
    texts = [json.loads(each)["text"] for each in peer.received]
    assert texts == ["1", "2", "1", "2"]


def test_slow_view(connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    """A view that is behind is told of the gap once, when it has caught up by half."""
    group = Group("room.1")
    peer = connect()
    intercept(peer.websocket)
    peer.websocket.options = Options(max_unsent_bytes=1000, close_slow_clients=False)
    monkeypatch.setattr(peer.hooks, "group_dropped", sequencer.note_dropped)
    group.join(peer.websocket)
    for _ in range(20):
        group.send("x" * 100)
    assert [each[0] for each in peer.hooks.news] == ["joined"]
    at = group.position()
    while peer.websocket.unread:
        peer.websocket.take_turn()
    group.send("2")
    assert peer.hooks.news[1:] == [("gap", "room.1", at)]
    assert [each.message for each in peer.websocket._inbox or ()] == ["2"]


def test_slices(
    connect: Callable[[], Peer],
    slices: deque[Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow member that is still to get messages is told of its gap before the next of them."""
    group = Group("room.1")
    fast, slow = connect(), connect()
    slow.websocket.options = Options(max_unsent_bytes=1000, close_slow_clients=False)
    monkeypatch.setattr(slow.hooks, "group_dropped", sequencer.note_dropped)
    for peer in (fast, slow):
        group.join(peer.websocket)
    group.send("1")
    at = group.position()
    group.send("2")
    slow.transport.unsent = 1000
    slices.popleft()()  # the first message is dropped
    slow.transport.unsent = 0
    group.send("3")
    while slices:
        slices.popleft()()
    assert fast.received == ["1", "2", "3"]
    assert slow.received == ["2", "3"]
    assert slow.hooks.news[1:] == [("gap", "room.1", at)]


@pytest.mark.parametrize("name", ["room.1", "plain"])
def test_slices_and_leaving(
    connect: Callable[[], Peer], slices: deque[Callable[[], None]], name: str
) -> None:
    """A member that leaves has got all messages from before, with a history or without."""
    group = Group(name)
    peers = [connect() for _ in range(3)]
    for peer in peers:
        group.join(peer.websocket)
    group.send("1")
    group.leave(peers[2].websocket)
    group.send("2")
    assert peers[2].received == ["1"]
    while slices:
        slices.popleft()()
    assert [peer.received for peer in peers] == [["1", "2"], ["1", "2"], []]


def test_slices_and_gap(connect: Callable[[], Peer], slices: deque[Callable[[], None]]) -> None:
    """Members that join, leave or get a gap first get the messages that they are owed."""
    group = Group("room.1")
    peers = [connect() for _ in range(4)]
    for peer in peers[:3]:
        group.join(peer.websocket)
    group.send("1")
    group.leave(peers[1].websocket)
    assert peers[1].received == ["1"]
    group.join(peers[3].websocket)
    group.send("2")
    group.forget()
    settle(group)
    assert [peer.received for peer in peers[2:]] == [["1", "2"], ["2"]]
    while slices:
        slices.popleft()()
    assert [peer.received for peer in peers] == [["1", "2"], [], [], []]


def test_memory(connect: Callable[[], Peer]) -> None:
    """A group with members and without messages takes little memory."""
    peer = connect()
    groups = [Group(f"room.{number}") for number in range(500)]
    groups[0].join(peer.websocket)  # imports, caches
    tracemalloc.start()
    try:
        for group in groups:
            group.join(peer.websocket)
            peer.hooks.news.clear()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / len(groups) < 1700
