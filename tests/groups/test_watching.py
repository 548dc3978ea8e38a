"""Frames of presence: which members get them, from which version on, and when they are too slow."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from django.test import override_settings

from django_wsmux.connection import hub_thread
from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import Group, presence_hooks
from django_wsmux.groups.envelope import PRESENCE, pack
from django_wsmux.groups.presence import presence
from django_wsmux.groups.presence_jobs import jobs
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.groups.watching import watching
from django_wsmux.handlers.socket import DjangoHooks
from django_wsmux.presence.store import Entry, Reading
from django_wsmux.protocol.options import Options
from django_wsmux.testing.present import forget_presence

from .peers import Peer

ROOM = Group("room")

#: The list in which only one is present.
LIST = {"all": {"zed": None}}


#: The sockets of a test.
opened: list[Peer] = []


class Watcher(Peer):
    """A client of ``wsmux.v1`` that watches the room, and is told what it has not been told."""

    def __init__(self, options: Options | None = None, *, alias: str | None = None) -> None:
        super().__init__()
        drop: Any = partial(DjangoHooks.group_dropped, self.hooks)  # type: ignore[arg-type]
        self.hooks.group_dropped = drop  # type: ignore[method-assign]
        self.websocket.options = options or self.websocket.options
        self.websocket.subprotocol = "wsmux.v1"
        self.websocket.use_v1()
        self.open()
        opened.append(self)
        if alias is not None:
            ROOM.join(self.websocket, alias=alias)
        ROOM.presence(self.websocket)

    @property
    def told(self) -> list[Any]:
        """The frames since the last access."""
        presence.take_turn()
        return self.frames()

    def frames(self) -> list[Any]:
        """Return the frames that have arrived."""
        data, self.data, found = self.data, b"", []
        while data:
            size, start = data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            found.append(json.loads(data[start : start + size]))
            data = data[start + size :]
        return [frame["presence"] for frame in found]


@pytest.fixture(autouse=True)
def manual() -> Iterator[None]:
    """Jobs are done by the test; the store is its own."""
    with override_settings(WEBSOCKET_BACKEND="memory://"):
        presence_hooks.set_manual(True)
        come("zed")
        yield
        while opened:
            opened.pop().websocket.connection_lost()
        forget_presence()


def come(*keys: str) -> str:
    """Let someone come in another process; return the version."""
    return jobs.store().enter("room", [Entry(f"x.{key}", key, "null") for key in keys], "x")


def hint(version: str) -> None:
    """Receive a hint."""
    pubsub._receive("room", pack(PRESENCE, "room", version.encode()))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the versions that the store is read from, from now on."""
    store, reads = jobs.store(), []
    read = store.read

    def noted(group: str, since: str = "") -> Reading:
        reads.append(since)
        return read(group, since)

    monkeypatch.setattr(store, "read", noted)
    return reads


def test_one_reading_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """One reading serves all who know the same version; a new watcher needs one more."""
    reads = count_reads(monkeypatch)
    old = [Watcher() for _ in range(5)]
    assert [each.told for each in old] == [[LIST]] * 5
    assert reads == [""]
    hint(come("ada"))
    hint(come("bob"))
    assert [each.told for each in old] == [[{"joined": {"ada": None, "bob": None}}]] * 5
    assert len(reads) == 2
    new = Watcher()
    assert new.told == [{"all": {"zed": None, "ada": None, "bob": None}}]
    assert reads[2:] == [""]
    hint(come("eve"))
    assert old[0].told == new.frames() == [{"joined": {"eve": None}}]
    assert len(reads) == 4


def test_come_and_gone() -> None:
    """Who has come and gone between two ticks is not mentioned; nothing is sent."""
    watcher = Watcher()
    assert watcher.told == [LIST]
    come("ada")
    hint(jobs.store().leave("room", ["x.ada"], "x"))
    assert watcher.told == []


def test_change_between_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """If something changes between two readings of a tick, all are told soon."""
    old = Watcher()
    assert old.told
    hint(come("ada"))
    new = Watcher()
    store, changes = jobs.store(), ["bob"]
    read = store.read

    def changing(group: str, since: str = "") -> Reading:
        reading = read(group, since)
        if changes:
            come(changes.pop())
        return reading

    monkeypatch.setattr(store, "read", changing)
    assert old.told == [{"joined": {"ada": None}}, {"joined": {"bob": None}}]
    assert new.frames() == [{"all": {"zed": None, "ada": None, "bob": None}}]


def test_aliases() -> None:
    """Each client gets the name that it knows."""
    own, other = Watcher(), Watcher(alias="here")
    presence.take_turn()
    assert b'{"in":"room","presence":{"all":{"zed":null}}}' in own.data
    assert b'{"in":"here","presence":{"all":{"zed":null}}}' in other.data


def test_closed_and_plain_sockets() -> None:
    """A socket that has closed, or does not speak ``wsmux.v1``, is not kept."""
    plain, lost = Peer().open(), Watcher()
    opened.append(plain)
    ROOM.presence(plain.websocket)
    lost.websocket.connection_lost()
    presence.take_turn()
    assert watching.is_idle
    assert plain.data == b""


def test_dropped_change() -> None:
    """One that does not take a large change gets the whole list once it has room."""
    watcher = Watcher(Options(close_slow_clients=False, max_unsent_bytes=128))
    assert watcher.told == [LIST]
    watcher.transport.unsent = 64
    people = [f"ada {number}" for number in range(9)]
    hint(come(*people))
    watching._tick("room")
    assert watcher.frames() == []
    assert watching.told("room", watcher.websocket) == ""
    watcher.transport.unsent = 0
    assert watcher.told == [{"all": dict.fromkeys(["zed", *people])}]


@pytest.mark.parametrize("is_new", [True, False])
def test_slow_client_stays(is_new: bool) -> None:
    """One is not closed because of presence: it would be sent the whole list when it returns."""
    watcher = Watcher()
    assert is_new or watcher.told == [LIST]
    watcher.transport.unsent = watcher.websocket.options.max_unsent_bytes
    for key in ("ada", "bob"):
        hint(come(key))
        watching._serve("room", is_stale=True)
    assert watcher.frames() == []
    assert not watcher.websocket.closed
    watcher.transport.unsent = 0
    people = {"ada": None, "bob": None}
    expected = {"all": {"zed": None, **people}} if is_new else {"joined": people}
    assert watcher.told == [expected]


def test_large_list() -> None:
    """A list that is larger than what may be unsent needs a socket without unsent bytes."""
    first = Watcher(Options(max_unsent_bytes=64))
    come(*"abcdefghij")
    (whole,) = first.told
    assert len(whole["all"]) == 11
    other = Watcher(Options(max_unsent_bytes=64))
    other.transport.unsent = 8
    watching._serve("room", is_stale=False)
    assert not other.websocket.closed
    assert other.frames() == []
    other.transport.unsent = 0
    assert other.told == [whole]


def test_bug_in_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """After any exception, the sweep lets watchers be told."""
    watcher = Watcher()

    def fail(*args: Any) -> Any:
        raise ValueError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(jobs.store(), "read", fail)
        with pytest.raises(ValueError, match="a bug"):
            presence.take_turn()
    presence._look()
    assert watcher.told == [LIST]


def test_interrupted_announcement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A view that is interrupted while it publishes does not keep later versions back."""
    published: list[bytes] = []

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pubsub, "backend", lambda: object())
    with monkeypatch.context() as patch:
        patch.setattr(pubsub, "publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            watching.announce("room", "e.1")
    jobs.run_waiting()
    monkeypatch.setattr(pubsub, "publish", lambda key, kind, data: published.append(data))
    watching.announce("room", "e.2")
    assert published == [b"e.2"]


def test_failed_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be read is read when the store is back."""
    watcher = Watcher()
    assert watcher.told == [LIST]
    hint(come("ada"))

    def fail(*args: Any) -> Any:
        raise BackendUnavailable("x://", "away")

    with monkeypatch.context() as patch:
        patch.setattr(jobs.store(), "read", fail)
        assert watcher.told == []
        hint(come("bob"))
        assert watcher.told == []
    presence._look()
    assert watcher.told == [{"joined": {"ada": None, "bob": None}}]


def test_hint_during_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hint that arrives while the store is read causes another tick."""
    watcher = Watcher()
    assert watcher.told
    store = jobs.store()
    read = store.read

    def hinting(group: str, since: str = "") -> Reading:
        reading = read(group, since)
        if not any(person.key == "bob" for person in reading.joined):
            hint(come("bob"))
        return reading

    hint(come("ada"))
    with monkeypatch.context() as patch:
        patch.setattr(store, "read", hinting)
        assert watcher.told == [{"joined": {"ada": None}}, {"joined": {"bob": None}}]


def test_hints_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several changes in a quarter of a second, the first and the last are published."""
    published: list[bytes] = []
    monkeypatch.setattr(pubsub, "backend", lambda: object())
    monkeypatch.setattr(pubsub, "publish", lambda key, kind, data: published.append(data))
    for number in range(1, 5):
        watching.announce("room", f"e.{number}")
    assert published == [b"e.1"]
    jobs.run_waiting()
    assert published == [b"e.1", b"e.4"]
    watching.announce("room", "e.5")
    assert published == [b"e.1", b"e.4", b"e.5"]


def test_lost_hint(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """If other processes cannot be reached, that is logged: they find the version themselves."""

    def fail(*args: Any) -> Any:
        raise BackendUnavailable("x://", "away")

    monkeypatch.setattr(pubsub, "backend", lambda: object())
    monkeypatch.setattr(pubsub, "publish", fail)
    watching.announce("room", "e.1")
    assert "other processes cannot be reached" in caplog.text


def test_native_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick in a native thread leaves the sockets to the thread of the hub."""
    calls: list[Any] = []
    watcher = Watcher()
    monkeypatch.setattr(hub_thread, "is_foreign", lambda: True)
    monkeypatch.setattr(hub_thread, "hand_over", lambda *call: calls.append(call))
    presence.take_turn()
    assert watcher.data == b""
    monkeypatch.undo()
    for function, *args in calls:
        function(*args)
    assert watcher.told == [LIST]


def test_by_itself() -> None:
    """Without a test's client, ticks come by themselves, in threads."""
    presence_hooks.set_manual(False)
    store, is_read = jobs.store(), threading.Event()
    read = store.read

    def noted(group: str, since: str = "") -> Reading:
        is_read.set()
        return read(group, since)

    store.read = noted  # type: ignore[method-assign]
    Watcher()
    assert is_read.wait(60)


def test_too_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the sweep does what was to be done."""
    watcher = Watcher()
    assert watcher.told == [LIST]
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "later", lambda *args: False)
        hint(come("ada"))
        ROOM.presence(watcher.websocket, "own")
        ROOM.leave(watcher.websocket)
        other = Watcher()
    presence._look()
    assert other.told == [{"all": {"zed": None, "ada": None}}]


def test_moved() -> None:
    """A watcher that moves is told what has changed since, and no list."""
    first, second = Watcher(), Watcher()
    presence.take_turn()
    state = watching.told("room", first.websocket)
    assert state
    watching.forget("room", first.websocket)
    watching.forget("room", second.websocket)
    come("ada")
    watching.restore("room", first.websocket, state)
    assert first.told == [LIST, {"joined": {"ada": None}}]
    watching.restore("room", second.websocket, state)
    assert second.told == [LIST, {"joined": {"ada": None}}]
    third = Watcher()
    watching.restore("room", third.websocket, "")
    assert third.told == [{"all": {"zed": None, "ada": None}}]
