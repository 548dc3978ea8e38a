#!/usr/bin/env python3
"""Compare django_wsmux with its alternatives, side by side.

    python bench/compare.py                      everything; takes an hour or two
    python bench/compare.py --short              what is installed, a fifth of a second each
    python bench/compare.py --measures echo --peers c picows
    python bench/compare.py --profiles           where our own server spends its time

Creates an environment for each peer, runs the servers on one core and the generator on another,
measures them in turn, and writes tables, a chart and every round. bench/README.rst explains the
figures.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from importlib.util import find_spec
from pathlib import Path

from callgrind import counting, problem
from harness import (
    BENCH,
    HEADERS,
    ROOT,
    BenchError,
    Generator,
    allow_many_files,
    build_wsload,
    leave_on_sigterm,
    pick_cores,
    pinned_to,
    prepare,
)
from measures import FULL, MEASURES, PROFILED, SHORT, Case, Measure, Stage
from peers import OURS, PEERS, Peer, entries
from profiling import Profiler
from report import Result, as_json, as_rst, as_svg, as_targets

__all__ = ["main"]


# Preparation


def usable(options: argparse.Namespace) -> list[Peer]:
    """Return the requested peers that are installed; a long run installs them first."""
    found = []
    for peer in PEERS:
        if peer.key not in options.peers:
            continue
        try:
            if not peer.is_installed(options.environments) and options.install:
                say(f"installing {peer.key}")
                peer.install(options.environments)
        except BenchError as error:
            say(f"continuing without {peer.key}: {error}")
        if peer.is_installed(options.environments):
            found.append(peer)
        elif not options.install:
            say(f"continuing without {peer.key}: not installed")
    return found


@contextmanager
def brokers(options: argparse.Namespace) -> Iterator[tuple[str | None, dict[str, str]]]:
    """Run the brokers of the measures; yield the URL of Redis, and variables for PostgreSQL."""
    from tests.services import PostgresServer, RedisServer, find_postgres

    redis, variables = None, {}
    with ExitStack() as stack:
        if "redis" in options.measures and shutil.which("redis-server"):
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-redis-")))
            broker = RedisServer(place)
            stack.callback(broker.stop)
            redis = broker.url
        if "blocking" in options.measures and find_postgres() and find_spec("psycopg"):
            # Some servers keep a database connection for each socket that they have served.
            database = PostgresServer(max_connections=4 * FULL.blocked)
            stack.callback(database.stop)
            variables["BENCH_POSTGRES"] = str(database.port)
        yield redis, variables


# The run


def compare(options: argparse.Namespace, peers: list[Peer]) -> Iterator[list[Result]]:
    """Measure all peers in turn, round by round; yield the results of each measure."""
    scale = options.scale
    server_core, generator_core = pick_cores()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-compare-")))
        # Brokers share the servers' core: their work is part of the price.
        with pinned_to(server_core):
            redis, variables = stack.enter_context(brokers(options))
        generator = Generator(prepare(scratch), generator_core)
        stage = stack.enter_context(
            Stage(scratch, options.environments, generator, server_core, scale, variables, redis)
        )
        if options.profiles:
            stage.watcher = Profiler(BENCH / "profiles")
        for measure in MEASURES:
            if measure.name in options.measures:
                yield run_measure(stage, measure, peers, options.rounds)


def run_measure(stage: Stage, measure: Measure, peers: list[Peer], rounds: int) -> list[Result]:
    """Run the rounds of one measure."""
    plan = [
        (case, Result(measure, case.title, entry, case.counted and case.counted(entry)))
        for case in measure.cases(stage.scale)
        for peer in peers
        for entry in entries(peer, measure.name)
        if peer.ways or not case.sockets
    ]
    for number in range(rounds):
        for case, result in plan:
            if result.error is None:
                run_round(stage, case, result)
                report_progress(number, rounds, result)
    return [result for _, result in plan]


def run_round(stage: Stage, case: Case, result: Result) -> None:
    """Run one round; an error of a server does not end the run."""
    try:
        if case.sockets > result.entry.peer.most_sockets:
            raise BenchError(f"limited to {result.entry.peer.most_sockets:,} sockets")
        result.rounds.append(case.run(stage, result.entry))
    except BenchError as error:
        result.error = str(error)


def count_instructions(options: argparse.Namespace, results: list[Result]) -> None:
    """Count the instructions of all results that allow it; each server is started once."""
    for peer in {result.entry.peer.key: result.entry.peer for result in results}.values():
        wanted = [each for each in results if each.entry.peer is peer and each.load]
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-count-")))
            headers = (prepare(scratch), *HEADERS)
            try:
                contestant = peer.contestant(options.environments)
                server = stack.enter_context(counting(contestant, scratch, headers))
                for result in wanted:
                    assert result.load is not None
                    result.instructions = server.measure(result.load)
                    what = f"{result.measure.name}, {result.case}: {result.instructions:,}"
                    say(f"instructions  {result.key:24}  {what}")
            except BenchError as error:
                say(f"{peer.key}: instructions not counted: {error}")


def report_progress(number: int, rounds: int, result: Result) -> None:
    """Print the progress of the run."""
    where = f"{number + 1}/{rounds}  {result.measure.name:10}  {result.case:16}"
    if result.error:
        what = f"failed: {result.error}"
    else:
        figures = result.rounds[-1].items()
        what = "  ".join(f"{name} {value:,.2f}" for name, value in figures)
    say(f"{where}  {result.key:24}  {what}")


def say(text: str) -> None:
    """Print to standard error, apart from the results."""
    print(text, file=sys.stderr, flush=True)


# Output


def describe(options: argparse.Namespace, peers: list[Peer]) -> dict[str, str]:
    """Return a description of the run: when, on what and how."""
    server_core, generator_core = pick_cores()
    pinned = "not pinned" if server_core is None else f"cores {server_core} and {generator_core}"
    return {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", "bench/compare.py", *options.given]),
        "rounds": f"{options.rounds} of {options.scale.seconds:g} s, in turn",
        "system": f"{platform.system()} {platform.release()}, {os.cpu_count()} cores "
        f"of {cpu_model()}",
        "servers and generator": pinned,
        "versions": versions(options, peers),
    }


def versions(options: argparse.Namespace, peers: list[Peer]) -> str:
    """Return the installed versions; each version of a package is listed once."""
    from django_wsmux import __version__  # of this tree, which is the one that is served

    found: dict[str, set[str]] = {"django_wsmux": {__version__}}
    for peer in peers:
        for name, version in peer.versions(options.environments).items():
            found.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {' and '.join(sorted(several))}" for name, several in found.items())


def cpu_model() -> str:
    """Return the name of the processor, or of the architecture if the kernel does not name it."""
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return match[1] if match else platform.machine()


def write(options: argparse.Namespace, peers: list[Peer], results: list[Result]) -> None:
    """Write the files."""
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "targets.rst").write_text(as_targets(results))
    description = describe(options, peers)
    for suffix, make in {"rst": as_rst, "svg": as_svg, "json": as_json}.items():
        (options.output / f"compare.{suffix}").write_text(make(description, results))


# The command


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    keys, names = [peer.key for peer in PEERS], [measure.name for measure in MEASURES]
    parser.add_argument(
        "--peers", nargs="+", choices=keys, default=keys, metavar="PEER", help=", ".join(keys)
    )
    parser.add_argument(
        "--measures", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--rounds", type=int, help="per server (default 3; with --short 1)")
    parser.add_argument(
        "--seconds", type=float, help=f"per round (default {FULL.seconds:g}; with --short 0.2)"
    )
    parser.add_argument(
        "--short", action="store_true", help="only check that all works; the figures mean nothing"
    )
    parser.add_argument(
        "--install", action="store_true", help="install missing peers; implied without --short"
    )
    parser.add_argument(
        "--instructions",
        action=argparse.BooleanOptionalAction,
        help="count them, too, under valgrind (default yes; with --short no)",
    )
    parser.add_argument(
        "--profiles", action="store_true", help="profile our own server; measures nothing"
    )
    parser.add_argument(
        "--environments",
        type=Path,
        default=ROOT / ".bench",
        metavar="DIRECTORY",
        help="for the environments of the peers (default .bench in the tree)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIRECTORY",
        help="for compare.rst, compare.svg, compare.json and targets.rst (default bench/results; "
        "with --short .bench/short)",
    )
    options = parser.parse_args()
    options.environments = options.environments.resolve()
    options.install |= not options.short
    options.scale = SHORT if options.short else PROFILED if options.profiles else FULL
    if options.seconds:
        options.scale = replace(options.scale, seconds=options.seconds)
    if options.instructions is None:
        options.instructions = not options.short and not options.profiles
    options.rounds = options.rounds or (1 if options.short else 3)
    options.output = options.output or (
        ROOT / ".bench" / "short" if options.short else BENCH / "results"
    )
    if options.profiles:
        options.peers, options.rounds = [OURS.key], 1
    options.peers = [OURS.key, *options.peers]  # the ratios compare with ours
    options.given = given(options, keys, names)
    return options


def given(options: argparse.Namespace, keys: list[str], names: list[str]) -> list[str]:
    """Return the arguments that repeat this run elsewhere."""
    peers = [key for key in keys if key in options.peers]
    line = [] if peers == keys else ["--peers", *peers]
    if options.measures != names:
        line += ["--measures", *options.measures]
    line += ["--rounds", str(options.rounds)]
    if options.seconds:
        line += ["--seconds", f"{options.seconds:g}"]
    line += ["--short"] if options.short else []
    if options.instructions == options.short:
        line.append("--instructions" if options.instructions else "--no-instructions")
    return line


def main() -> None:
    """Measure and write."""
    options = parse_arguments()
    leave_on_sigterm()
    if sys.platform != "linux":
        sys.exit("bench/compare.py: this benchmark needs Linux: epoll and /proc")
    try:
        allow_many_files()
        build_wsload()
        peers = usable(options)
        results: list[Result] = []
        for more in compare(options, peers):
            results += more
            # Write after each measure, so that an interrupted run keeps its results.
            if not options.profiles:
                write(options, peers, results)
        if options.instructions and (missing := problem()):
            say(f"continuing without instructions: {missing}")
        elif options.instructions:
            count_instructions(options, results)
            write(options, peers, results)
    except BenchError as error:
        sys.exit(f"bench/compare.py: {error}")
    if not options.profiles:
        print((options.output / "compare.rst").read_text())


if __name__ == "__main__":
    main()
