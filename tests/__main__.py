"""Run the tests: ``python -m tests [--coverage] [arguments for pytest]``.

Without arguments, run all tests in parallel, in as many processes as keep the machine's cores busy,
and then the tests marked ``alone``. With ``--of-libraries`` alone, leave out the latter, and those
that ``of_no_library`` in ``setup.cfg`` lists. With any other arguments, run pytest with them in one
process.

Runs without arguments leave out the tests marked ``nightly``, which ``scripts/nightly`` runs.
pytest itself runs them, too.

Up to three tests that fail in a run of all tests run once more at its end, one after another. If
one fails again, the run has failed. Tests that pass are listed as unsteady: each of them has a
fault, or has found one, that does not show every time.

Two runs may share a checkout, for instance with different libraries, if one of them has
``--of-libraries``. The tests marked ``alone`` then wait for the end of all others.

``--coverage`` measures which lines and branches of the package the tests run that ``measured`` in
``setup.cfg`` lists, except those marked ``alone``. It fails if they are fewer than ``fail_under``.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

__all__ = ["main"]

#: Development mode: Python shows all of its warnings.
PYTHON = (sys.executable, "-X", "dev")

COVERAGE = (*PYTHON, "-m", "coverage")

#: What runs when nothing else does; tests/conftest.py imports only their files.
ALONE = "alone and not nightly"

#: How many tests may fail in a run of all tests and pass when they are run again.
MAX_UNSTEADY = 3


def side_by_side(*, of_libraries: bool) -> list[str]:
    """Return the options of pytest-xdist. Tests of a file share servers, so they stay together."""
    # About half of the time, a test waits for a server, a timer or the kernel. tests/conftest.py
    # puts quick tests last, and pytest-xdist is to keep that order. With fewer processes, a run of
    # fewer tests takes no longer than the run of all tests beside it.
    cores = len(os.sched_getaffinity(0))
    processes = min(cores + 1, 4) if of_libraries else min(2 * cores + 1, 8)
    options = ["--dist=loadfile", "--no-loadscope-reorder"]
    return [*options, f"--tx={processes}*popen//python={shlex.join(PYTHON)}"]


def run_again(code: int, cache: str) -> int:
    """Run the tests that have failed once more; return the exit code of both runs together.

    Args:
        code: pytest's exit code of the first run.
        cache: pytest's ``cache_dir`` of the first run.
    """
    if code != pytest.ExitCode.TESTS_FAILED:
        return code
    failed = json.loads((Path(cache) / "v/cache/lastfailed").read_text())
    if len(failed) > MAX_UNSTEADY:
        return code
    print("\n== the tests that have failed, once more", flush=True)
    again = ["--last-failed", "--last-failed-no-failures=none", "-o", f"cache_dir={cache}"]
    if run([*PYTHON, "-m", "pytest", *again]):
        return code
    print("\n!! Unsteady: failed beside others, passed when run again:", *failed, sep="\n!! ")
    return 0


def run(command: list[str]) -> int:
    """Run a command; return its exit code. Tests marked ``alone`` wait for those of other runs."""
    directory = os.open(os.path.dirname(__file__), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX if ALONE in command else fcntl.LOCK_SH)
        return subprocess.run(command, check=False).returncode
    finally:
        os.close(directory)


def main(arguments: list[str]) -> int:
    """Run the tests; return pytest's exit code, or the first of several failures."""
    # Compiling the package and the tests takes a fifth of the time that a server needs to start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    is_measured = "--coverage" in arguments
    arguments = [argument for argument in arguments if argument != "--coverage"]
    of_libraries = "--of-libraries" in arguments
    if of_libraries:
        os.environ["TEST_PORTS"] = "28000"
    runs = [arguments]
    are_all = not set(arguments) - {"--of-libraries"}
    if are_all and not of_libraries:
        # Development mode checks all memory, which takes an eighth of pytest's time. That is left
        # to the run beside this one, and to the sanitizers.
        os.environ.setdefault("PYTHONMALLOC", "pymalloc")
    if are_all:
        parallel = ["-m", "not alone and not nightly", *side_by_side(of_libraries=of_libraries)]
        runs = [[*arguments, *parallel]]
        if not of_libraries:
            runs.append(["-m", ALONE])
    if is_measured:
        # Not relative: programs run in other directories.
        os.environ["COVERAGE_FILE"] = os.path.abspath(".coverage")
        run([*COVERAGE, "erase"])
    codes = []
    for number, options in enumerate(runs):
        program = [*COVERAGE, "run"] if is_measured and not number else [*PYTHON]
        with tempfile.TemporaryDirectory() as cache:
            own_cache = ["-o", f"cache_dir={cache}"] if are_all else []
            code = run([*program, "-m", "pytest", *options, *own_cache])
            codes.append(run_again(code, cache) if are_all else code)
    if is_measured:
        codes += [run([*COVERAGE, "combine", "--quiet"]), run([*COVERAGE, "report"])]
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
