"""A short run of ``bench/soak.py``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import need
from tests.support import ROOT


@pytest.mark.alone
def test_nothing_grows() -> None:
    """After thousands of messages and hundreds of sockets the worker holds no more than before."""
    need("gcc")
    options = ["--messages", "30000", "--connections", "600", "--slices", "2", "--round", "0.5"]
    command = [sys.executable, "bench/soak.py", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("nothing grew\n")
