"""``python -m tests``: tests that have failed run again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.__main__ import MAX_UNSTEADY, run_again

#: The first test fails as long as there is no such file, and makes it.
UNSTEADY = """
import pathlib, pytest

def test_unsteady():
    path = pathlib.Path("ran")
    ran = path.exists()
    path.touch()
    assert ran

def test_good():
    pass
"""

BROKEN = "\n@pytest.mark.parametrize('n', range({}))\ndef test_broken(n):\n    assert False\n"


def outcome(program: str) -> int:
    """Run a file of tests and then those that have failed; return the exit code of both."""
    Path("test_it.py").write_text(program)
    cache = str(Path("cache").absolute())
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={cache}"]
    code = subprocess.run(command, check=False, capture_output=True).returncode
    return run_again(code, cache)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a directory that is not this project's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)


def test_unsteady(capfd: pytest.CaptureFixture[str]) -> None:
    """A test that passes the second time is named, and does not fail the run."""
    assert outcome(UNSTEADY) == 0
    output = capfd.readouterr().out
    assert "!! test_it.py::test_unsteady" in output
    assert "1 passed" in output


def test_broken() -> None:
    """A test that fails twice fails the run, whatever the others do."""
    assert outcome(UNSTEADY + BROKEN.format(1)) == pytest.ExitCode.TESTS_FAILED


def test_too_many(capfd: pytest.CaptureFixture[str]) -> None:
    """Many failures are not run again."""
    assert outcome(UNSTEADY + BROKEN.format(MAX_UNSTEADY)) == pytest.ExitCode.TESTS_FAILED
    assert capfd.readouterr().out == ""


def test_other_codes() -> None:
    """A run that was interrupted, or collected nothing, keeps its code."""
    assert outcome("") == pytest.ExitCode.NO_TESTS_COLLECTED
    assert outcome("import nowhere") == pytest.ExitCode.INTERRUPTED
