"""Sockets move between real processes that publish: nothing is lost, doubled or reordered."""

from __future__ import annotations

import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import need
from tests.services import RedisServer
from tests.support import TIMES

from .mover import TIMEOUT, Mover

#: Seconds for which sockets move while all processes publish.
MOVING = 0.3 * TIMES


class Client:
    """The clients of all sockets: they read what arrives."""

    def __init__(self) -> None:
        self.heard: dict[str, list[str]] = {}
        self.codes: dict[str, int] = {}
        self._rest: dict[str, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._is_over = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def connect(self, name: str) -> int:
        """Return the server's descriptor of a new socket."""
        ours, theirs = socket.socketpair()
        self.heard[name], self._rest[name] = [], b""
        self._selector.register(ours, selectors.EVENT_READ, name)
        return theirs.detach()

    def _read(self) -> None:
        while not self._is_over:
            for key, _ in self._selector.select(0.05):
                sock: Any = key.fileobj
                data = sock.recv(2**20)
                if not data:
                    self._selector.unregister(sock)
                    sock.close()
                with self._news:
                    self._parse(key.data, data)
                    self._news.notify_all()

    def _parse(self, name: str, data: bytes) -> None:
        data = self._rest[name] + data
        while len(data) >= 2 and len(data) >= 2 + data[1]:
            body, opcode = data[2 : 2 + data[1]], data[0] & 15
            data = data[2 + data[1] :]
            if opcode == 8:
                self.codes[name] = int.from_bytes(body[:2], "big")
            else:
                self.heard[name].append(body.decode())
        self._rest[name] = data

    def wait(self, is_enough: Callable[[], bool]) -> bool:
        """Wait until a condition is true."""
        with self._news:
            return self._news.wait_for(is_enough, TIMEOUT)

    def stop(self) -> None:
        """Close all sockets."""
        self._is_over = True
        self._thread.join(TIMEOUT)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()


@pytest.fixture
def client() -> Iterator[Client]:
    """The clients."""
    client = Client()
    yield client
    client.stop()


@pytest.fixture(scope="module", params=["local", "redis", "postgres"])
def settings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """Settings of the processes, with each backend."""
    settings = {
        "SECRET_KEY": "x" * 50,
        "INSTALLED_APPS": ["django_wsmux"],
        "WEBSOCKET_NAMESPACE": "tests",
        "WEBSOCKET_HISTORY": {"kept*": {"messages": 5_000, "seconds": 600}},
        "WEBSOCKET_HISTORY_LIMIT": 5_000,
    }
    if request.param == "local":
        yield settings | {"WEBSOCKET_BACKEND": f"local://{tmp_path_factory.mktemp('l')}"}
    elif request.param == "redis":
        need("redis-server")
        server = RedisServer(tmp_path_factory.mktemp("redis"))
        yield settings | {"WEBSOCKET_BACKEND": f"{server.url}?timeout=60&silence=60"}
        server.stop()
    else:
        port = request.getfixturevalue("postgres_server").port
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": "127.0.0.1",
            "PORT": port,
        }
        yield settings | {
            "WEBSOCKET_BACKEND": "postgres://?using=default&timeout=60&silence=60",
            "DATABASES": {"default": database},
        }


@pytest.fixture
def start(settings: dict[str, Any]) -> Iterator[Callable[[], Mover]]:
    """Return a function that starts a process."""
    movers: list[Mover] = []

    def start() -> Mover:
        movers.append(Mover(settings))
        return movers[-1]

    yield start
    for each in movers:
        each.stop()


def move(giver: Mover, taker: Mover, names: list[str]) -> bool:
    """Move sockets; return whether nothing was missed."""
    request = giver.call("request", names)
    answer = taker.call("listen", request)
    is_complete: bool = giver.call("wait_for", answer, TIMEOUT)
    (records, cut), *descriptors = giver.call("give", names)
    taker.call("take", records, cut, is_complete, descriptors=tuple(descriptors))
    return is_complete


def check(client: Client, sent: dict[str, int], groups: dict[str, list[str]]) -> None:
    """Check that each socket heard all numbers of all publishers, once and in order."""
    for name, own in groups.items():
        expected = {f"{who}:{group}": list(range(n)) for who, n in sent.items() for group in own}
        total = sum(map(len, expected.values()))
        client.wait(lambda name=name, total=total: len(client.heard[name]) >= total)  # type: ignore[misc]
        found: dict[str, list[int]] = {each: [] for each in expected}
        for text in client.heard[name]:
            source, _, number = text.rpartition(":")
            found[source].append(int(number))
        assert found == expected, name


def move_to_and_fro(first: Mover, second: Mover, names: list[str]) -> None:
    """Move sockets from the first process to the second and back, for some time."""
    deadline = time.monotonic() + MOVING
    giver, taker = first, second
    moves = 0
    while time.monotonic() < deadline or moves < 4:
        assert move(giver, taker, names)
        giver, taker = taker, giver
        moves += 1


def test_nothing_lost(start: Callable[[], Mover], client: Client, settings: dict[str, Any]) -> None:
    """Three processes and one that only publishes send at full speed while sockets move."""
    first, second, third, sender = (start() for _ in range(4))
    names = {f"s{number}": ["a", "b"] if number % 2 else ["a"] for number in range(6)}
    for name, groups in names.items():
        first.call("open", name, groups, name, descriptors=(client.connect(name),))
    second.call("open", "other", ["b"], "other", descriptors=(client.connect("other"),))
    sent: dict[str, int] = {}
    for who, mover in {"1": first, "2": second, "3": third, "4": sender}.items():
        mover.call("publish", ["a", "b"], who)
    if settings["WEBSOCKET_BACKEND"].startswith("local:"):
        # A broker is waited for, which gevent does not support in a thread without a hub.
        second.call("publish_natively", ["a", "b"], "5")
    move_to_and_fro(first, second, list(names))
    (sent["1"],) = first.call("finish")
    sent |= zip(("2", "5"), second.call("finish"), strict=False)
    (sent["3"],) = third.call("finish")
    (sent["4"],) = sender.call("finish")
    check(client, sent, {**names, "other": ["b"]})
    assert first.call("count", "moved_with_gap") == 0
    assert second.call("count", "moved_with_gap") == 0
    assert not client.codes


def test_with_a_history(start: Callable[[], Mover], client: Client) -> None:
    """Groups with a history continue exactly where they were."""
    first, second, third = (start() for _ in range(3))
    names = {f"s{number}": ["kept", "kept2", "a"] for number in range(4)}
    for name, groups in names.items():
        first.call("open", name, groups, name, descriptors=(client.connect(name),))
    for who, mover in {"1": first, "2": second, "3": third}.items():
        mover.call("publish", ["kept", "kept2", "a"], who)
    move_to_and_fro(first, second, list(names))
    sent = {
        who: each.call("finish")[0] for who, each in zip("123", (first, second, third), strict=True)
    }
    check(client, sent, names)
    for mover in (first, second):
        assert mover.call("count", "history_gaps") == 0


@pytest.mark.combinations(1)
@pytest.mark.parametrize("kind", ["group", "kept", "user"])
def test_closes(kind: str, start: Callable[[], Mover], client: Client) -> None:
    """A close in the middle of a move counts, and what was sent before it arrives."""
    first, second, third = (start() for _ in range(3))
    names = ["one", "two"]
    for name in names:
        first.call("open", name, ["a", "kept"], name, descriptors=(client.connect(name),))
    request = first.call("request", names)
    answer = second.call("listen", request)
    assert first.call("wait_for", answer, TIMEOUT)
    (records, cut), *descriptors = first.call("give", names)
    third.call("send", "a", "x:a:0")
    if kind == "user":
        third.call("close_user", "one")
    else:
        third.call("close_group", "a" if kind == "group" else "kept", 4000)
    # It has arrived when a later one has.
    second.call("open", "other", ["b"], "other", descriptors=(client.connect("other"),))
    third.call("send", "b", "later")
    assert client.wait(lambda: "later" in client.heard["other"])
    second.call("take", records, cut, True, descriptors=tuple(descriptors))
    closed = {"one": 4401} if kind == "user" else dict.fromkeys(names, 4000)
    assert client.wait(lambda: client.codes == closed)
    assert client.wait(lambda: client.heard["two"] == ["x:a:0"])
    second.call("finished", request)
    first.call("finished")


def test_back(start: Callable[[], Mover], client: Client) -> None:
    """A process that takes its sockets back has kept the messages of the meantime."""
    first, second, third = (start() for _ in range(3))
    first.call("open", "one", ["a", "kept"], "one", descriptors=(client.connect("one"),))
    first.call("open", "other", ["a"], "other", descriptors=(client.connect("other"),))
    answer = second.call("listen", first.call("request", ["one"]))
    assert first.call("wait_for", answer, TIMEOUT)
    (records, cut), *descriptors = first.call("give", ["one"])
    for group in ("a", "kept"):
        third.call("send", group, f"third:{group}")
        first.call("send", group, f"first:{group}")
    assert client.wait(lambda: "third:a" in client.heard["other"])
    first.call("take", records, cut, True, descriptors=tuple(descriptors))
    third.call("send", "a", "end")
    assert client.wait(lambda: "end" in client.heard["one"])
    expected = {"third:a", "first:a", "third:kept", "first:kept", "end"}
    assert client.wait(lambda: set(client.heard["one"]) == expected)
    assert len(client.heard["one"]) == len(expected)
    first.call("finished")


def test_incomplete(start: Callable[[], Mover], client: Client) -> None:
    """If another process may have sent something unnoticed, that is a gap, and it is counted."""
    first, second = start(), start()
    first.call("open", "one", ["a"], "one", descriptors=(client.connect("one"),))
    first.call("open", "two", ["kept"], "", descriptors=(client.connect("two"),))
    assert first.call("wait_for", {}, 0.0) is False
    (records, cut), *descriptors = first.call("give", ["one", "two"])
    second.call("take", records, cut, False, descriptors=tuple(descriptors))
    assert second.call("count", "moved_with_gap") == 2
    first.call("send", "a", "hello")
    assert client.wait(lambda: client.heard["one"] == ["hello"])


@pytest.mark.parametrize("settings", ["local"], indirect=True)
def test_stopped(start: Callable[[], Mover], client: Client) -> None:
    """A process that does not answer may have sent something unnoticed; no broker orders it."""
    first, second, third = (start() for _ in range(3))
    first.call("open", "one", ["a"], "one", descriptors=(client.connect("one"),))
    third.call("open", "two", ["a"], "two", descriptors=(client.connect("two"),))
    third.process.send_signal(signal.SIGSTOP)
    request = first.call("request", ["one"])
    assert second.call("listen", request, 0.2) == {}
    third.process.send_signal(signal.SIGCONT)
    answer = second.call("listen", request)
    assert first.call("wait_for", answer, TIMEOUT) is True
