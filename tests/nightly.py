"""Run the long forms of the tests: ``scripts/nightly [NAME...]``.

CI runs each of these for seconds, or with few examples; here each runs as long as it needs to find
what is rare. They run one after another, as most of them keep the machine busy. One that takes
longer than its limit is stopped, and has failed. Exits with 1 if one fails; the last lines say
which, and how long each took.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .support import ROOT

__all__ = ["JOBS", "Job", "main", "run"]

#: Seconds in which a stopped job may end its servers.
GRACE = 60.0


@dataclass(frozen=True, slots=True)
class Job:
    """A program with a limit.

    Args:
        name: what selects it.
        command: for a shell, but without its operators; variables may stand before the program, and
            ``python`` is that of ``.venv``.
        minutes: that it may take.
    """

    name: str
    command: str
    minutes: float

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables before the program."""
        words = shlex.split(self.command)
        return dict(word.split("=", 1) for word in words[: self._first(words)])

    @property
    def words(self) -> list[str]:
        """The program and its arguments."""
        words = shlex.split(self.command)
        return [
            sys.executable if word == "python" else word for word in words[self._first(words) :]
        ]

    @staticmethod
    def _first(words: Sequence[str]) -> int:
        return next(number for number, word in enumerate(words) if "=" not in word)


def times(number: int, *paths: str) -> str:
    """Return the command that runs tests with so many times more examples."""
    return f"TEST_TIMES={number} python -m pytest -q --timeout=0 {' '.join(paths)}"


#: In the order in which they run: what is most likely to find something first.
JOBS = (
    Job("products", "python -m pytest -q -m nightly", 60),
    Job("oldest", "python -m tox run -e oldest -- -q -m 'not alone'", 90),
    Job("examples", times(10, "tests/protocol", "tests/handlers", "tests/schema"), 90),
    Job("fields", times(1000, "tests/schema/test_fields.py"), 60),
    Job("resets", times(4, "tests/functional/test_resets.py"), 30),
    Job("moving", times(30, "tests/groups/test_moving_processes.py"), 60),
    Job("programs", times(10, "tests/client/test_programs.py"), 60),
    Job("pages", times(10, "tests/client/test_streams.py", "tests/client/test_htmx.py"), 90),
    Job("broadcasts", times(50, "tests/html/test_broadcasting_processes.py"), 60),
    Job("presence", times(5, "tests/functional/test_presence.py"), 60),
    *(
        Job(
            f"model-{store}",
            f"python -m tests.functional.model --store {store} --messages 200000",
            60,
        )
        for store in ("local", "redis", "postgres")
    ),
    Job("storm", "python -m tests.functional.storm --clients 2000", 30),
    Job("crowd", "python -m tests.functional.presences --clients 800", 30),
    Job("moves", "python -m tests.functional.moves", 30),
    Job("moves-faults", "python -m tests.functional.moves --faults", 30),
    Job("interrupted", "python -m tests.functional.interrupted --rounds 200", 30),
    Job("outbox", "python -m tests.functional.outbox_model --kills 200", 60),
    Job("reactors", "python -m tests.fuzzing.reactors 600", 30),
    Job("fuzzing", "python -m tests.fuzzing.runner 300", 45),
    Job("sanitizers", "scripts/sanitize", 90),
    Job("sanitized-plays", "scripts/sanitize python -m tests.fuzzing.reactors 600", 45),
    Job("autobahn", "python -m tests.compliance.autobahn own stock runserver", 90),
    Job("soak", "python bench/soak.py", 120),
    Job("endure", "python bench/endure.py", 30),
    Job("deploy", "python bench/deploy.py", 30),
    Job("deploy-redis", "python bench/deploy.py --backend redis --signed-in", 30),
    Job("machines-redis", "python bench/machines.py --backend redis", 30),
    Job("machines-postgres", "python bench/machines.py --backend postgres --cut broker", 30),
    Job("hold", "python bench/hold.py --sockets 20000 --workers 2", 30),
    Job("release", "scripts/release", 30),
    Job("all", "scripts/test --all", 300),
)


def run(job: Job) -> str:
    """Run a job to its end or limit; return "passed", or what went wrong."""
    # Its own session, so that a job that hangs is stopped with all that it has started.
    process = subprocess.Popen(
        job.words, cwd=ROOT, env={**os.environ, **job.variables}, start_new_session=True
    )
    outcome = "stopped"
    try:
        code = process.wait(60 * job.minutes)
        outcome = f"failed with exit code {code}" if code else "passed"
    except subprocess.TimeoutExpired:
        outcome = f"took longer than {job.minutes:g} minutes"
    finally:
        if outcome != "passed":
            _stop(process)
    return outcome


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let a job stop its servers, as with Ctrl-C; then kill what is left of it."""
    with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
        process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_all(jobs: Iterable[Job]) -> int:
    """Run jobs one after another; print a summary; return the exit code."""
    lines = []
    failed = False
    for job in jobs:
        print(f"\n== {job.name}: {job.command}", flush=True)
        start = time.monotonic()
        outcome = run(job)
        failed |= outcome != "passed"
        minutes = (time.monotonic() - start) / 60
        mark = "  " if outcome == "passed" else "!!"
        lines.append(f"{mark} {job.name:18} {minutes:6.1f} min  {outcome}")
    print("\n== summary", *lines, sep="\n", flush=True)
    return int(failed)


def main(arguments: Sequence[str], jobs: Sequence[Job] = JOBS) -> int:
    """Run the jobs that are named, or all; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/nightly", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="run only these, in this order")
    parser.add_argument("--list", action="store_true", help="print names, limits and commands")
    options = parser.parse_args(arguments)
    by_name = {job.name: job for job in jobs}
    unknown = [name for name in options.names if name not in by_name]
    if unknown:
        parser.error(f"no such name: {', '.join(unknown)}; see --list")
    chosen = [by_name[name] for name in options.names] or list(jobs)
    if options.list:
        for job in chosen:
            print(f"{job.name:18} {job.minutes:4g} min  {job.command}")
        return 0
    return run_all(chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
