"""The relay with a backend that is slow, broken, or of another version."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from django.test import override_settings

from django_wsmux import conf
from django_wsmux.backends import Backend as RealBackend
from django_wsmux.backends import BackendUnavailable, from_url
from django_wsmux.groups import Group, Member
from django_wsmux.groups import pubsub as pubsub_module
from django_wsmux.groups.pubsub import PubSub, members
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
def relay(backend: Any) -> Iterator[PubSub]:
    """A relay that uses the backend."""
    relay = PubSub()
    relay._backend, relay._made_for = backend, conf.get("WEBSOCKET_BACKEND")
    yield relay
    assert not members.of("@user:1")
    assert not members.of("room")
    assert not relay._watched


@pytest.mark.parametrize("name", ["@user:1", "@user:2"])
def test_add_fails(relay: PubSub, backend: Backend, name: str) -> None:
    """A socket that could not join is no member, and the next one tries to subscribe again."""
    one: Any = object()
    two: Any = object()
    backend.is_broken = True
    with pytest.raises(BackendUnavailable):
        relay.add("@user:1", one)
    assert not members.of("@user:1")
    backend.is_broken = False
    relay.add(name, two)
    assert members.of(name) == [two]
    assert list(backend.channels) == ["@people"]
    relay.discard(name, two)


@pytest.mark.parametrize("names", [("room", "room"), ("@user:1", "@user:2")])
def test_second_waits(
    relay: PubSub, backend: Backend, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every socket that joins waits until the broker has confirmed the subscription."""
    monkeypatch.setattr(pubsub_module, "_PATIENCE", TIMEOUT)
    backend.effective.set()
    sockets: list[Any] = [object(), object()]
    with ThreadPoolExecutor(2) as pool:
        joins = []
        for name, socket in zip(names, sockets, strict=True):
            joins.append(pool.submit(relay.add, name, socket))
            while not members.of(name) or socket not in members.of(name):
                pass
        event = backend.channels[pubsub_module._channel(names[0])]
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
        relay.discard(name, socket)


def test_second_after_a_failure(relay: PubSub, backend: Backend) -> None:
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
        first = pool.submit(relay.add, "@user:1", one)  # type: ignore[arg-type]
        assert first_is_in.wait(TIMEOUT)
        second = pool.submit(relay.add, "@user:2", two)  # type: ignore[arg-type]
        while not members.of("@user:2"):
            pass
        may_fail.set()
        assert isinstance(first.exception(TIMEOUT), BackendUnavailable)
        second.result(TIMEOUT)
    assert list(backend.channels) == ["@people"]
    assert relay._watched == {"@people": 1}
    relay.discard("@user:2", two)  # type: ignore[arg-type]


def test_count(relay: PubSub, backend: Backend) -> None:
    """Sockets that join and leave in threads are counted right; a channel without any is left."""
    wrong = []

    def come_and_go() -> None:
        socket: Any = object()
        for _ in range(300):
            relay.add("room", socket)
            if relay._watched.get("room", 0) != 1 or "room" not in backend.channels:
                wrong.append(dict(relay._watched))
            relay.discard("room", socket)

    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(come_and_go) for _ in range(8)]:
            each.result(TIMEOUT)
    assert not wrong
    assert not relay._watched
    other: Any = object()
    relay.add("@user:1", other)
    assert list(backend.channels) == ["@people"]
    relay.discard("@user:1", other)


def test_answer_again(relay: PubSub, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """A process that could not start to answer questions tries again, after a while."""
    backend.is_broken = True
    for _ in range(3):
        relay.answer("@processes", bytes)
    assert caplog.text.count("cannot be asked about its sockets") == 1
    assert relay.answers("@processes")
    backend.is_broken = False
    relay._retry_at = 0.0
    relay.answer("@processes", bytes)
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
        assert "opcode 119" in caplog.text
    finally:
        own_pubsub.discard("room", socket)


class Socket:
    """A member that records what it receives."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.has_heard = threading.Event()

    def deliver(self, message: Any) -> None:
        self.heard.append(message.payload)
        self.has_heard.set()
