"""Run the tests: ``python -m tests [arguments for pytest]``.

Without arguments, or with ``--of-libraries`` alone, these are all tests, side by side in as many
processes as keep the machine's cores busy; after them come those that are marked ``alone``. With
any other arguments it is pytest, in one process.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

__all__ = ["main"]

#: Nothing that Python could warn of is to be overlooked.
PYTHON = (sys.executable, "-X", "dev")


def side_by_side() -> list[str]:
    """Return the options of pytest-xdist: a file's tests share servers, so they stay together."""
    # Most of the time goes into starting servers, which takes a core, and some into waiting for
    # them; more processes would be in each other's way. The longest files happen to come first.
    processes = min(len(os.sched_getaffinity(0)) + 1, 8)
    options = ["--dist=loadfile", "--no-loadscope-reorder"]
    return [*options, f"--tx={processes}*popen//python={shlex.join(PYTHON)}"]


def main(arguments: list[str]) -> int:
    """Run them; return what pytest returns, or the first of two failures."""
    runs = [arguments]
    if not set(arguments) - {"--of-libraries"}:
        runs = [[*arguments, "-m", "not alone", *side_by_side()], [*arguments, "-m", "alone"]]
    pytest = [*PYTHON, "-m", "pytest"]
    codes = [subprocess.run([*pytest, *run], check=False).returncode for run in runs]
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
