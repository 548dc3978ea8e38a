"""``PubSub`` with a backend that is slow, broken, or of another version."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from django.test import override_settings
from django.utils.crypto import salted_hmac

from django_wsmux import conf
from django_wsmux.backends import Backend as RealBackend
from django_wsmux.backends import BackendUnavailable, Gap, from_url
from django_wsmux.groups import Group, Member
from django_wsmux.groups import pubsub as pubsub_module
from django_wsmux.groups.envelope import pack
from django_wsmux.groups.members import channel_of
from django_wsmux.groups.pubsub import PubSub, Sequencer, members, membership, session_group
from django_wsmux.groups.pubsub import pubsub as own_pubsub

TIMEOUT = 60.0


class Backend:
    """A backend that can be slow, or fail to start."""

    def __init__(self) -> None:
        self.channels: dict[str, threading.Event] = {}
        self.effective = threading.Event()
        self.is_broken = False
        self.subscribing = threading.Semaphore(0)

    def start(self, *callbacks: Any) -> None:
        if self.is_broken:
            raise BackendUnavailable("local://", "not a directory", "")

    def subscribe(self, channel: str) -> threading.Event:
        event = self.channels.setdefault(channel, threading.Event())
        self.subscribing.release()
        return event

    def wait_for(self, subscription: threading.Event, timeout: float) -> bool:
        return self.effective.is_set() and subscription.wait(timeout)

    def unsubscribe(self, channel: str) -> None:
        del self.channels[channel]


@pytest.fixture
def backend() -> Backend:
    """A backend that works, unless a test changes it."""
    return Backend()


@pytest.fixture
def pubsub(backend: Any) -> Iterator[PubSub]:
    """A ``PubSub`` that uses the backend."""
    pubsub = PubSub()
    pubsub._backend, pubsub._made_for = backend, conf.get("WEBSOCKET_BACKEND")
    yield pubsub
    assert not members.of("@user:1")
    assert not members.of("room")
    assert not pubsub._watched


@pytest.mark.parametrize("name", ["@user:1", "@user:2"])
def test_add_fails(pubsub: PubSub, backend: Backend, name: str) -> None:
    """A socket that could not join is no member, and the next one tries to subscribe again."""
    one: Any = object()
    two: Any = object()
    backend.is_broken = True
    with pytest.raises(BackendUnavailable):
        pubsub.add("@user:1", one)
    assert not members.of("@user:1")
    backend.is_broken = False
    pubsub.add(name, two)
    assert members.of(name) == [two]
    assert list(backend.channels) == ["@people"]
    pubsub.discard(name, two)


@pytest.mark.parametrize("names", [("room", "room"), ("@user:1", "@user:2")])
def test_second_waits(
    pubsub: PubSub, backend: Backend, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every socket that joins waits until the broker has confirmed the subscription."""
    monkeypatch.setattr(pubsub_module, "_PATIENCE", TIMEOUT)
    backend.effective.set()
    sockets: list[Any] = [object(), object()]
    with ThreadPoolExecutor(2) as pool:
        joins = []
        for name, socket in zip(names, sockets, strict=True):
            joins.append(pool.submit(pubsub.add, name, socket))
            while not members.of(name) or socket not in members.of(name):
                pass
        event = backend.channels[channel_of(names[0])]
        condition: Any = event._cond  # type: ignore[attr-defined]
        deadline = threading.Event()
        for _ in range(int(TIMEOUT / 0.01)):
            if len(condition._waiters) == 2 or any(join.done() for join in joins):
                break
            deadline.wait(0.01)
        assert len(condition._waiters) == 2
        event.set()
        for join in joins:
            join.result(TIMEOUT)
    for name, socket in zip(names, sockets, strict=True):
        pubsub.discard(name, socket)


def test_second_after_a_failure(pubsub: PubSub, backend: Backend) -> None:
    """A second socket is subscribed if the first one fails while both join."""
    one, two = object(), object()
    first_is_in, may_fail = threading.Event(), threading.Event()
    start = backend.start

    def fail_late(*callbacks: Any) -> None:
        backend.start = start  # type: ignore[method-assign]
        first_is_in.set()
        assert may_fail.wait(TIMEOUT)
        raise BackendUnavailable("local://", "not a directory", "")

    backend.start = fail_late  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(pubsub.add, "@user:1", one)  # type: ignore[arg-type]
        assert first_is_in.wait(TIMEOUT)
        second = pool.submit(pubsub.add, "@user:2", two)  # type: ignore[arg-type]
        while not members.of("@user:2"):
            pass
        may_fail.set()
        assert isinstance(first.exception(TIMEOUT), BackendUnavailable)
        second.result(TIMEOUT)
    assert list(backend.channels) == ["@people"]
    assert pubsub._watched == {"@people": 1}
    pubsub.discard("@user:2", two)  # type: ignore[arg-type]


def test_count(pubsub: PubSub, backend: Backend) -> None:
    """Sockets that join and leave in threads are counted right; a channel without any is left."""
    wrong = []

    def come_and_go() -> None:
        socket: Any = object()
        for _ in range(300):
            pubsub.add("room", socket)
            if pubsub._watched.get("room", 0) != 1 or "room" not in backend.channels:
                wrong.append(dict(pubsub._watched))
            pubsub.discard("room", socket)

    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(come_and_go) for _ in range(8)]:
            each.result(TIMEOUT)
    assert not wrong
    assert not pubsub._watched
    other: Any = object()
    pubsub.add("@user:1", other)
    assert list(backend.channels) == ["@people"]
    pubsub.discard("@user:1", other)


def test_answer_again(pubsub: PubSub, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """A process that could not start to answer questions tries again, after a while."""
    backend.is_broken = True
    for _ in range(3):
        pubsub.answer("@processes", bytes)
    assert caplog.text.count("monitoring is unavailable in this process") == 1
    assert pubsub.answers("@processes")
    backend.is_broken = False
    pubsub._retry_at = 0.0
    pubsub.answer("@processes", bytes)
    assert list(backend.channels) == ["@processes"]


class Other:
    """Another process, as this one sees it: a backend of its own.

    Attributes:
        answer: its answer about the members of a group.
        questions: the questions that it received.
    """

    def __init__(self, backend: RealBackend) -> None:
        self.backend = backend
        self.answer: Any = []
        self.questions: list[Any] = []
        self.heard: list[bytes] = []
        self.has_heard = threading.Event()
        backend.start(self._receive, None, self._answer)

    def _receive(self, channel: str, payload: bytes) -> None:
        self.heard.append(payload)
        self.has_heard.set()

    def _answer(self, channel: str, question: bytes) -> bytes:
        self.questions.append((channel, json.loads(question)))
        return json.dumps(self.answer).encode()


@pytest.fixture
def other() -> Iterator[Other]:
    """Another process of the project."""
    url = f"local://?namespace={uuid4().hex}"
    with override_settings(WEBSOCKET_BACKEND=url):
        backend = from_url(url)
        try:
            yield Other(backend)
        finally:
            backend.close()
    own_pubsub.backend()  # closes the backend of the test


def test_newer_version(other: Other) -> None:
    """A member of a newer version may have more fields, one of an older version fewer."""
    other.backend.subscribe("room")
    other.answer = [{"user_id": "7", "info": {"a": 1}, "alias": "new"}, {"user_id": "8"}]
    found = Group("room").members()
    assert found == [Member("7", {"a": 1}), Member("8")]
    assert found.complete
    # A question with more fields is answered too.
    own_pubsub.answer("@nothing", bytes)
    question = {"group": "room", "prefix": "", "later": 1}
    assert list(other.backend.ask("room", json.dumps(question).encode())) == []


@pytest.mark.parametrize("answer", [7, {"a": 1}, ["x"], [None]])
def test_unreadable_answer(other: Other, answer: Any) -> None:
    """An answer that cannot be read counts as missing."""
    other.backend.subscribe("room")
    other.answer = answer
    found = Group("room").members()
    assert (found, found.missing, found.complete) == ([], 1, False)


def test_process_that_does_not_answer(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not answer counts as missing."""
    monkeypatch.setattr(pubsub_module, "_PATIENCE", 0.2)
    release = threading.Event()
    other.backend.subscribe("room")
    other._answer = lambda channel, question: release.wait(TIMEOUT) and b"[]"  # type: ignore
    other.backend.start(other._receive, None, other._answer)
    found = Group("room").members()
    release.set()
    assert (found, found.missing, found.complete) == ([], 1, False)
    assert own_pubsub.counts()["backend_unanswered"] == 1


def test_any_primary_key(other: Other) -> None:
    """A user's group has a name that other processes understand, with any primary key."""
    other.backend.subscribe("@people")
    for key in ("x" * 250, "jos\u00e9 o'neill@example.org", "\u65e5" * 200, "\n", "\ud800", 7):
        Group.for_user(key).send("hello")
        assert other.has_heard.wait(TIMEOUT)
        other.has_heard.clear()
        payload = other.heard.pop()
        assert payload.endswith(b"hello")
        found = Group.for_user(key).members()
        assert found.complete
        channel, question = other.questions.pop()
        assert channel == "@people"
        assert question["group"] == f"@user:{key}"


def test_rubbish(other: Other, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes that are no envelope are counted, logged and dropped; the next message arrives."""
    own_pubsub.answer("@nothing", bytes)
    socket: Any = Socket()
    own_pubsub.add("room", socket)
    try:
        for payload in (b"", b"\x01", b"\xff" * 20, b"\x01\x00\x00\x00\x00\x01\xff"):
            other.backend.publish("room", payload)
        other.backend.publish("room", b"\x77\x00\x00\x00\x00\x04room")
        other.backend.publish("room", b"\x01\x00\x00\x00\x00\x04roomhello")
        assert socket.has_heard.wait(TIMEOUT)
        assert socket.heard == [b"hello"]
        assert own_pubsub.counts()["backend_unreadable"] == 4
        assert "Traceback" not in caplog.text
        assert "kind 119" in caplog.text
    finally:
        own_pubsub.discard("room", socket)


class Holding(Sequencer):
    """A sequencer that keeps publications until ``release()``, and reverses their order."""

    __slots__ = ("events",)

    def __init__(self, deliver: Any) -> None:
        super().__init__(deliver)
        self.events: list[Any] = []

    def accept(self, key: Any, envelope: Any) -> None:
        self.events.append((key, envelope))

    def lose(self, gap: Gap) -> None:
        self.events.append(gap)

    def release(self) -> None:
        for key, envelope in reversed(self.events):
            super().accept(key, envelope)


def test_sequencer(pubsub: PubSub) -> None:
    """Another sequencer decides when publications reach members, and is told of gaps."""
    socket: Any = Socket()
    pubsub.add("room", socket)
    pubsub._receive("room", pack(1, "room", b"at once"))
    assert socket.heard == [b"at once"]
    holding = pubsub.sequencer = Holding(pubsub.deliver)
    pubsub._receive("room", pack(1, "room", b"first"))
    pubsub._receive("room", pack(1, "room", b"second"))
    pubsub._receive("x", pack(2, "room", b"other", "tenant"))
    assert socket.heard == [b"at once"]
    assert [key for key, _ in holding.events] == ["room", "room", ("tenant", "room")]
    holding.release()
    assert socket.heard == [b"at once", b"second", b"first"]
    holding.events.clear()
    gap = Gap("reconnected", 1.0, None)
    pubsub._report_gap(gap)
    assert holding.events == [gap]
    pubsub.discard("room", socket)


def test_name_in_messages(pubsub: PubSub) -> None:
    """A message has the name of its group, for framings that send it."""
    socket: Any = Socket()
    socket.deliver = socket.heard.append
    pubsub.add(("tenant", "room"), socket)
    pubsub._receive("x", pack(1, "room", b"hello", "tenant"))
    assert [(each.group, each.position) for each in socket.heard] == [("room", "")]
    pubsub.discard(("tenant", "room"), socket)


class Watcher:
    """An observer that records joins and leaves."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def joined(self, key: Any, member: Any, *, is_first: bool) -> None:
        self.seen.append(("joined", key, member, is_first))

    def left(self, key: Any, member: Any, *, is_last: bool) -> None:
        self.seen.append(("left", key, member, is_last))


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    """An observer that is registered during a test."""
    watcher = Watcher()
    membership.append(watcher)
    yield watcher
    membership.remove(watcher)


@pytest.mark.parametrize("secret", ["one", "other"])
def test_session_group(secret: str) -> None:
    """The name of a session's group tells nothing about the key, and depends on the secret."""
    with override_settings(SECRET_KEY=secret):
        for key in ("a" * 32, "b" * 32):
            digest = salted_hmac("django_wsmux.session", key, algorithm="sha256").hexdigest()
            assert session_group(key) == f"@session:{digest[:20]}"


def test_membership(pubsub: PubSub, watcher: Watcher) -> None:
    """Each join and leave is reported once, with the first and the last member marked."""
    one, two = object(), object()
    key = ("tenant", "room")
    pubsub.add(key, one)  # type: ignore[arg-type]
    pubsub.add(key, one, {"new": "info"})  # type: ignore[arg-type]
    pubsub.add(key, two)  # type: ignore[arg-type]
    pubsub.discard(key, one)  # type: ignore[arg-type]
    pubsub.discard(key, one)  # type: ignore[arg-type]
    pubsub.discard(key, two)  # type: ignore[arg-type]
    assert watcher.seen == [
        ("joined", key, one, True),
        ("joined", key, two, False),
        ("left", key, one, False),
        ("left", key, two, True),
    ]


def test_membership_of_several(pubsub: PubSub, backend: Backend, watcher: Watcher) -> None:
    """Groups of a user and a session are reported too; a join that fails is followed by a leave."""
    one: Any = object()
    keys = ("@user:1", "@session:a")
    pubsub.add_all(keys, one)
    for key in keys:
        pubsub.discard(key, one)
    told = [
        *(("joined", key, one, True) for key in keys),
        *(("left", key, one, True) for key in keys),
    ]
    assert watcher.seen == told
    pubsub._subscribed.clear()
    backend.is_broken = True
    with pytest.raises(BackendUnavailable):
        pubsub.add_all(keys, one)
    assert watcher.seen == told * 2


class Socket:
    """A member that records what it receives."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.has_heard = threading.Event()

    def deliver(self, message: Any) -> None:
        self.heard.append(message.payload)
        self.has_heard.set()
