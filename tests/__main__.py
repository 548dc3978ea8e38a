"""Run the tests: ``python -m tests [arguments for pytest]``.

Without arguments, or with ``--of-libraries`` alone, run all tests in parallel, in as many processes
as keep the machine's cores busy, and then the tests marked ``alone``. With any other arguments, run
pytest with them in one process.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

__all__ = ["main"]

#: Development mode: Python shows all of its warnings.
PYTHON = (sys.executable, "-X", "dev")


def side_by_side() -> list[str]:
    """Return the options of pytest-xdist. Tests of a file share servers, so they stay together."""
    # Most of the time goes into starting servers, which takes a core, and some into waiting for
    # them. More processes would slow each other down. tests/conftest.py puts quick tests last,
    # and pytest-xdist is to keep that order.
    processes = min(len(os.sched_getaffinity(0)) + 1, 8)
    options = ["--dist=loadfile", "--no-loadscope-reorder"]
    return [*options, f"--tx={processes}*popen//python={shlex.join(PYTHON)}"]


def main(arguments: list[str]) -> int:
    """Run the tests; return pytest's exit code, or the first of two failures."""
    runs = [arguments]
    if not set(arguments) - {"--of-libraries"}:
        runs = [[*arguments, "-m", "not alone", *side_by_side()], [*arguments, "-m", "alone"]]
    pytest = [*PYTHON, "-m", "pytest"]
    codes = [subprocess.run([*pytest, *run], check=False).returncode for run in runs]
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
