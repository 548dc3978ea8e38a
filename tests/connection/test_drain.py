"""How a stopping process closes its sockets, with a simulated clock."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from django_wsmux.connection import registry
from django_wsmux.connection.connection import Connection
from django_wsmux.connection.drain import Drain


class Socket:
    """A socket that closes at once and records how."""

    def __init__(self) -> None:
        self.closed = False
        self.closes: list[tuple[int, str]] = []

    def close(self, code: int, reason: str) -> None:
        self.closed = True
        self.closes.append((code, reason))


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The open sockets of a simulated process."""
    opened: set[Connection] = set()
    monkeypatch.setattr(registry, "open_sockets", opened)
    monkeypatch.setattr(registry, "stopping", threading.Event())
    made = [Socket() for _ in range(1000)]
    opened.update(cast(list[Connection], made))
    return made


def closed(sockets: list[Any]) -> list[Any]:
    """Return the closed sockets."""
    return [socket for socket in sockets if socket.closed]


def test_spread(sockets: list[Any]) -> None:
    """The first closes at once, the last at the end of the window, the others evenly between."""
    drain = Drain(5, 100)
    counts = []
    for now in (100, 100.01, 101, 102.5, 104.5, 105):
        is_over = drain.close_due(now)
        counts.append((len(closed(sockets)), is_over))
    assert counts == [
        (1, False),
        (3, False),
        (201, False),
        (501, False),
        (901, False),
        (1000, True),
    ]
    assert all(socket.closes == [(1012, "service restart")] for socket in sockets)


def test_random_places(sockets: list[Any]) -> None:
    """The order is random each time."""
    Drain(5, 0).close_due(2.5)
    half = closed(sockets)
    for socket in half:
        socket.closed = False
    Drain(5, 0).close_due(2.5)
    assert closed(sockets) != half


def test_few_sockets(sockets: list[Any]) -> None:
    """A few sockets do not wait for a window that is meant for many."""
    for socket in sockets[3:]:
        registry.open_sockets.discard(socket)
    drain = Drain(5, 0)
    assert drain.window == 0.03
    assert drain.close_due(0.03)
    assert len(closed(sockets)) == 3


def test_without_sockets(sockets: list[Any]) -> None:
    """Without sockets, the drain is over at once."""
    registry.open_sockets.clear()
    assert Drain(5, 0).close_due(0)


def test_no_window(sockets: list[Any]) -> None:
    """Without a window, all are closed at once."""
    assert Drain(0, 0).close_due(0)
    assert len(closed(sockets)) == 1000


def test_handshakes(sockets: list[Any]) -> None:
    """New handshakes are refused; sockets of earlier ones are closed at the end."""
    drain = Drain(1, 0)
    assert registry.stopping.is_set()
    late = cast(Any, Socket())
    registry.open_sockets.add(late)
    drain.close_due(0.9)
    assert not late.closed
    assert drain.close_due(1)
    assert late.closed
    even_later = cast(Any, Socket())
    registry.open_sockets.add(even_later)
    assert drain.close_due(2)
    assert even_later.closes == [(1012, "service restart")]
    assert late.closes == [(1012, "service restart")]


def test_another_policy(sockets: list[Any]) -> None:
    """Another policy is applied to each socket once, at the same pace."""
    left: list[Any] = []

    def leave(socket: Any) -> None:
        left.append(socket)
        socket.closed = True

    sockets[0].closed = True
    drain = Drain(5, 0, leave)
    assert not drain.close_due(2.5)
    assert 500 <= len(left) <= 501
    assert drain.close_due(5)
    assert len(left) == 999
    assert set(left) == set(sockets[1:])
    assert not any(socket.closes for socket in sockets)
