"""When clients return after a close."""

from __future__ import annotations

import pytest

from django_wsmux.connection import registry
from django_wsmux.connection.returning import Pace


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand open sockets."""
    monkeypatch.setattr(registry, "open_sockets", set(range(10_000)))


def test_few() -> None:
    """A few clients return within a second or two, regardless of the cost of their handshakes."""
    pace = Pace()
    pace.note(0.0, 10.0)
    times = {pace.after() for _ in range(100)}
    assert len(times) > 10
    assert 0.5 <= min(times) <= max(times) <= 1.5


@pytest.mark.usefixtures("crowd")
def test_spread() -> None:
    """Many clients return evenly over the time that their handshakes take."""
    pace = Pace()
    assert pace.rate == 100
    # Half of a process that takes 0.8 ms for a handshake.
    pace.note(5.0, 5.0008)
    assert round(pace.rate) == 625
    times = sorted(pace.after() for _ in range(10_000))
    assert times[0] >= 0.5
    assert times[-1] <= 16.5
    # No second has many more than the rate.
    assert max(sum(second <= each < second + 1 for each in times) for second in range(17)) < 900


def test_measures() -> None:
    """The rate is that of the fastest handshake, or of the second with the most."""
    pace = Pace()
    for now in (1.0, 2.0, 2.5):
        pace.note(now - 0.002, now)
    assert round(pace.rate) == 250
    for number in range(300):
        pace.note(2.0, 3.0 + number / 300)
    assert pace.rate == 300
    pace.note(3.0, 9.0)
    pace.note(9.0, 9.0)
    assert pace.rate == 300
