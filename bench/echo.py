#!/usr/bin/env python3
"""Echo, side by side: the sample site on django_wsmux against gevent-websocket without Django.

    python bench/echo.py

Both servers run at the same time on one core and are measured in turn, so that what disturbs the
machine disturbs both. bench/README.rst says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path

from harness import (
    BENCH,
    BenchError,
    Contestant,
    Load,
    Sample,
    Server,
    build_wsload,
    measure,
    pick_cores,
    run_wsload,
    running,
)

#: How many times the messages of theirs we mean to serve, by size of the message.
TARGETS = {64: 3, 16384: 100}

#: What has to be installed, and is named beside the figures.
DISTRIBUTIONS = ("django-wsmux", "Django", "gevent", "gevent-websocket", "gunicorn", "websockets")

OURS = Contestant(
    "django_wsmux",
    "django_wsmux.worker.WebSocketWorker",
    "sample_site.wsgi",
    BENCH.parent,
)
THEIRS = Contestant(
    "gevent-websocket",
    "geventwebsocket.gunicorn.workers.GeventWebSocketWorker",
    "gevent_websocket_echo",
    BENCH / "servers",
)


@dataclass
class Comparison:
    """All rounds of one message size."""

    size: int
    ours: list[Sample] = field(default_factory=list)
    theirs: list[Sample] = field(default_factory=list)

    @property
    def rate_ratio(self) -> float:
        """How many messages of ours go by while one of theirs does."""
        return median(self.ours, "messages_per_s") / median(self.theirs, "messages_per_s")

    @property
    def cpu_ratio(self) -> float:
        """How many messages of ours cost what one of theirs does."""
        return median(self.theirs, "cpu_us") / median(self.ours, "cpu_us")


def median(samples: list[Sample], figure: str) -> float:
    """Return the median of one figure."""
    return statistics.median(values(samples, figure))


def values(samples: list[Sample], figure: str) -> list[float]:
    """Return one figure of every round."""
    return [getattr(sample, figure) for sample in samples]


# The run


def compare(options: argparse.Namespace) -> list[Comparison]:
    """Run both servers and measure them in turn."""
    comparisons = [Comparison(size) for size in options.sizes]
    server_core, generator_core = pick_cores()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-echo-")))
        ours = stack.enter_context(running(OURS, scratch, server_core))
        theirs = stack.enter_context(running(THEIRS, scratch, server_core))
        for server in (ours, theirs):  # a worker that cannot load its application shows here
            run_wsload(server, Load(64, 1, 0.1, options.binary), 0, generator_core)
        for number in range(options.rounds):
            for comparison in comparisons:
                load = Load(comparison.size, options.conns, options.duration, options.binary)
                for server, samples in ((ours, comparison.ours), (theirs, comparison.theirs)):
                    samples.append(measure(server, load, generator_core))
                    report_progress(number + 1, options.rounds, load, server, samples[-1])
    return comparisons


def report_progress(number: int, rounds: int, load: Load, server: Server, sample: Sample) -> None:
    """Tell whoever waits how far it is."""
    print(
        f"round {number}/{rounds}  {load.size:>7} B  {server.name:16}  "
        f"{sample.messages_per_s:>9,.0f} messages/s  {sample.cpu_us:>9,.1f} us CPU each",
        file=sys.stderr,
    )


# What comes out


def describe(options: argparse.Namespace) -> dict[str, str]:
    """Say what was run, when and on what."""
    versions = [f"{name} {metadata.version(name)}" for name in DISTRIBUTIONS]
    server_core, generator_core = pick_cores()
    pinning = "not pinned" if server_core is None else f"{server_core} and {generator_core}"
    return {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", "bench/echo.py", *sys.argv[1:]]),
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
        "system": f"{platform.system()} {platform.release()}, {cpu_model()}",
        "cores": f"servers and generator: {pinning} (of {os.cpu_count()})",
        "load": f"{'binary' if options.binary else 'text'} messages, {options.conns} connections, "
        f"rounds: {options.rounds} of {options.duration:g} s",
    }


def cpu_model() -> str:
    """Return the processor's name, as far as the kernel tells."""
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return match[1] if match else platform.machine()


def as_json(description: dict[str, str], comparisons: list[Comparison]) -> str:
    """Return everything measured, round by round."""
    results = [
        asdict(comparison)
        | {
            "rate_ratio": comparison.rate_ratio,
            "cpu_ratio": comparison.cpu_ratio,
            "target": TARGETS.get(comparison.size),
        }
        for comparison in comparisons
    ]
    return json.dumps({**description, "results": results}, indent=2)


def as_text(description: dict[str, str], comparisons: list[Comparison]) -> str:
    """Return the summary for people; the table is valid reStructuredText."""
    head = [f"{name + ':':10}{value}" for name, value in description.items()]
    foot = [
        f"Median (lowest-highest). Ours: {OURS.name} through Django; theirs: {THEIRS.name} alone.",
        *remarks(comparisons),
    ]
    return "\n".join([*head, "", *table(comparisons), "", *foot])


def remarks(comparisons: list[Comparison]) -> Iterator[str]:
    """Say where messages per second tell less than they seem to."""
    for comparison in comparisons:
        for name, samples in (("ours", comparison.ours), ("theirs", comparison.theirs)):
            server, generator = median(samples, "server_busy"), median(samples, "generator_busy")
            if server < 0.9:
                yield (
                    f"{comparison.size:,} B, {name}: held up by others, as the server used "
                    f"{server:.0%} of a core and the generator {generator:.0%}; trust CPU time."
                )


COLUMNS = (
    "size",
    "ours, messages/s",
    "theirs, messages/s",
    "ratio",
    "ours, CPU us each",
    "theirs, CPU us each",
    "ratio",
    "target",
)


def table(comparisons: list[Comparison]) -> list[str]:
    """Lay out the figures in columns."""
    rows = [COLUMNS, *(row(comparison) for comparison in comparisons)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in rows
    ]
    return [rule, lines[0], rule, *lines[1:], rule]


def row(comparison: Comparison) -> tuple[str, ...]:
    """Return the cells of one message size."""
    return (
        f"{comparison.size:,} B",
        spread(comparison.ours, "messages_per_s", 0),
        spread(comparison.theirs, "messages_per_s", 0),
        f"{comparison.rate_ratio:.1f}",
        spread(comparison.ours, "cpu_us", 1),
        spread(comparison.theirs, "cpu_us", 1),
        f"{comparison.cpu_ratio:.1f}",
        verdict(comparison),
    )


def verdict(comparison: Comparison) -> str:
    """Say what we aim at, and whether the messages per second got there."""
    target = TARGETS.get(comparison.size)
    if target is None:
        return "-"
    return f"{target}: {'reached' if comparison.rate_ratio >= target else 'missed'}"


def spread(samples: list[Sample], figure: str, digits: int) -> str:
    """Write a median with its extremes."""
    figures = values(samples, figure)
    low, middle, high = (
        f"{value:,.{digits}f}" for value in (min(figures), median(samples, figure), max(figures))
    )
    return f"{middle} ({low}-{high})"


# The command


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=count, default=5, help="of each server (default 5)")
    parser.add_argument("--duration", type=seconds, default=3.0, help="of a round in s (default 3)")
    sizes = [64, 1024, 16384]
    parser.add_argument(
        "--sizes", type=count, nargs="+", default=sizes, help="of messages in bytes"
    )
    parser.add_argument("--conns", type=count, default=100, help="connections (default 100)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--text", dest="binary", action="store_false", help="text messages (default)")
    kind.add_argument("--binary", action="store_true", help="binary messages")
    parser.set_defaults(binary=False)
    parser.add_argument("--json", action="store_true", help="print every round as JSON")
    return parser.parse_args()


def count(text: str) -> int:
    """Read a whole number from 1 up."""
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def seconds(text: str) -> float:
    """Read a length of time."""
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError(text)
    return value


def check_requirements() -> None:
    """Complain about what is missing before anything starts."""
    if sys.platform != "linux":
        raise BenchError("this benchmark needs Linux: epoll and /proc")
    missing = [name for name in DISTRIBUTIONS if not is_installed(name)]
    if missing:
        raise BenchError(
            f"missing from this Python: {', '.join(missing)}; run pip install -e . in the "
            f"repository, or start the script with a Python that has them"
        )


def is_installed(distribution: str) -> bool:
    """Say whether this Python has a distribution."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    # As an exit, so that the servers are stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        check_requirements()
        build_wsload()
        comparisons = compare(options)
    except BenchError as error:
        sys.exit(f"bench/echo.py: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    description = describe(options)
    print(as_json(description, comparisons) if options.json else as_text(description, comparisons))


if __name__ == "__main__":
    main()
