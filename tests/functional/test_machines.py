"""Short runs of ``bench/machines.py`` and ``bench/hold.py``, whose figures the tests ignore."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import need
from tests.support import ROOT


def bench(*arguments: str) -> str:
    """Run a benchmark; return what it prints."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_a_machine_is_cut_off() -> None:
    """Clients that move between three machines miss nothing while one of them is cut off."""
    need("ip")
    need("redis-server")
    if os.geteuid() != 0:
        pytest.skip("only root may make networks")
    few = ("--clients", "20", "--rooms", "4", "--workers", "1", "--rate", "3")
    output = bench("bench/machines.py", *few, "--seconds", "6", "--before", "4")
    assert output.endswith("nothing was lost\n")


def test_idle_sockets() -> None:
    """All sockets open and stay open, and their memory is measured."""
    need("gcc")
    short = ("--settle", "1", "--seconds", "1")
    output = bench("bench/hold.py", "--sockets", "300", "--workers", "2", *short)
    assert output.startswith("300 sockets opened")
    assert output.splitlines()[-1].startswith("pings: ")
