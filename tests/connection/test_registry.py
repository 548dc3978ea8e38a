"""The open sockets of a process, and how they leave it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from django_wsmux.connection import registry


@pytest.fixture
def pairs(connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Three open sockets, and no others in the process."""
    monkeypatch.setattr(registry, "open_sockets", set())
    pairs = [connect() for _ in range(3)]
    for pair in pairs:
        pair.open()
    return pairs


def test_leave(pairs: list[Any]) -> None:
    """The policy is applied to each open socket, and to no other."""
    pairs[0].websocket.close()
    left: list[Any] = []
    registry.leave(left.append)
    assert set(left) == {pair.websocket for pair in pairs[1:]}
    assert not any(socket.closed for socket in left)


def test_close_all(pairs: list[Any]) -> None:
    """All open sockets are closed with the code."""
    registry.close_all(1001, "")
    assert [pair.sent for pair in pairs] == [b"101 \x88\x02\x03\xe9"] * 3
