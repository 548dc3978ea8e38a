"""Sockets move between real processes that publish: nothing is lost, doubled or reordered."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .mover import TIMEOUT, Mover

#: Seconds for which sockets move while all processes publish.
MOVING = 2.0


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


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of the processes."""
    directory = tmp_path_factory.mktemp("l")
    return {
        "SECRET_KEY": "x" * 50,
        "WEBSOCKET_BACKEND": f"local://{directory}",
        "INSTALLED_APPS": ["django_wsmux"],
        "WEBSOCKET_NAMESPACE": "tests",
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


def test_nothing_lost(start: Callable[[], Mover], client: Client) -> None:
    """Three processes and one that only publishes send at full speed while sockets move."""
    first, second, third, sender = (start() for _ in range(4))
    names = {f"s{number}": ["a", "b"] if number % 2 else ["a"] for number in range(6)}
    for name, groups in names.items():
        first.call("open", name, groups, name, descriptors=(client.connect(name),))
    second.call("open", "other", ["b"], "other", descriptors=(client.connect("other"),))
    sent = {}
    for who, mover in {"1": first, "2": second, "3": third, "4": sender}.items():
        mover.call("publish", ["a", "b"], who)
    second.call("publish_natively", ["a", "b"], "5")
    deadline = time.monotonic() + MOVING
    pair = [first, second]
    moves = 0
    while time.monotonic() < deadline or moves < 4:
        assert move(*pair, list(names))
        pair.reverse()
        moves += 1
    (sent["1"],) = first.call("finish")
    sent["2"], sent["5"] = second.call("finish")
    (sent["3"],) = third.call("finish")
    (sent["4"],) = sender.call("finish")
    check(client, sent, {**names, "other": ["b"]})
    assert first.call("count", "moved_with_gap") == 0
    assert second.call("count", "moved_with_gap") == 0
    print(moves, sent)
    assert not client.codes
