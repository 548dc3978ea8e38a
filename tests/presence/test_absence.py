"""What a handle of a store notices of its absence."""

from __future__ import annotations

import pytest

from django_wsmux.presence import absence
from django_wsmux.presence.absence import Absence


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock."""
    clock = Clock()
    monkeypatch.setattr(absence, "time", clock)
    return clock


def test_long(clock: Clock) -> None:
    """The store is told once, after an absence of a third of the time to live."""
    noticed = Absence()
    clock.now += 100
    assert not noticed.is_to_tell(15)
    noticed.succeeded()
    clock.now += 3
    noticed.failed()
    assert not noticed.is_to_tell(15)
    clock.now += 2
    assert noticed.is_to_tell(15)
    noticed.told()
    noticed.succeeded()
    assert not noticed.is_to_tell(15)


def test_short(clock: Clock) -> None:
    """A call that fails now and then is no absence."""
    noticed = Absence()
    for _ in range(10):
        clock.now += 4
        noticed.failed()
        assert not noticed.is_to_tell(15)
        noticed.succeeded()


def test_often(clock: Clock) -> None:
    """The store is not told often, so that rows of dead processes are removed in the end."""
    noticed = Absence()
    told = 0
    for _ in range(10):
        clock.now += 6
        noticed.failed()
        if noticed.is_to_tell(15):
            noticed.told()
            told += 1
        noticed.succeeded()
    assert told == 1
