"""Log lines of refused handshakes."""

from __future__ import annotations

import time

import pytest

from django_wsmux.connection.counters import counters
from django_wsmux.logs import forget_lines
from django_wsmux.server.refusals import note


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless its only item changes."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_note(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """All refusals are counted; each kind has a limit of its own."""
    forget_lines()
    before = counters["refused_user"], counters["refused_host"]
    for _ in range(100):
        note("refused_user", "429 Too Many Requests", "/chat/", "too many")
    note("refused_host", "400 Bad Request", "/chat/\n", "bad")
    assert counters["refused_user"] == before[0] + 100
    assert counters["refused_host"] == before[1] + 1
    messages = [record.getMessage() for record in caplog.records]
    line = "WebSocket handshake refused with 429 Too Many Requests: '/chat/': too many"
    assert messages[:-1] == [line] * 20
    assert messages[-1] == r"WebSocket handshake refused with 400 Bad Request: '/chat/\n': bad"
