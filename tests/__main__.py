"""Run the tests: ``python -m tests [--coverage] [arguments for pytest]``.

Without arguments, or with ``--of-libraries`` alone, run all tests in parallel, in as many processes
as keep the machine's cores busy, and then the tests marked ``alone``. With any other arguments, run
pytest with them in one process.

``--coverage`` measures which lines and branches of the package run, except in the tests marked
``alone``, and fails if they are fewer than ``fail_under`` in ``setup.cfg``.
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
    # About half of the time, a test waits for a server, a timer or the kernel. tests/conftest.py
    # puts quick tests last, and pytest-xdist is to keep that order.
    processes = min(2 * len(os.sched_getaffinity(0)), 8)
    options = ["--dist=loadfile", "--no-loadscope-reorder"]
    return [*options, f"--tx={processes}*popen//python={shlex.join(PYTHON)}"]


def main(arguments: list[str]) -> int:
    """Run the tests; return pytest's exit code, or the first of several failures."""
    is_measured = "--coverage" in arguments
    arguments = [argument for argument in arguments if argument != "--coverage"]
    runs = [arguments]
    if not set(arguments) - {"--of-libraries"}:
        runs = [[*arguments, "-m", "not alone", *side_by_side()], [*arguments, "-m", "alone"]]
    commands = [[*PYTHON, "-m", "pytest", *run] for run in runs]
    if is_measured:
        coverage = [*PYTHON, "-m", "coverage"]
        commands[0] = [*coverage, "run", "-m", "pytest", *runs[0]]
        commands = [[*coverage, "erase"], *commands, [*coverage, "combine", "--quiet"]]
        commands.append([*coverage, "report"])
        # Not relative: programs run in other directories.
        os.environ["COVERAGE_FILE"] = os.path.abspath(".coverage")
    codes = [subprocess.run(command, check=False).returncode for command in commands]
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
