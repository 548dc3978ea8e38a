"""``endurance.py`` in short: what every run of the tests can afford."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.endurance import (
    BACKENDS,
    Crowd,
    Scale,
    endure_faults,
    endure_nothing,
    judge,
    numbers_in,
    serving,
)
from tests.conftest import missing, need
from tests.services import find_postgres

SHORT = Scale(members=50, messages=200, stalled=10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_endurance(backend: str, environment: dict[str, str], tmp_path: Path) -> None:
    """Healthy members have every message in order, but for what they were told they may not."""
    if backend == "redis":
        need("redis-server")
    elif backend == "postgres" and find_postgres() is None:
        missing("PostgreSQL")
    with serving(backend, tmp_path, environment) as crowd:
        crowd.gather(SHORT.members)
        assert endure_nothing(crowd, SHORT).received == 30_000
        if backend == "local":
            hold_that_it_can_fail(crowd)
        result = endure_faults(crowd, SHORT)
        # Nothing excuses anything where there is no broker.
        assert backend != "local" or result.lacking == result.failed == 0


def hold_that_it_can_fail(crowd: Crowd) -> None:
    """A message that one member lacks, has twice, or has too early is found."""
    member = crowd.members[-1]
    whole = bytes(member.stream)
    size = len(whole) // sum(map(len, numbers_in(whole).values()))
    for broken in (
        whole[:-size],
        whole + whole[-size:],
        whole[size:] + whole[:size],
        whole[:-1],
    ):
        member.stream[:] = broken
        with pytest.raises(AssertionError):
            judge(crowd, None)
    member.stream[:] = whole
    judge(crowd, None)
