"""Freed memory is kept for the next large message."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from django_wsmux.connection import malloc

PROGRAM = """
import resource, sys
from django_wsmux.connection.malloc import keep_freed_memory

keep_freed_memory()

def work():
    for _ in range(100):
        several = [bytearray(2**20) for _ in range(4)]

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**variables: str) -> int:
    """Return the page faults of allocating 4 MiB 100 times."""
    env = {name: value for name, value in os.environ.items() if name not in malloc._VARIABLES}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**env, **variables},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(result.stdout)


def test_kept() -> None:
    """Freed memory is reused for the next message."""
    assert page_faults() < 1000


def test_environment_goes_first() -> None:
    """Variables that configure glibc take precedence."""
    assert page_faults(MALLOC_TRIM_THRESHOLD_="131072") > 10_000


def test_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A C library without mallopt() is left alone."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    malloc.keep_freed_memory.cache_clear()
    malloc.keep_freed_memory()
