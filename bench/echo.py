#!/usr/bin/env python3
"""Echo, side by side: the sample site on django_wsmux against servers without Django.

    python bench/echo.py                      against gevent-websocket
    python bench/echo.py --peers c picows     against the limit

All servers run at the same time on one core and are measured in turn, so that what disturbs the
machine disturbs all. bench/README.rst says what the figures mean.
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
    compiled,
    gunicorn,
    measure,
    pick_cores,
    run_wsload,
    running,
)

OURS = Contestant(
    "django_wsmux",
    gunicorn("django_wsmux.worker.WebSocketWorker", "sample_site.wsgi"),
    BENCH.parent,
)

#: What has to be installed, and is named beside the figures.
DISTRIBUTIONS = ("django-wsmux", "Django", "gevent", "gunicorn", "websockets")

#: Message sizes measured unless others are asked for.
SIZES = (64, 1024, 16384)


@dataclass(frozen=True)
class Peer:
    """Whom ours is compared with.

    Attributes:
        contestant: its server.
        targets: how many times its messages we mean to serve, by size of the message.
        distributions: what has to be installed for it.
    """

    contestant: Contestant
    targets: dict[int, float]
    distributions: tuple[str, ...] = ()


PEERS = {
    "gevent-websocket": Peer(
        Contestant(
            "gevent-websocket",
            gunicorn(
                "geventwebsocket.gunicorn.workers.GeventWebSocketWorker", "gevent_websocket_echo"
            ),
            BENCH / "servers",
        ),
        {64: 3, 16384: 100},
        ("gevent-websocket",),
    ),
    "c": Peer(
        Contestant("C", compiled(BENCH / "servers" / "epoll_echo.c"), BENCH / "servers"),
        {64: 0.55, 16384: 0.5, 2**20: 0.5},
    ),
    "picows": Peer(
        Contestant("picows", lambda _: [sys.executable, "picows_echo.py"], BENCH / "servers"),
        {64: 0.8, 16384: 0.9, 2**20: 0.9},
        ("picows", "uvloop"),
    ),
}


@dataclass
class Comparison:
    """All rounds of one size and kind of message: those of ours, and of each peer by its key."""

    size: int
    binary: bool
    ours: list[Sample] = field(default_factory=list)
    peers: dict[str, list[Sample]] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """What was echoed."""
        return f"{self.size:,} B {'binary' if self.binary else 'text'}"

    def rate_ratio(self, peer: str) -> float:
        """How many messages of ours go by while one of the peer's does."""
        theirs = median(self.peers[peer], "messages_per_s")
        return median(self.ours, "messages_per_s") / theirs

    def cpu_ratio(self, peer: str) -> float:
        """How many messages of ours cost what one of the peer's does."""
        return median(self.peers[peer], "cpu_us") / median(self.ours, "cpu_us")

    def results(self) -> list[tuple[str, list[Sample]]]:
        """Return the rounds of everybody, by name."""
        theirs = [(PEERS[key].contestant.name, samples) for key, samples in self.peers.items()]
        return [(OURS.name, self.ours), *theirs]


def median(samples: list[Sample], figure: str) -> float:
    """Return the median of one figure."""
    return statistics.median(values(samples, figure))


def values(samples: list[Sample], figure: str) -> list[float]:
    """Return one figure of every round."""
    return [getattr(sample, figure) for sample in samples]


# The run


def compare(options: argparse.Namespace) -> list[Comparison]:
    """Run all servers and measure them in turn."""
    comparisons = [
        Comparison(size, kind == "binary", peers={peer: [] for peer in options.peers})
        for size in options.sizes
        for kind in options.kinds
    ]
    server_core, generator_core = pick_cores()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-echo-")))
        ours = stack.enter_context(running(OURS, scratch, server_core))
        theirs = {
            peer: stack.enter_context(running(PEERS[peer].contestant, scratch, server_core))
            for peer in options.peers
        }
        for server in (ours, *theirs.values()):  # one that cannot load its code shows here
            run_wsload(server, Load(64, 1, 0.1, binary=False), 0, generator_core)
        for number in range(options.rounds):
            for comparison in comparisons:
                load = load_for(comparison, options)
                turns = [(theirs[peer], samples) for peer, samples in comparison.peers.items()]
                for server, samples in ((ours, comparison.ours), *turns):
                    samples.append(measure(server, load, generator_core))
                    progress = f"round {number + 1}/{options.rounds}  {comparison.message:18}"
                    report_progress(progress, server, samples[-1])
    return comparisons


def load_for(comparison: Comparison, options: argparse.Namespace) -> Load:
    """Return the load of one round: a hundred connections, or 20 MiB under way at most."""
    conns = options.conns or max(1, min(100, 20 * 2**20 // comparison.size))
    return Load(comparison.size, conns, options.duration, comparison.binary)


def report_progress(progress: str, server: Server, sample: Sample) -> None:
    """Tell whoever waits how far it is."""
    print(
        f"{progress}  {server.name:16}  "
        f"{sample.messages_per_s:>9,.0f} messages/s  {sample.cpu_us:>9,.1f} us CPU each",
        file=sys.stderr,
    )


# What comes out


def describe(options: argparse.Namespace) -> dict[str, str]:
    """Say what was run, when and on what."""
    versions = [f"{name} {metadata.version(name)}" for name in distributions(options)]
    server_core, generator_core = pick_cores()
    pinning = "not pinned" if server_core is None else f"{server_core} and {generator_core}"
    return {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", "bench/echo.py", *sys.argv[1:]]),
        "versions": ", ".join([f"Python {platform.python_version()}", *versions]),
        "system": f"{platform.system()} {platform.release()}, {cpu_model()}",
        "cores": f"servers and generator: {pinning} (of {os.cpu_count()})",
        "load": f"connections: {options.conns or '100, or 20 MiB under way at most'}, "
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
            "ratios": {
                peer: {
                    "rate": comparison.rate_ratio(peer),
                    "cpu": comparison.cpu_ratio(peer),
                    "target": PEERS[peer].targets.get(comparison.size),
                }
                for peer in comparison.peers
            }
        }
        for comparison in comparisons
    ]
    return json.dumps({**description, "results": results}, indent=2)


def as_text(description: dict[str, str], comparisons: list[Comparison]) -> str:
    """Return the summary for people; the table is valid reStructuredText."""
    head = [f"{name + ':':10}{value}" for name, value in description.items()]
    foot = [
        "Median (lowest-highest). Ratios: ours to this one; above 1, ours is the faster.",
        *remarks(comparisons),
    ]
    return "\n".join([*head, "", *table(comparisons), "", *foot])


def remarks(comparisons: list[Comparison]) -> Iterator[str]:
    """Say where messages per second tell less than they seem to."""
    for comparison in comparisons:
        for name, samples in comparison.results():
            server, generator = median(samples, "server_busy"), median(samples, "generator_busy")
            if server < 0.9:
                yield (
                    f"{comparison.message}, {name}: held up by others, as the server used "
                    f"{server:.0%} of a core and the generator {generator:.0%}; trust CPU time."
                )


COLUMNS = (
    "message",
    "server",
    "messages/s",
    "CPU us each",
    "ratio, messages/s",
    "ratio, CPU",
    "target",
)


def table(comparisons: list[Comparison]) -> list[str]:
    """Lay out the figures in columns."""
    rows = [COLUMNS, *(row for comparison in comparisons for row in rows_of(comparison))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in rows
    ]
    return [rule, lines[0], rule, *lines[1:], rule]


def rows_of(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """Return the cells of one size and kind of message: a row for each server."""
    verdicts = [
        (
            ratio(comparison.rate_ratio(peer)),
            ratio(comparison.cpu_ratio(peer)),
            verdict(comparison, peer),
        )
        for peer in comparison.peers
    ]
    results = zip(comparison.results(), [("-", "-", "-"), *verdicts], strict=True)
    for (name, samples), cells in results:
        rate, cpu = spread(samples, "messages_per_s", 0), spread(samples, "cpu_us", 1)
        yield (comparison.message, name, rate, cpu, *cells)


def ratio(value: float) -> str:
    """Write a ratio with as many digits as tell something."""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def verdict(comparison: Comparison, peer: str) -> str:
    """Say what we aim at, and by which of the two ratios we got there."""
    target = PEERS[peer].targets.get(comparison.size)
    if target is None:
        return "-"
    by_rate = comparison.rate_ratio(peer) >= target
    by_cpu = comparison.cpu_ratio(peer) >= target
    if by_rate == by_cpu:
        return f"{target}: {'reached' if by_rate else 'missed'}"
    return f"{target}: {'by messages/s' if by_rate else 'by CPU'} only"


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
    parser.add_argument(
        "--peers",
        choices=PEERS,
        nargs="+",
        default=["gevent-websocket"],
        help="to compare with (default gevent-websocket)",
    )
    parser.add_argument("--rounds", type=count, default=5, help="of each server (default 5)")
    parser.add_argument("--duration", type=seconds, default=3.0, help="of a round in s (default 3)")
    parser.add_argument(
        "--sizes", type=count, nargs="+", default=SIZES, help="of messages in bytes"
    )
    parser.add_argument(
        "--conns", type=count, help="connections (default 100, or 20 MiB under way at most)"
    )
    for kind in ("text", "binary"):
        parser.add_argument(
            f"--{kind}",
            dest="kinds",
            action="append_const",
            const=kind,
            help=f"{kind} messages (default text; may be combined)",
        )
    parser.add_argument("--json", action="store_true", help="print every round as JSON")
    options = parser.parse_args()
    options.kinds = list(dict.fromkeys(options.kinds or ["text"]))
    options.peers = list(dict.fromkeys(options.peers))
    return options


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


def distributions(options: argparse.Namespace) -> list[str]:
    """Return what has to be installed for the servers asked for."""
    theirs = [name for peer in options.peers for name in PEERS[peer].distributions]
    return [*DISTRIBUTIONS, *theirs]


def check_requirements(options: argparse.Namespace) -> None:
    """Complain about what is missing before anything starts."""
    if sys.platform != "linux":
        raise BenchError("this benchmark needs Linux: epoll and /proc")
    missing = [name for name in distributions(options) if not is_installed(name)]
    if missing:
        raise BenchError(
            f"missing from this Python: {', '.join(missing)}; run pip install -e .[bench] in the "
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
        check_requirements(options)
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
