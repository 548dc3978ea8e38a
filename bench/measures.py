"""The measures: each has cases, and each case runs in rounds.

A round puts one kind of load on one server and returns figures by name. README.rst explains them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from harness import PATIENCE, BenchError, Generator, Server, Spent, running, settled
from loads import Echo, Fanout, Handshakes, Load, Pages
from peers import Entry, Peer

__all__ = ["FULL", "MEASURES", "PROFILED", "SHORT", "Case", "Column", "Measure", "Scale", "Stage"]

Figures = dict[str, float]


@dataclass(frozen=True)
class Scale:
    """How long and how large the loads are.

    Attributes:
        seconds: length of a round.
        warmup: seconds before it.
        echoes: messages to echo: title, size in bytes, whether they are binary.
        idle: numbers of sockets held to measure their memory.
        members: sizes of groups.
        held: sockets open while pages are served.
        blocked: sockets that wait for the database at once.
        rate: messages a second, below the limit of the slowest server.
    """

    seconds: float
    warmup: float
    echoes: tuple[tuple[str, int, bool], ...]
    idle: tuple[int, ...]
    members: tuple[int, ...]
    held: int
    blocked: int
    rate: int


ECHOES = (
    ("64 B text", 64, False),
    ("64 B binary", 64, True),
    ("16 KiB text", 2**14, False),
    ("16 KiB binary", 2**14, True),
    ("1 MiB text", 2**20, False),
    ("1 MiB binary", 2**20, True),
)

FULL = Scale(2, 0.5, ECHOES, (2000, 10_000), (500, 2000), 10_000, 200, 2000)
PROFILED = replace(FULL, seconds=1, echoes=ECHOES[:1], idle=(2000,), members=(500,), held=2000)
SHORT = Scale(0.2, 0, (ECHOES[0], ECHOES[-1]), (100,), (50,), 100, 20, 500)


class Watcher(Protocol):
    """Observes a server under load, such as a profiler."""

    def __call__(self, server: Server, measure: str) -> Any:
        """Return a context manager that is active during the load."""


@dataclass
class Stage:
    """The environment of the rounds. It starts each server on first use.

    Attributes:
        scratch: a directory.
        environments: directory of the peers' environments.
        generator: puts the load on.
        server_core: core of the servers.
        scale: how long and how large the loads are.
        variables: environment variables for all servers.
        redis: URL of the broker, if there is one.
        watcher: observes the servers under load.
    """

    scratch: Path
    environments: Path
    generator: Generator
    server_core: int | None
    scale: Scale
    variables: dict[str, str]
    redis: str | None
    watcher: Watcher = field(default=lambda server, measure: nullcontext())
    _stack: ExitStack = field(default_factory=ExitStack)
    _servers: dict[tuple[str, int], Server] = field(default_factory=dict)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def server(self, peer: Peer, processes: int = 1) -> Server:
        """Return the server that all measures share; several processes also share Redis."""
        server = self._servers.get((peer.key, processes))
        if server is None:
            server = self._stack.enter_context(self.fresh(peer, processes))
            self._servers[peer.key, processes] = server
        return server

    @contextmanager
    def fresh(self, peer: Peer, processes: int = 1) -> Iterator[Server]:
        """Run a fresh server of a peer for the duration of the block, with its code loaded."""
        variables = dict(self.variables)
        if processes > 1:
            if self.redis is None:
                raise BenchError("redis-server is missing")
            variables["BENCH_REDIS"] = self.redis
        contestant = peer.contestant(self.environments, processes, variables)
        with running(contestant, self.scratch, self.server_core) as server:
            self._verify(server, peer)
            yield server

    def _verify(self, server: Server, peer: Peer) -> None:
        """Check that the server answers, and that it refuses clients that are not signed in."""
        for path in peer.ways:
            self.generator.run(server, "once", f"{path}echo/", "--conns", 2, "--check")
            if "blocking" in peer.offers:
                try:
                    STRANGER.run(server, "once", f"{path}echo/", "--conns", 1)
                except BenchError:
                    continue
                raise BenchError(f"{server.name}, {path}: accepts clients that are not signed in")
        if "pages" in peer.offers:
            deadline = time.monotonic() + PATIENCE
            once = ("--conns", 1, "--warmup", 0, *PAGE, 0.1)
            while not self.generator.run(server, "http", "/", *once)["total_requests"]:
                if time.monotonic() > deadline:
                    raise BenchError(f"{server.name} does not answer requests")

    def load(
        self, measure: str, server: Server, mode: str, path: str, *options: object
    ) -> tuple[dict[str, Any], Spent]:
        """Put load on a server; return the generator's report and the cost for the server."""
        with self.watcher(server, measure):
            return self.generator.measure(server, mode, path, *options)

    def timing(self) -> tuple[object, ...]:
        """Return the options for the duration of the generator."""
        return "--warmup", self.scale.warmup, "--duration", self.scale.seconds


#: A client without a session.
STRANGER = Generator("Cookie: sessionid=none", None)

#: A page of the signed-in user; the length of the round comes last.
PAGE = ("--expect", "hello ann", "--duration")

Round = Callable[[Stage, Entry], Figures]


@dataclass(frozen=True)
class Case:
    """One load.

    Attributes:
        title: name of the load.
        run: does one round.
        sockets: number of sockets that it needs, on servers that have any.
        counted: makes the load whose instructions are counted, if any are: a server that takes
            milliseconds for a message takes a second under valgrind.
    """

    title: str
    run: Round
    sockets: int = 0
    counted: Callable[[Entry], Load] | None = None


@dataclass(frozen=True)
class Column:
    """A figure in the report.

    Attributes:
        figure: name of the figure.
        title: heading of the column.
        digits: digits after the point.
    """

    figure: str
    title: str
    digits: int = 0


@dataclass(frozen=True)
class Measure:
    """A kind of measurement.

    Attributes:
        name: name on the command line.
        title: heading in the report.
        columns: columns of the table; the first one is compared.
        more_is_better: whether more is better in the first column.
        cases: returns the cases for a scale.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    more_is_better: bool
    cases: Callable[[Scale], list[Case]]


# Sockets


def echo_cases(scale: Scale) -> list[Case]:
    """Return a case for every size, as text and as binary."""
    return [
        Case(
            title,
            echo(size, binary),
            counted=counted_echo(size, binary) if size < 2**20 else None,
        )
        for title, size, binary in scale.echoes
    ]


def counted_echo(size: int, is_binary: bool) -> Callable[[Entry], Load]:
    """Return a function that makes the load to count."""

    def load(entry: Entry) -> Load:
        path, warm = f"{entry.path}echo/", 10 * entry.peer.warmup
        return Echo(path, "x" * size, warm=warm, few=2, many=12, is_binary=is_binary)

    return load


def echo(size: int, binary: bool) -> Round:
    """Echo on a hundred connections, or four with large messages, one message in flight on each."""
    conns = 100 if size < 2**20 else 4

    def run(stage: Stage, entry: Entry) -> Figures:
        options = ["--check", "--conns", conns, "--size", size, *stage.timing()]
        if binary:
            options.append("--binary")
        server = stage.server(entry.peer)
        report, spent = stage.load("echo", server, "echo", f"{entry.path}echo/", *options)
        return rates(report, "msgs", spent)

    return run


def rates(report: dict[str, Any], what: str, spent: Spent) -> Figures:
    """Return the figures of a load that runs as fast as it can."""
    if not report[what]:
        raise BenchError("no answers")
    return {
        "rate": report[f"{what}_per_s"],
        "cpu_us": spent.seconds / report[what] * 1e6,
        "p99_ms": report["latency_us"]["p99"] / 1000,
        "server_busy": spent.busy,
        # Near 1, the generator was the limit.
        "generator_busy": report["gen_cpu"],
    }


def idle_cases(scale: Scale) -> list[Case]:
    """Return a case for every number of sockets."""
    return [Case(f"{count:,} sockets", idle(count), count) for count in scale.idle]


def idle(count: int) -> Round:
    """Compare resident memory before and after, in a fresh server."""

    def run(stage: Stage, entry: Entry) -> Figures:
        path = f"{entry.path}echo/"
        with stage.fresh(entry.peer) as server:
            # Warm up, so that one-time allocations do not count.
            for _ in range(2):
                with stage.generator.holding(server, path, min(500, count)):
                    pass
            server.rest()
            before = settled(server.resident)
            with stage.watcher(server, "idle"), stage.generator.holding(server, path, count):
                after = settled(server.resident)
        return {"kib": (after - before) / count / 1024}

    return run


def handshake_cases(scale: Scale) -> list[Case]:
    """Return the only case."""

    def run(stage: Stage, entry: Entry) -> Figures:
        server = stage.server(entry.peer)
        options = ("--conns", 20, *stage.timing())
        report, spent = stage.load("handshakes", server, "churn", f"{entry.path}echo/", *options)
        return rates(report, "conns", spent)

    def load(entry: Entry) -> Load:
        warm = 20 * entry.peer.warmup
        return Handshakes(f"{entry.path}echo/", warm=warm, few=2, many=12)

    return [Case("20 at a time", run, counted=load)]


def latency_cases(scale: Scale) -> list[Case]:
    """Return the only case."""

    def run(stage: Stage, entry: Entry) -> Figures:
        server = stage.server(entry.peer)
        options = ("--check", "--conns", 100, "--rate", scale.rate, *stage.timing())
        report, spent = stage.load("latency", server, "echo", f"{entry.path}echo/", *options)
        latency = report["latency_us"]
        quantiles = {f"{name}_ms": latency[name] / 1000 for name in ("p50", "p99", "p999")}
        return quantiles | {
            "rate": report["msgs_per_s"],
            "server_busy": spent.busy,
            "generator_busy": report["gen_cpu"],
        }

    return [Case(f"{scale.rate:,} messages/s of 64 B", run)]


def blocking_cases(scale: Scale) -> list[Case]:
    """Return the only case."""

    def run(stage: Stage, entry: Entry) -> Figures:
        options = ("--check", "--conns", scale.blocked)
        # Some servers keep a database connection for each socket. If all servers ran at the same
        # time, PostgreSQL would have too few.
        with stage.fresh(entry.peer) as server, stage.watcher(server, "blocking"):
            report = stage.generator.run(server, "once", f"{entry.path}sleep/", *options)
        return {"seconds": report["seconds"], "p50_ms": report["latency_us"]["p50"] / 1000}

    return [Case(f"{scale.blocked} sockets at once", run, scale.blocked)]


# Groups


def fanout_cases(processes: int) -> Callable[[Scale], list[Case]]:
    """Return a function that makes a case for every size of the group, in that many processes."""

    def cases(scale: Scale) -> list[Case]:
        name = "fanout" if processes == 1 else "redis"
        return [
            Case(
                f"{members:,} members",
                fanout(name, members, processes),
                members,
                delivery if processes == 1 and members == scale.members[0] else None,
            )
            for members in scale.members
        ]

    return cases


def delivery(entry: Entry) -> Load:
    """Return the load to count: fewer members, as each takes long to connect under valgrind."""
    paths = f"{entry.path}room/", f"{entry.path}speaker/"
    return Fanout(*paths, members=100, warm=3 * entry.peer.warmup, few=2, many=12)


def fanout(name: str, members: int, processes: int) -> Round:
    """Let one member send to all, four messages in flight."""

    def run(stage: Stage, entry: Entry) -> Figures:
        server = stage.server(entry.peer, processes)
        options = ["--pub-path", f"{entry.path}speaker/", "--conns", members, "--size", 128]
        options += ["--window", 4, "--settle", 0.3, "--duration", stage.scale.seconds]
        report, spent = stage.load(name, server, "fanout", f"{entry.path}room/", *options)
        if report["lost"]:
            raise BenchError(f"lost {report['lost']:,} of {report['deliveries']:,} deliveries")
        return rates(report, "deliveries", spent)

    return run


# Pages


def page_cases(scale: Scale) -> list[Case]:
    """Return a page with a user, one without, and the first one with sockets open."""

    def with_user(stage: Stage, entry: Entry) -> Figures:
        return pages(stage, entry, "/")

    def without_user(stage: Stage, entry: Entry) -> Figures:
        return pages(stage, entry, "/bare/")

    def beside(stage: Stage, entry: Entry) -> Figures:
        path = f"{next(iter(entry.peer.ways))}echo/"
        with stage.generator.holding(stage.server(entry.peer), path, scale.held):
            return pages(stage, entry, "/")

    return [
        Case("with user", with_user, counted=lambda entry: Pages("/", few=2, many=12)),
        Case("no database", without_user, counted=lambda entry: Pages("/bare/", few=2, many=12)),
        Case(f"with user, {scale.held:,} sockets open", beside, scale.held),
    ]


def pages(stage: Stage, entry: Entry, path: str) -> Figures:
    """Request a page on twenty connections, one request in flight on each."""
    options = ("--conns", 20, "--warmup", stage.scale.warmup, *PAGE, stage.scale.seconds)
    report, spent = stage.load("pages", stage.server(entry.peer), "http", path, *options)
    return rates(report, "requests", spent)


CPU = Column("cpu_us", "CPU us each", 1)
#: Of the whole measure, not of each round.
INSTRUCTIONS = Column("instructions", "instructions each")
P99 = Column("p99_ms", "p99, ms", 2)
SERVED = Column("rate", "messages/s")

MEASURES = (
    Measure("echo", "Echo", (Column("rate", "messages/s"), CPU, INSTRUCTIONS), True, echo_cases),
    Measure("idle", "Memory of an idle socket", (Column("kib", "KiB", 1),), False, idle_cases),
    Measure(
        "handshakes",
        "Opening sockets",
        (Column("rate", "handshakes/s"), CPU, INSTRUCTIONS, P99),
        True,
        handshake_cases,
    ),
    Measure(
        "fanout",
        "Group messages in one process",
        (Column("rate", "deliveries/s"), CPU, INSTRUCTIONS, P99),
        True,
        fanout_cases(1),
    ),
    Measure(
        "redis",
        "Group messages between two processes, through Redis",
        (Column("rate", "deliveries/s"), CPU, P99),
        True,
        fanout_cases(2),
    ),
    Measure(
        "pages",
        "Plain pages",
        (Column("rate", "requests/s"), CPU, INSTRUCTIONS, P99),
        True,
        page_cases,
    ),
    Measure(
        "latency",
        "Echo latency under a steady load",
        (P99, Column("p50_ms", "p50, ms", 2), Column("p999_ms", "p99.9, ms", 2), SERVED),
        False,
        latency_cases,
    ),
    Measure(
        "blocking",
        "A view that waits 50 ms for the database",
        (Column("seconds", "s until all are answered", 2), Column("p50_ms", "p50, ms")),
        False,
        blocking_cases,
    ),
)
