"""The flag behind ``websocket.fileno()``, in each implementation."""

from __future__ import annotations

import os
import sys
from select import select

import pytest

from django_wsmux.connection.readable import EventReadiness, PairReadiness, Readiness


def is_readable(flag: EventReadiness | PairReadiness) -> bool:
    """Call select() without waiting."""
    return bool(select([flag], [], [], 0)[0])


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            EventReadiness,
            marks=pytest.mark.skipif(sys.platform != "linux", reason="needs eventfd"),
        ),
        PairReadiness,
    ],
)
def test_level(kind: type[EventReadiness | PairReadiness]) -> None:
    """The flag is readable while it is set, however often, and closes with its object."""
    flag = kind()
    assert not is_readable(flag)
    for _ in range(2):
        flag.set()
        flag.set()
        assert is_readable(flag)
        assert is_readable(flag)
        flag.clear()
        flag.clear()
        assert not is_readable(flag)
    descriptor = flag.fileno()
    del flag
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_choice() -> None:
    """The cheaper implementation is used where it exists."""
    assert Readiness is (EventReadiness if hasattr(os, "eventfd") else PairReadiness)
