"""Joining a group with a history: replays, gaps, and failures and readings of the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import Group
from django_wsmux.groups import sequencer as module
from django_wsmux.groups.numbered import stream_of
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.groups.sequencer import sequencer
from django_wsmux.history import memory
from django_wsmux.history.store import Reading, Store
from django_wsmux.protocol.positions import epoch_of, parse
from django_wsmux.protocol.v1 import BROUGHT_KEY, Brought

from .peers import Peer, arrive, elsewhere, forget_elsewhere, settle, store

pytestmark = pytest.mark.usefixtures("history")


def test_live_and_replayed(connect: Callable[[], Peer]) -> None:
    """A member gets each message once; one that returns first gets the messages that it missed."""
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


def test_first_member(connect: Callable[[], Peer]) -> None:
    """The first member of a process gets earlier messages from the store."""
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
    """The position that a client sends is used once, under the name that the client sees."""
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
    """If not all messages can be replayed, none is, and the client is told the new position."""
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
    """If a group keeps one message, each member gets it, unless the member already has it."""
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


def test_forget_during_a_replay(connect: Callable[[], Peer]) -> None:
    """The rest of a replay is not sent if the group is forgotten."""
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
    """An excluded client does not get the message, nor is it replayed to the client."""
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


class Down:
    """A store that can or cannot be used.

    Attributes:
        asked: how often the test's own thread has read it. Another one tries again after a second.
    """

    def __init__(self, real: Store) -> None:
        self.real, self.is_down, self.asked = real, True, 0

    def __getattr__(self, name: str) -> Any:
        if self.is_down:
            self.asked += name == "read" and threading.current_thread() is threading.main_thread()
            raise BackendUnavailable("memory://", "down", "")
        return getattr(self.real, name)


def test_store_unavailable(connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    """A member catches up once the store is back; until then it is told of no gap."""
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
    deadline = time.monotonic() + 60
    while tracked.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    group.send("3")
    assert peer.received == ["1", "3"]
    assert peer.hooks.news[1][-1] is True


def test_store_away_for_many(connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    """While members wait for the store, no other one does; each is told that it is behind."""
    group, new, price = Group("room.1"), Group("room.2"), Group("price.1")
    live = connect()
    group.join(live.websocket)
    group.send("1")
    price.send("9")
    down = Down(store())
    monkeypatch.setattr(sequencer, "store", lambda: down)
    tracked = sequencer.tracked(group.key())
    assert tracked is not None
    tracked.doubt()
    peers = [connect() for _ in range(3)]
    for peer in peers:
        for each in (group, new, price):
            assert each.join(peer.websocket) == (None, 0)
    assert down.asked == 3
    down.is_down = False
    elsewhere(group, "2")
    elsewhere(new, "3")
    for each in (group, new, price):
        waiting = sequencer.tracked(each.key())
        assert waiting is not None
        sequencer._read_for(waiting)
    assert live.received == ["1", "2"]
    for peer in peers:
        assert peer.received == ["9"]
        assert [each[-1] for each in peer.hooks.news] == [None] * 3 + [False, False, None]


def test_error_while_members_wait(
    connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A member that cannot be admitted does not keep the next one waiting."""
    group = Group("room.1")
    first, second = connect(), connect()
    down = Down(store())
    monkeypatch.setattr(sequencer, "store", lambda: down)
    for peer in (first, second):
        group.join(peer.websocket)
    monkeypatch.setattr(first.hooks, "group_joined", None)
    down.is_down = False
    tracked = sequencer.tracked(group.key())
    assert tracked is not None
    sequencer._read_for(tracked)
    assert not tracked.waiting
    assert second.hooks.news[-1][-1] is False
    assert "joining 'room.1' failed" in caplog.text


def test_leave_during_a_replay(connect: Callable[[], Peer]) -> None:
    """Messages that were not sent before a socket leaves are not sent."""
    group, other = Group("room.1"), Group("room.2")
    ats = group.position(), other.position()
    group.send("1")
    other.send("2")
    peer = connect()
    peer.websocket.hold()
    group.join(peer.websocket, since=ats[0])
    other.join(peer.websocket, since=ats[1])
    group.leave(peer.websocket)
    peer.websocket.release()
    assert peer.received == ["2"]


def test_joined_again_during_a_replay(connect: Callable[[], Peer]) -> None:
    """The replay of a member continues if it joins again."""
    group = Group("room.1")
    at = group.position()
    group.send("1")
    peer = connect()
    peer.websocket.hold()
    assert group.join(peer.websocket, since=at) == (True, 1)
    assert group.join(peer.websocket, {"seat": 1}) == (None, 0)
    peer.websocket.release()
    assert peer.received == ["1"]


def test_gap_during_a_replay(connect: Callable[[], Peer]) -> None:
    """After the client is told of a gap, no earlier messages are sent."""
    group = Group("room.1")
    at = group.position()
    group.send("1")
    peer = connect()
    peer.websocket.hold()
    assert group.join(peer.websocket, since=at) == (True, 1)
    positions = elsewhere(group, *"2345678")
    arrive(group, positions[-1], "8")
    settle(group)
    assert peer.hooks.news[1:] == [("gap", "room.1", positions[1])]
    peer.websocket.release()
    assert peer.received == ["4", "5", "6", "7", "8"]


def test_new_epoch_during_a_replay(connect: Callable[[], Peer]) -> None:
    """Messages that another process has forgotten are not sent, even if its publication is lost."""
    group = Group("room.1")
    at = group.position()
    group.send("1")
    peer = connect()
    peer.websocket.hold()
    assert group.join(peer.websocket, since=at) == (True, 1)
    stream = stream_of(group.key())
    assert stream is not None
    store().forget(stream)
    (position,) = elsewhere(group, "2")
    arrive(group, position, "2")
    settle(group)
    peer.websocket.release()
    assert peer.received == ["2"]


class Counting:
    """A store that counts how often it is read."""

    def __init__(self, real: Store) -> None:
        self.real, self.reads = real, 0

    def __getattr__(self, name: str) -> Any:
        self.reads += name == "read"
        return getattr(self.real, name)


def test_many_return(connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    """If many clients return, the store is read once, also if all are told of a gap."""
    group = Group("room.1")
    early = group.position()
    for number in range(7):
        group.send(str(number))
    present = parse(group.position())
    assert present is not None
    counting = Counting(store())
    monkeypatch.setattr(sequencer, "store", lambda: counting)
    for since, expected in (
        (f"{present.epoch}-4", (True, 3)),
        (f"{present.epoch}-1", (False, 0)),
        (f"{epoch_of('other', 5)}-1", (False, 0)),
    ):
        for _ in range(3):
            assert group.join(connect().websocket, since=since) == expected
    assert counting.reads == 1
    assert group.join(connect().websocket, since=early) == (False, 0)


def test_windows_are_limited(connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that a client needs are not dropped before they are sent; then the limit holds."""
    group = Group("room.1")
    at = group.position()
    group.send("1")
    group.send("2")
    monkeypatch.setattr(sequencer._windows, "_limit", 0)
    peer = connect()
    assert group.join(peer.websocket, since=at) == (True, 2)
    assert peer.received == ["1", "2"]
    assert sequencer._windows.size == 0


# While the store is read


class Interrupted:
    """A store that runs a function after its next reading, before the reader continues."""

    def __init__(self, real: Store) -> None:
        self.real = real
        self.interruption: Callable[[], object] | None = None

    def read(self, *args: Any, **options: Any) -> Reading:
        """Read, then run the function."""
        reading = self.real.read(*args, **options)
        interruption, self.interruption = self.interruption, None
        if interruption is not None:
            interruption()
        return reading

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    """The store, whose next reading can be interrupted."""
    found = Interrupted(store())
    monkeypatch.setattr(sequencer, "store", lambda: found)
    return found


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Run a function in a thread during the block, and wait for its end."""
    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


def test_join_during_a_repair(connect: Callable[[], Peer], interrupted: Interrupted) -> None:
    """A client that returns while a hole is filled gets each message once, like the others."""
    group = Group("room.1")
    live, returning = connect(), connect()
    group.join(live.websocket)
    group.send("1")
    at = group.position()
    second, third = elsewhere(group, "2", "3")
    is_read, may_go_on = threading.Event(), threading.Event()

    def wait() -> None:
        is_read.set()
        assert may_go_on.wait(60)

    interrupted.interruption = wait
    arrive(group, third, "3")
    assert is_read.wait(60)
    with meanwhile(lambda: group.join(returning.websocket, since=at)):
        (fourth,) = elsewhere(group, "4")
        arrive(group, fourth, "4")
        arrive(group, second, "2")
        may_go_on.set()
    settle(group)
    group.send("5")
    assert live.received == ["1", "2", "3", "4", "5"]
    assert returning.received == ["2", "3", "4", "5"]


def test_join_during_a_replay(connect: Callable[[], Peer]) -> None:
    """A replay that waits for its client holds up no other, and keeps its order."""
    group = Group("room.1")
    at = group.position()
    group.send("1")
    group.send("2")
    slow, quick = connect(), connect()
    slow.transport.unsent = 10**9
    assert group.join(slow.websocket, since=at) == (True, 2)
    assert group.join(quick.websocket, since=at) == (True, 2)
    group.send("3")
    assert quick.received == ["1", "2", "3"]
    assert slow.received == []
    slow.transport.unsent = 0
    slow.websocket.drained()
    group.send("4")
    assert slow.received == ["1", "2", "3", "4"]


def test_replay_that_is_trimmed(connect: Callable[[], Peer]) -> None:
    """The messages of a replay are not lost when the store deletes them."""
    group = Group("room.1")
    at = group.position()
    group.send("1")
    group.send("2")
    slow = connect()
    slow.transport.unsent = 10**9
    assert group.join(slow.websocket, since=at) == (True, 2)
    for number in range(3, 12):
        group.send(str(number))
    assert group.history().messages[0].data == "7"
    slow.transport.unsent = 0
    slow.websocket.drained()
    assert slow.received == [str(number) for number in range(1, 12)]


@pytest.mark.parametrize("is_lost", [True, False], ids=["lost", "published"])
def test_join_during_forget(
    connect: Callable[[], Peer], interrupted: Interrupted, is_lost: bool
) -> None:
    """A client that returns while the group is forgotten is finally told the new epoch."""
    group = Group("room.1")
    at = group.position()
    group.send("1")
    peer = connect()

    interrupted.interruption = lambda: forget_elsewhere(group, is_lost=is_lost)
    recovered, _ = group.join(peer.websocket, since=at)
    (position,) = elsewhere(group, "2")
    arrive(group, position, "2")
    settle(group)
    group.send("3")
    texts, news = peer.received, peer.hooks.news
    assert texts[-2:] == ["2", "3"]
    assert news[-1][0] == "gap" or recovered is False
    if not is_lost:
        # It is known before the reading is used.
        assert texts == ["2", "3"]


def test_two_in_one_tick(connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that is forgotten twice at the same moment has two new epochs."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    group.send("1")
    now = memory._now()
    monkeypatch.setattr(memory, "_now", lambda: now)
    (old,) = elsewhere(group, "2")
    group.forget()
    first = group.position()
    (between,) = elsewhere(group, "3")
    group.forget()
    second = group.position()
    assert len({old.partition("-")[0], first.partition("-")[0], second.partition("-")[0]}) == 3
    arrive(group, between, "3")
    arrive(group, old, "2")
    settle(group)
    group.send("4")
    assert peer.received == ["1", "4"]
    assert peer.hooks.news[-1] == ("gap", "room.1", second)


def test_forgotten_while_repaired(connect: Callable[[], Peer], interrupted: Interrupted) -> None:
    """A reading from before forget() does not restore the forgotten messages."""
    group = Group("room.1")
    peer = connect()
    group.join(peer.websocket)
    group.send("1")
    _, third = elsewhere(group, "2", "3")
    interrupted.interruption = lambda: forget_elsewhere(group)
    arrive(group, third, "3")
    settle(group)
    group.send("4")
    assert peer.received == ["1", "4"]
    assert peer.hooks.news[-1][0] == "gap"


def test_leave_during_a_join(connect: Callable[[], Peer], interrupted: Interrupted) -> None:
    """A socket that leaves during a reading gets nothing, and is told nothing."""
    group = Group("room.1")
    at = group.position()
    group.send("1")
    other, peer = connect(), connect()
    group.join(other.websocket)
    interrupted.interruption = lambda: group.leave(peer.websocket)
    assert group.join(peer.websocket, since=at) == (None, 0)
    assert interrupted.interruption is None
    assert peer.received == []
    assert peer.hooks.news == []


def test_alias_of_a_plain_group(
    connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that arrives while a socket joins has the name that the client is to see."""
    group = Group("plain")
    peer = connect()
    peer.websocket.use_v1()
    monkeypatch.setattr(pubsub, "_hear", lambda channel: group.send("1"))
    group.join(peer.websocket, alias="lobby")
    assert peer.received == ['{"in":"lobby","text":"1"}']


def test_other_alias(connect: Callable[[], Peer]) -> None:
    """A member that joins again with an alias sees the messages under that name."""
    group = Group("room.1")
    peer = connect()
    peer.websocket.use_v1()
    group.join(peer.websocket, alias="lobby")
    group.join(peer.websocket)
    assert [news[0] for news in peer.hooks.news] == ["joined"]
    group.send("1")
    group.join(peer.websocket, alias="hall")
    assert peer.hooks.news[1:] == [("renamed", "room.1", "hall", group.position())]


def test_bytes_that_are_read(connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    """No more bytes are read than a member may be sent, once for all that missed more."""
    group = Group("room.1")
    for number in range(6):
        group.send(str(number).ljust(10_000))
    epoch = group.position().partition("-")[0]
    real = store()
    readings: list[Reading] = []

    class Recording:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def read(self, *args: Any, **options: Any) -> Reading:
            readings.append(real.read(*args, **options))
            return readings[-1]

    monkeypatch.setattr(sequencer, "store", Recording)
    for offset, expected in ((4, (True, 2)), (1, (False, 0)), (1, (False, 0)), (3, (False, 0))):
        peer = connect()
        peer.websocket.options = replace(peer.websocket.options, max_unsent_bytes=25_000)
        assert group.join(peer.websocket, since=f"{epoch}-{offset}") == expected
    assert [len(reading.entries) for reading in readings] == [3]
