"""Runs the harnesses under atheris, each for a time; from the command line: tests/fuzzing/run."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from .seeds import HARNESSES, seeds

__all__ = ["main"]

#: Seconds that one input may take; more is a hang.
_TIMEOUT = 10

#: Maximum bytes of an input; a stream that is made of it may be much longer.
_MAX_LENGTH = 1024

_ROW = "{:13} {:>8} {:>12} {:>7} {:>8}  {}".format


def _run(name: str, seconds: int, crashes: Path, kept: Path | None) -> tuple[int, str]:
    """Run one harness; return its exit code and its output."""
    with nullcontext(kept) if kept else TemporaryDirectory() as corpus:
        for number, data in enumerate(seeds(name)):
            Path(corpus, f"seed-{number}").write_bytes(data)
        command = [
            *(sys.executable, "-m", "tests.fuzzing.drive", name, str(corpus)),
            f"-max_total_time={seconds}",
            f"-timeout={_TIMEOUT}",
            f"-max_len={_MAX_LENGTH}",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
            f"-artifact_prefix={crashes}/{name}-",
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout


def _last(pattern: str, text: str) -> str:
    found = re.findall(pattern, text)
    return found[-1] if found else "?"


def _fuzz(names: list[str], seconds: int, crashes: Path, inputs: Path | None) -> int:
    """Run these harnesses, print a table, and return 1 if there was a finding."""
    print(_ROW("harness", "seconds", "executions", "edges", "corpus", "result"), flush=True)
    failed = False
    for name in names:
        kept = None if inputs is None else inputs / name
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
        code, text = _run(name, seconds, crashes, kept)
        executions = _last(r"number_of_executed_units: (\d+)", text)
        result = f"FINDING (exit code {code})" if code else "no finding"
        edges, corpus = _last(r"cov: (\d+)", text), _last(r"corp: (\d+)", text)
        print(_ROW(name, seconds, executions, edges, corpus, result), flush=True)
        if code:
            failed = True
            print(f"\n{text[-6000:]}\nInputs of findings are in {crashes}.\n", flush=True)
    return int(failed)


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="tests/fuzzing/run", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=int, default=60, help="for each harness")
    parser.add_argument("--only", action="append", choices=HARNESSES, help="run this harness")
    parser.add_argument("--crashes", type=Path, help="directory for the inputs of findings")
    parser.add_argument("--keep", type=Path, help="directory for all inputs that reach more code")
    parser.add_argument(
        "--replay", type=Path, help="try this input, or those of a directory, without atheris"
    )
    arguments = parser.parse_args()
    names = arguments.only or list(HARNESSES)
    if arguments.replay is not None:
        is_directory = arguments.replay.is_dir()
        paths = sorted(arguments.replay.iterdir()) if is_directory else [arguments.replay]
        for name in names:
            check = import_module(f"tests.fuzzing.fuzz_{name}").check
            for path in paths:
                check(path.read_bytes())
            print(f"{name}: tried {len(paths)}")
        return 0
    crashes = arguments.crashes or Path(mkdtemp(prefix="fuzzing-"))
    crashes.mkdir(parents=True, exist_ok=True)
    return _fuzz(names, arguments.seconds, crashes.resolve(), arguments.keep)


if __name__ == "__main__":
    sys.exit(main())
