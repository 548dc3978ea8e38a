"""Counters of this process, and the histogram of handlers."""

from __future__ import annotations

import pytest

from django_wsmux.connection.counters import COUNTERS, count, counters, handler_snapshot
from django_wsmux.connection.turns import HANDLER_BOUNDS, handled


def test_count() -> None:
    """Each name has its own counter; an unknown name is an error."""
    before = dict(counters)
    count("internal_errors")
    assert counters == {**before, "internal_errors": before["internal_errors"] + 1}
    assert counters.keys() == COUNTERS.keys()
    with pytest.raises(KeyError):
        count("misspelt")


def test_handled() -> None:
    """A call counts within each bound that it did not exceed, and in the sums."""
    before = handler_snapshot()
    for seconds in (0.0, 0.1, 0.2, 100.0):
        handled(seconds)
    after = handler_snapshot()
    grown = {name: after[name] - before[name] for name in after}
    assert grown.pop("handler_seconds") == pytest.approx(100.3)
    assert grown.pop("handler_calls") == 4
    within = [1, 1, 1, 2, 3, 3, 3]
    names = [f"handler_calls_within_{bound:g}" for bound in HANDLER_BOUNDS]
    assert grown == dict(zip(names, within, strict=True))
