"""Joining a group with a history: replays, gaps, holes, one order; a store in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import override_settings

from django_wsmux.connection.interfaces import DefaultHooks
from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import Group
from django_wsmux.groups.envelope import numbered, pack
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.groups.sequencer import sequencer
from django_wsmux.history import stores
from django_wsmux.history.store import Store
from django_wsmux.protocol.frames import TEXT
from django_wsmux.protocol.options import Options
from django_wsmux.protocol.positions import epoch_of, parse
from django_wsmux.protocol.v1 import BROUGHT_KEY, Brought
from django_wsmux.testing.memory import Loop, MemoryTransport
from django_wsmux.websocket import WebSocket

HISTORY = {
    "room.*": {"messages": 5, "seconds": 600},
    "price.*": {"messages": 1, "seconds": 600},
    "@user:*": {"messages": 5, "seconds": 600},
}


class Hooks(DefaultHooks):
    """A framework that records what happens in groups."""

    user_id = None

    def __init__(self) -> None:
        self.news: list[tuple[Any, ...]] = []

    def group_joined(self, websocket: Any, *what: Any) -> None:
        """Record a join."""
        self.news.append(("joined", *what))

    def group_gap(self, websocket: Any, *what: Any) -> None:
        """Record a gap."""
        self.news.append(("gap", *what))

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


class Peer:
    """The client of a socket: what it has received, and where the messages stop."""

    def __init__(self) -> None:
        self.hooks, self.loop, self.data = Hooks(), Loop(), b""
        self.websocket = WebSocket({"PATH_INFO": "/"}, Options(), self.hooks)
        self.transport = MemoryTransport(self.loop, self.websocket, self, lambda: None)

    def connected(self, transport: MemoryTransport) -> None:
        """Do nothing with the transport."""

    def data_received(self, data: bytes) -> None:
        """Keep the bytes."""
        self.data += data

    def eof_received(self) -> None:
        """Do nothing at the end of the bytes."""

    def open(self) -> Peer:
        """Accept the handshake."""
        self.websocket.opened(self.transport, b"", b"")
        return self

    @property
    def received(self) -> list[str]:
        """The short text messages since the last access."""
        self.loop.run()
        data, self.data = self.data, b""
        found = []
        while data:
            end = 2 + data[1]
            found.append(data[2:end].decode())
            data = data[end:]
        return found


@pytest.fixture(autouse=True)
def history() -> Iterator[None]:
    """A store of its own for each test, without polls."""
    changed = override_settings(
        WEBSOCKET_BACKEND="memory://", WEBSOCKET_HISTORY=HISTORY, WEBSOCKET_HISTORY_LIMIT=4
    )
    with changed:
        sequencer.is_polling = False
        stores.reset()
        sequencer.reset()
        yield
        sequencer.reset()
        stores.reset()
        sequencer.is_polling = True


@pytest.fixture
def connect() -> Iterator[Callable[[], Peer]]:
    """Return a function that opens sockets, which are dropped at the end."""
    peers: list[Peer] = []

    def make() -> Peer:
        peers.append(Peer())
        return peers[-1].open()

    yield make
    for peer in peers:
        peer.websocket.connection_lost()


def store() -> Store:
    """Return the store."""
    return sequencer.store()


def arrive(group: Group, position: str, text: str) -> None:
    """Have a numbered message of another process arrive."""
    pubsub._receive("channel", numbered(position, pack(TEXT, group.name, text.encode())))


def elsewhere(group: Group, *texts: str) -> list[str]:
    """Store messages as another process does, whose publications are lost; return the positions."""
    from django_wsmux.groups.numbered import stream_of

    stream = stream_of(group.key())
    assert stream is not None
    found = []
    for text in texts:
        appended = store().append(stream, pack(TEXT, group.name, text.encode()))
        assert appended is not None
        found.append(f"{appended.epoch}-{appended.offset}")
    return found


def settle(group: Group) -> None:
    """Wait until the process is up to date."""
    import time

    deadline = time.monotonic() + 60
    while True:
        tracked = sequencer.tracked(group.key())
        if tracked is None or not tracked.sequence.is_behind:
            return
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_live_and_replayed(connect: Callable[[], Peer]) -> None:
    """A member gets each message once; one that returns gets what it has missed first."""
    group = Group("room.1")
    first = connect()
    assert group.join(first.websocket) == (None, 0)
    group.send("1")
    at = group.position()
    group.send("2")
    group.send("3")
    assert first.received == ["1", "2", "3"]
    second = connect()
    assert group.join(second.websocket, since=at) == (True, 2)
    group.send("4")
    assert second.received == ["2", "3", "4"]
    assert first.received == ["4"]
    assert second.hooks.news == [("joined", "room.1", None, at[:-1] + "3", True)]


def test_no_member_here_before(connect: Callable[[], Peer]) -> None:
    """The first member of a process gets what was sent before, from the store."""
    group = Group("room.1")
    at = group.position()
    group.send("1")
    group.send("2")
    peer = connect()
    assert group.join(peer.websocket, since=at) == (True, 2)
    assert peer.received == ["1", "2"]
    again = connect()
    assert group.join(again.websocket, since=group.position()) == (True, 0)
    assert again.received == []


def test_brought(connect: Callable[[], Peer]) -> None:
    """The position that a client brings is used once, by the name that it sees."""
    group, user = Group("room.1"), Group.for_user(7)
    ats = group.position(), user.position()
    group.send("1")
    user.send("u")
    peer = connect()
    brought = Brought()
    brought.add("lobby", ats[0])
    brought.add("@user", ats[1])
    peer.websocket.environ[BROUGHT_KEY] = brought
    assert group.join(peer.websocket, alias="lobby") == (True, 1)
    assert user.join(peer.websocket) == (True, 1)
    assert peer.received == ["1", "u"]
    assert group.join(peer.websocket) == (None, 0)


def test_position_without_a_name(connect: Callable[[], Peer]) -> None:
    """A position without a name is for the first group that the view joins, not for the user's."""
    group, user = Group("room.1"), Group.for_user(7)
    brought = Brought()
    brought.add("", group.position())
    group.send("1")
    peer = connect()
    peer.websocket.environ[BROUGHT_KEY] = brought
    assert user.join(peer.websocket) == (None, 0)
    assert group.join(peer.websocket) == (True, 1)


def test_gaps(connect: Callable[[], Peer]) -> None:
    """Nothing is replayed if not all can be, and the client is told the new position."""
    group = Group("room.1")
    first = group.position()
    for number in range(7):
        group.send(str(number))
    now = parse(group.position())
    assert now is not None
    for since in (
        first,
        f"{now.epoch}-1",  # older than what is kept
        f"{now.epoch}-2",  # more than the limit of replays
        f"{now.epoch}-8",  # from the future
        f"{epoch_of('other', 5)}-7",
        f"{epoch_of(now.epoch.partition('.')[0], 5)}-7",
    ):
        peer = connect()
        assert group.join(peer.websocket, since=since) == (False, 0), since
        assert peer.received == []
        assert peer.hooks.news == [("joined", "room.1", None, str(now), False)]
        group.leave(peer.websocket)
    peer = connect()
    assert group.join(peer.websocket, since=f"{now.epoch}-3") == (True, 4)
    assert peer.received == ["3", "4", "5", "6"]


def test_value(connect: Callable[[], Peer]) -> None:
    """Each member of a group of which one message is kept gets that, unless it has it."""
    group = Group("price.1")
    early = connect()
    assert group.join(early.websocket) == (None, 0)
    at = group.position()
    for price in ("1", "2", "3"):
        group.send(price)
    assert early.received == ["1", "2", "3"]
    late = connect()
    assert group.join(late.websocket) == (None, 1)
    returning = connect()
    assert group.join(returning.websocket, since=at) == (True, 1)
    current = connect()
    assert group.join(current.websocket, since=group.position()) == (True, 0)
    assert [late.received, returning.received, current.received] == [["3"], ["3"], []]


def test_hole(connect: Callable[[], Peer]) -> None:
    """What the transport has lost is read from the store; duplicates are dropped."""
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
    """The question what has changed finds a last message that was lost."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    seen, _ = store().changed("")
    elsewhere(group, "1")
    _, changed = store().changed(seen)
    sequencer._compare(changed)
    settle(group)
    assert peer.received == ["1"]


def test_hole_that_is_gone(connect: Callable[[], Peer]) -> None:
    """Members are told a gap if what they missed is not kept any more."""
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


def test_forget_during_a_replay(connect: Callable[[], Peer]) -> None:
    """What is still to be replayed of a group that is forgotten is not sent."""
    group = Group("room.1")
    at = group.position()
    group.send("1")
    peer = connect()
    peer.websocket.hold()
    assert group.join(peer.websocket, since=at) == (True, 1)
    group.forget()
    settle(group)
    peer.websocket.release()
    assert peer.received == []
    assert peer.hooks.news[-1][0] == "gap"


def test_exclude(connect: Callable[[], Peer]) -> None:
    """An excluded client does not get the message, in a replay either."""
    group = Group("room.1")
    at = group.position()
    peer, other = connect(), connect()
    group.join(peer.websocket)
    group.join(other.websocket)
    group.send("1", exclude=peer.websocket)
    group.send("2")
    assert [peer.received, other.received] == [["2"], ["1", "2"]]
    assert group.join(peer.websocket, since=at) == (True, 1)
    assert peer.received == ["2"]


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


class Down:
    """A store that can or cannot be used."""

    def __init__(self, real: Store) -> None:
        self.real, self.is_down = real, True

    def __getattr__(self, name: str) -> Any:
        if self.is_down:
            raise BackendUnavailable("memory://", "down", "")
        return getattr(self.real, name)


def test_store_away(connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    """A member catches up once the store is back; until then it is told no gap."""
    from django_wsmux.groups import sequencer as module

    monkeypatch.setattr(module, "_RETRY", 0.01)
    group = Group("room.1")
    at = group.position()
    group.send("1")
    down = Down(store())
    monkeypatch.setattr(sequencer, "store", lambda: down)
    peer = connect()
    assert group.join(peer.websocket, since=at) == (None, 0)
    assert peer.hooks.news == [("joined", "room.1", None, None, None)]
    with pytest.raises(BackendUnavailable):
        group.send("2")
    group.send("2", fail_silently=True)
    down.is_down = False
    tracked = sequencer.tracked(group.key())
    assert tracked is not None
    import time

    deadline = time.monotonic() + 60
    while tracked.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    group.send("3")
    assert peer.received == ["1", "3"]
    assert peer.hooks.news[1][-1] is True


def test_history() -> None:
    """The messages that are kept, with their positions and times."""
    group = Group("room.1")
    start = group.position()
    assert group.history().messages == group.history(since=start).messages == []
    group.send("text")
    group.send(b"binary")
    group.send_json({"n": 1})
    found = group.history()
    assert [each.data for each in found.messages] == ["text", b"binary", '{"n": 1}']
    assert found.complete
    assert found.position == found.messages[-1].position == group.position()
    assert all(each.sent.tzinfo for each in found.messages)
    assert len(group.history(since=found.messages[0].position).messages) == 2
    assert group.history(since=start).complete
    newest = group.history(limit=1)
    assert [json.loads(each.data) for each in newest.messages] == [{"n": 1}]
    assert not newest.complete
    with pytest.raises(ValueError, match="position"):
        group.history(since="x")
    with pytest.raises(ValueError, match="limit"):
        group.history(limit=0)


def test_no_history(connect: Callable[[], Peer]) -> None:
    """Without a pattern, everything about histories is an error that names the setting."""
    from django.core.exceptions import ImproperlyConfigured

    group = Group("other")
    for function in (
        group.position,
        group.history,
        group.forget,
        lambda: group.send("1", key="k"),
        lambda: group.join(connect().websocket, since=f"{epoch_of('a', 1)}-1"),
    ):
        with pytest.raises(ImproperlyConfigured, match="WEBSOCKET_HISTORY"):
            function()


def test_unnumbered(connect: Callable[[], Peer], caplog: pytest.LogCaptureFixture) -> None:
    """A message without a number, from a process with other settings, is delivered with a gap."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    pubsub._receive("channel", pack(TEXT, group.name, b"1"))
    assert peer.received == ["1"]
    assert peer.hooks.news[-1] == ("gap", "room.1", peer.hooks.news[0][3])
    assert "WEBSOCKET_HISTORY" in caplog.text


def test_last_member(connect: Callable[[], Peer]) -> None:
    """A group without members takes no memory, and begins again with the next one."""
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
