"""The flag behind ``websocket.fileno()``, out of what each system has."""

from __future__ import annotations

import os
import sys
from select import select

import pytest

from django_wsmux.server.readiness import EventReadiness, PairReadiness, Readiness


def is_readable(flag: EventReadiness | PairReadiness) -> bool:
    """Ask select() without waiting."""
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
    """It is readable while it is set, however often that was said, and goes with its object."""
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
    """The cheaper one is used where there is one."""
    assert Readiness is (EventReadiness if hasattr(os, "eventfd") else PairReadiness)
