"""A test of several processes of which one is killed, for each store that processes share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping

from tests.support import ROOT

from .contract import GROUP

__all__ = ["check_killed"]

_COUNT = 50


def check_killed(
    url: str, namespace: str, env: Mapping[str, str], silence: Callable[[str], object]
) -> None:
    """Check that each key of a killed process leaves once, and that this is reported once.

    Args:
        url, namespace: the store.
        env: the environment of processes.
        silence: sets back the last sign of life of a process.
    """
    command = [sys.executable, "-m", "tests.presence.member", url, namespace]
    members = [
        subprocess.Popen(
            [*command, f"p{number}", f"{number * _COUNT}", f"{_COUNT}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=env,
        )
        for number in range(4)
    ]
    try:
        said: list[list[str]] = []
        for member in members:
            assert member.stdout is not None
            assert member.stdout.readline() == "complete\n"
        members[2].kill()
        members[2].wait()
        silence("p2")
        survivors = [members[0], members[1], members[3]]
        for member in survivors:
            assert member.stdout is not None
            lines: list[str] = []
            while sum(line.startswith("left") for line in lines) < _COUNT:
                line = member.stdout.readline()
                assert line
                lines.append(line.strip())
            said.append(lines)
        for member, lines in zip(survivors, said, strict=True):
            lines += member.communicate()[0].splitlines()
            assert member.returncode == 0
        expected = sorted(f"left k{number}" for number in range(2 * _COUNT, 3 * _COUNT))
        for lines in said:
            assert sorted(line for line in lines if line.startswith("left")) == expected
            assert "again" not in lines
            assert lines[-1] == f"known {3 * _COUNT}"
        reports = [line for lines in said for line in lines if line.startswith("report")]
        assert reports == [f"report {GROUP}"]
    finally:
        for member in members:
            member.kill()
            member.communicate()
