"""A short run of ``tests/functional/model.py`` with each store."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import missing, need
from tests.functional.model import STORES
from tests.services import find_postgres
from tests.support import ROOT


def run(*options: str) -> str:
    """Run the model, and return its output."""
    command = [sys.executable, "-m", "tests.functional.model", "--size", "40", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("store", STORES)
def test_nothing_is_missed(store: str) -> None:
    """Every client gets every message once, in one order, while connections and workers fail."""
    if store == "redis":
        need("redis-server")
    elif store == "postgres" and find_postgres() is None:
        missing("PostgreSQL")
    # The store in memory ends with its process.
    faults = ["cut", "stop"] if store == "memory" else ["cut", "stop", "kill"]
    options = ["--store", store, "--messages", "600", "--clients", "20", "--groups", "4"]
    output = run(*options, "--rate", "200", "--pause", "0.2", "--faults", *faults)
    assert "gaps" not in output.partition("clients: ")[2]


def test_gaps_are_told() -> None:
    """Groups are forgotten, and clients fall behind further than the limit."""
    options = ["--messages", "600", "--clients", "20", "--groups", "4", "--limit", "5"]
    run(*options, "--rate", "200", "--pause", "0.1", "--no-throttle", "--faults", "cut", "forget")
