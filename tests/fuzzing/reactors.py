"""Compares the implementations of the reactor in random plays; from the command line: see README.

Each play runs with the code in C and with that in Python. Their transcripts must be the same, and
the package must find no mistake of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import zip_longest

from ..implementations import IMPLEMENTATIONS
from ..support import ROOT

__all__ = ["compare", "main"]

#: Plays of one process, so that each new process starts with other addresses and descriptors.
_PLAYS = 200

#: Runs plays, and prints their transcripts.
_PROGRAM = """
from gevent import monkey
monkey.patch_all()
import sys
# For so long gevent makes calls before it looks for events, however busy the machine is.
sys.setswitchinterval(1000.0)
from tests.fuzzing.plays import play
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    print("seed", seed)
    print(*play(seed), sep="\\n")
"""


#: The implementations to compare.
_COMPARED = {name: IMPLEMENTATIONS[name] for name in ("C", "Python")}


def _transcripts(compared: Mapping[str, str], first: int, stop: int) -> list[list[str]]:
    """Return the transcripts of plays with each implementation, which run at the same time."""
    with ExitStack() as stack:
        processes = []
        for start in compared.values():
            process = subprocess.Popen(
                [sys.executable, "-c", start + _PROGRAM, str(first), str(stop)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                cwd=ROOT,
            )
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        outputs = [process.communicate()[0] for process in processes]
    for name, process, output in zip(compared, processes, outputs, strict=True):
        assert process.returncode == 0, f"{name} fails:\n{output[-3000:]}"
    return [output.splitlines() for output in outputs]


def compare(first: int, stop: int, compared: Mapping[str, str] = _COMPARED) -> int:
    """Compare the plays of these seeds.

    Args:
        first: the first seed.
        stop: the seed after the last one.
        compared: what the program of each implementation begins with, by name.

    Returns:
        The number of lines of a transcript.

    Raises:
        AssertionError: they differ, or an implementation has a mistake.
    """
    transcripts = _transcripts(compared, first, stop)
    start = 0
    for number, lines in enumerate(zip_longest(*transcripts)):
        if lines[0] is not None and lines[0].startswith("seed "):
            start = number
        is_bug = any(line is not None and "Bug in" in line for line in lines)
        if is_bug or len(set(lines)) > 1:
            context = "\n".join(transcripts[0][start:number])
            found = "\n".join(
                f"{name:>8}: {line}" for name, line in zip(compared, lines, strict=True)
            )
            raise AssertionError(f"{context}\n{found}")
    return len(transcripts[0])


def main() -> int:
    """Run plays for a time; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing.reactors", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0, help="the first play")
    parser.add_argument("--only", action="store_true", help="run only the first play")
    arguments = parser.parse_args()
    end, seed, lines = time.monotonic() + arguments.seconds, arguments.seed, 0
    while time.monotonic() < end:
        try:
            lines += compare(seed, seed + (1 if arguments.only else _PLAYS))
        except AssertionError as error:
            print(error)
            return 1
        seed += _PLAYS
        if arguments.only:
            break
    print(f"{seed - arguments.seed} plays, {lines} lines of transcripts: no difference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
