"""``scripts/nightly``: each of its commands can be started, and none can hang or fail unseen."""

from __future__ import annotations

import fcntl
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import nightly
from tests.conftest import missing
from tests.nightly import JOBS, Job, main
from tests.support import ROOT, TIMEOUT

PYTHON = sys.executable
CONTRIBUTING = (ROOT / "CONTRIBUTING.rst").read_text()

#: Words of a command from which the program's own arguments follow.
PROGRAMS = [job for job in JOBS if "pytest" not in job.words]


def program(words: Sequence[str]) -> list[str]:
    """Return the words of a command that start the program, without its arguments."""
    if words[0] == "scripts/sanitize" and len(words) > 1:
        return program(words[1:])
    if words[0] == PYTHON:
        return list(words[: 3 if words[1] == "-m" else 2])
    return list(words[:1])


def test_names() -> None:
    """A name selects one job, and each job has a limit."""
    names = [job.name for job in JOBS]
    assert len(set(names)) == len(names)
    assert all(job.minutes > 0 for job in JOBS)


@pytest.mark.parametrize("words", sorted({tuple(program(job.words)) for job in PROGRAMS}))
def test_programs(words: tuple[str, ...]) -> None:
    """Each program exists, and knows the options that it gets."""
    jobs = [job for job in PROGRAMS if tuple(program(job.words)) == words]
    if words[0] != PYTHON:
        assert words[0].startswith("scripts/")
        subprocess.run(["sh", "-n", *words], cwd=ROOT, check=True)
        text = (ROOT / words[0]).read_text()
    else:
        if words[1] == "-m" and find_spec(words[2]) is None:
            missing(words[2])
        command = [*words, "--help"]
        text = subprocess.run(
            command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    for job in jobs:
        for option in re.findall(r"(?<=\s)--[a-z-]+", shlex.join(job.words)):
            assert option in text, f"{job.name}: {option}"


@pytest.mark.parametrize(
    "job", [job for job in JOBS if "pytest" in job.words], ids=lambda job: job.name
)
def test_files(job: Job) -> None:
    """Each file of tests exists; one of those that run more often uses ``TIMES`` or hypothesis."""
    paths = [ROOT / word for word in job.words if word.startswith("tests/")]
    for path in paths:
        files = [path] if path.suffix else sorted(path.rglob("test_*.py"))
        assert any(re.search(r"\bTIMES\b|@given", file.read_text()) for file in files), path
    assert bool(paths) == ("TEST_TIMES" in job.variables)


def test_contributing() -> None:
    """The names in CONTRIBUTING select jobs."""
    named = re.findall(r"scripts/nightly((?: [a-z][a-z-]*)+)", CONTRIBUTING)
    assert named
    assert {job.name for job in JOBS}.issuperset(" ".join(named).split())


def jobs(*commands: str, minutes: float = 5) -> list[Job]:
    """Return jobs that are called a, b and so on."""
    return [Job(name, command, minutes) for name, command in zip("abc", commands, strict=False)]


def test_all_run(capfd: pytest.CaptureFixture[str]) -> None:
    """A failure stops nothing; the summary and the exit code show it."""
    commands = "python -c 'raise SystemExit(3)'", "KEY=value sh -c 'test $KEY = value'"
    assert main([], jobs(*commands)) == 1
    summary = capfd.readouterr().out.partition("== summary")[2]
    assert re.search(r"^!! a .*failed with exit code 3$", summary, re.M), summary
    assert re.search(r"^   b .*passed$", summary, re.M), summary
    assert main(["b"], jobs(*commands)) == 0
    assert "a" not in re.findall(r"^.. (\w)", capfd.readouterr().out, re.M)


def test_limit(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that hangs and ignores Ctrl-C is killed, with the processes that it has started."""
    monkeypatch.setattr(nightly, "GRACE", 0.1)
    locked = tmp_path / "locked"
    holding = f"import fcntl, time; fcntl.flock(open('{locked}', 'w'), 2); time.sleep(1000)"
    stuck = shlex.join(["sh", "-c", f"trap '' INT; {shlex.join([PYTHON, '-c', holding])}; true"])
    assert main([], jobs(stuck, "true", minutes=0.05)) == 1
    summary = capfd.readouterr().out.partition("== summary")[2]
    assert "took longer than 0.05 minutes" in summary
    assert "passed" in summary
    with locked.open("w") as file:
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                assert time.monotonic() < deadline, "the process lives"
                time.sleep(0.01)
            else:
                break


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    """``--list`` prints what would run, and runs nothing."""
    assert main(["--list"], jobs("false")) == 0
    assert capsys.readouterr().out.split() == ["a", "5", "min", "false"]


def test_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that selects nothing is refused, before anything runs."""
    with pytest.raises(SystemExit):
        main(["b"], jobs("false"))
    assert "no such name: b" in capsys.readouterr().err
