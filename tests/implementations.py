"""The implementations of the reactor: programs of tests run with each of them."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from django_wsmux.connection.link import is_compiled

from .support import ROOT, TIMEOUT

__all__ = ["IMPLEMENTATIONS", "PYTHON", "PYTHON_ONLY", "run_alone", "run_in_each"]

#: Makes a process use the code in Python, as where there is no compiler.
PYTHON: Final = "import sys; sys.modules['django_wsmux.connection._reactor'] = None\n"

#: The environment of a server that uses the code in Python.
PYTHON_ONLY: Final = {"PYTHONPATH": str(ROOT / "tests" / "python_only")}

#: What a program begins with to use an implementation; the last one is that of macOS.
IMPLEMENTATIONS: Final = {
    "C": "",
    "Python": PYTHON,
    "watchers": "import select, selectors; del select.EPOLLIN\n",
}


def run_alone(program: str) -> str:
    """Run a program in a process of its own; return what it writes to its standard error."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def run_in_each(program: str, implementations: tuple[str, ...] = tuple(IMPLEMENTATIONS)) -> None:
    """Run a program with each implementation, all at the same time; it must be silent.

    Args:
        program: the program in Python.
        implementations: their names; "C" is left out where there was no compiler.
    """
    names = [name for name in implementations if is_compiled or name != "C"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", IMPLEMENTATIONS[name] + program],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    try:
        for name, process in zip(names, processes, strict=True):
            errors = process.communicate(timeout=2 * TIMEOUT)[1]
            assert (process.returncode, errors) == (0, ""), f"with {name}:\n{errors}"
    finally:
        for process in processes:
            process.kill()
            process.communicate()
