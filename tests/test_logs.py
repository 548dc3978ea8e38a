"""Log lines: their rate limit, and client values in them."""

from __future__ import annotations

import time

import pytest

from django_wsmux.logs import LogLimit, quote


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless its only item changes."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_limit(clock: list[float]) -> None:
    """A burst of lines, then one now and then, with the number of omitted lines."""
    limit = LogLimit(2, 10)
    assert [limit.suffix() for _ in range(5)] == ["", "", None, None, None]
    clock[0] += 9.9
    assert limit.suffix() is None
    clock[0] += 0.2
    assert limit.suffix() == " (4 more like this were not logged)"
    assert limit.suffix() is None
    clock[0] += 3600
    assert [limit.suffix() for _ in range(3)] == [" (1 more like this were not logged)", "", None]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("https://a.example", "'https://a.example'"),
        ("a\r\nb\x1b[31m\x9b", r"'a\r\nb\x1b[31m\x9b'"),
        ("\u202egnp.exe", r"'\u202egnp.exe'"),
        ("x" * 200, f"'{'x' * 200}'"),
        ("x" * 201, f"'{'x' * 200}'..."),
    ],
)
def test_quote(value: str, said: str) -> None:
    """Text is escaped and truncated."""
    assert quote(value) == said
