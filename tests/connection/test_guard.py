"""Errors of other people's code end at the guard."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from django.dispatch import Signal

from django_wsmux.connection import guard
from django_wsmux.connection.counters import counters


def test_call(caplog: pytest.LogCaptureFixture) -> None:
    """An exception is counted and logged with its traceback."""
    before = counters["internal_errors"]
    guard.call(int, "7")
    assert counters["internal_errors"] == before
    guard.call(int, "seven")
    assert counters["internal_errors"] == before + 1
    assert "ValueError: invalid literal" in caplog.text


def test_notify(caplog: pytest.LogCaptureFixture) -> None:
    """Neither an exception of a receiver nor its exit reaches the caller."""
    received: list[Any] = []

    def note(sender: Any, **arguments: Any) -> None:
        received.append((sender, arguments["code"]))

    def fail(sender: Any, **arguments: Any) -> None:
        raise ValueError("a receiver's bug")

    def leave(sender: Any, **arguments: Any) -> None:
        sys.exit()

    signal = Signal()
    for receiver in (fail, note, leave):
        signal.connect(receiver)
    guard.notify(signal, "sender", code=1000)
    assert received == [("sender", 1000)]
    assert "A receiver of a signal failed" in caplog.text
