"""What is measured: each measure with its cases, and what one round of a case does.

A round puts one kind of load on one server and returns figures by name. What they mean is in
README.rst.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from harness import PATIENCE, BenchError, Generator, Server, Spent, running, settled
from peers import Entry, Peer

__all__ = ["FULL", "MEASURES", "PROFILED", "SHORT", "Case", "Column", "Measure", "Scale", "Stage"]

Figures = dict[str, float]


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        seconds: of a round.
        warmup: seconds before it.
        echoes: what is echoed: title, size in bytes, whether it is binary.
        idle: sockets held for their memory.
        members: of a group.
        held: sockets open while pages are served.
        blocked: sockets that wait for the database at once.
        rate: messages a second, below what the slowest can do.
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
    """What looks on while a server is under load."""

    def __call__(self, server: Server, measure: str) -> Any:
        """Return a context manager for the time of the load."""


@dataclass
class Stage:
    """Where the rounds take place: servers, started when they are first asked for.

    Attributes:
        scratch: a directory.
        environments: of the peers.
        generator: puts the load on.
        server_core: of the servers.
        scale: how much of everything.
        variables: that all servers get.
        redis: URL of the broker, if there is one.
        watcher: looks on.
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
        """Return the server that all measures share; several processes share Redis too."""
        server = self._servers.get((peer.key, processes))
        if server is None:
            server = self._stack.enter_context(self.fresh(peer, processes))
            self._servers[peer.key, processes] = server
        return server

    @contextmanager
    def fresh(self, peer: Peer, processes: int = 1) -> Iterator[Server]:
        """Serve a peer for the length of the block; its code is loaded then."""
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
        """See that it answers, and to whom."""
        for path in peer.ways:
            self.generator.run(server, "once", f"{path}echo/", "--conns", 2, "--check")
            if "blocking" in peer.offers:
                try:
                    STRANGER.run(server, "once", f"{path}echo/", "--conns", 1)
                except BenchError:
                    continue
                raise BenchError(f"{server.name}, {path}: lets in whoever is not signed in")
        if "pages" in peer.offers:
            deadline = time.monotonic() + PATIENCE
            once = ("--conns", 1, "--warmup", 0, *PAGE, 0.1)
            while not self.generator.run(server, "http", "/", *once)["total_requests"]:
                if time.monotonic() > deadline:
                    raise BenchError(f"{server.name} answers no request")

    def load(
        self, measure: str, server: Server, mode: str, path: str, *options: object
    ) -> tuple[dict[str, Any], Spent]:
        """Put load on a server; return the generator's report and what it cost the server."""
        with self.watcher(server, measure):
            return self.generator.measure(server, mode, path, *options)

    def timing(self) -> tuple[object, ...]:
        """Return how long the generator is to take."""
        return "--warmup", self.scale.warmup, "--duration", self.scale.seconds


#: Has no session.
STRANGER = Generator("Cookie: sessionid=none", None)

#: A page of the signed-in user; the length of the round comes last.
PAGE = ("--expect", "hello ann", "--duration")

Round = Callable[[Stage, Entry], Figures]


@dataclass(frozen=True)
class Case:
    """One load.

    Attributes:
        title: what it is.
        run: does one round.
        sockets: how many of them it needs, of servers that have any.
    """

    title: str
    run: Round
    sockets: int = 0


@dataclass(frozen=True)
class Column:
    """A figure in the report.

    Attributes:
        figure: its name.
        title: over the column.
        digits: behind the point.
    """

    figure: str
    title: str
    digits: int = 0


@dataclass(frozen=True)
class Measure:
    """What is measured.

    Attributes:
        name: on the command line.
        title: in the report.
        columns: the first is the one to compare.
        more_is_better: of that one.
        cases: make the loads of a scale.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    more_is_better: bool
    cases: Callable[[Scale], list[Case]]


# Sockets


def echo_cases(scale: Scale) -> list[Case]:
    """Return every size, as text and as binary."""
    return [Case(title, echo(size, binary)) for title, size, binary in scale.echoes]


def echo(size: int, binary: bool) -> Round:
    """A hundred connections, or four with large messages, each with a message under way."""
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
    """Return what there is to say of a load that goes as fast as it can."""
    if not report[what]:
        raise BenchError("answered nothing")
    return {
        "rate": report[f"{what}_per_s"],
        "cpu_us": spent.seconds / report[what] * 1e6,
        "p99_ms": report["latency_us"]["p99"] / 1000,
        "server_busy": spent.busy,
        # Near 1 the generator was.
        "generator_busy": report["gen_cpu"],
    }


def idle_cases(scale: Scale) -> list[Case]:
    """Return every number of sockets."""
    return [Case(f"{count:,} sockets", idle(count), count) for count in scale.idle]


def idle(count: int) -> Round:
    """Resident memory before and after, in a server of its own."""

    def run(stage: Stage, entry: Entry) -> Figures:
        path = f"{entry.path}echo/"
        with stage.fresh(entry.peer) as server:
            # So that nothing of what is made once is counted.
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
    """Return the one there is."""

    def run(stage: Stage, entry: Entry) -> Figures:
        server = stage.server(entry.peer)
        options = ("--conns", 20, *stage.timing())
        report, spent = stage.load("handshakes", server, "churn", f"{entry.path}echo/", *options)
        return rates(report, "conns", spent)

    return [Case("20 at a time", run)]


def latency_cases(scale: Scale) -> list[Case]:
    """Return the one rate."""

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
    """Return the one number of sockets."""

    def run(stage: Stage, entry: Entry) -> Figures:
        server = stage.server(entry.peer)
        options = ("--check", "--conns", scale.blocked)
        with stage.watcher(server, "blocking"):
            report = stage.generator.run(server, "once", f"{entry.path}sleep/", *options)
        return {"seconds": report["seconds"], "p50_ms": report["latency_us"]["p50"] / 1000}

    return [Case(f"{scale.blocked} sockets at once", run, scale.blocked)]


# Groups


def fanout_cases(processes: int) -> Callable[[Scale], list[Case]]:
    """Return every size of the group, in so many processes."""

    def cases(scale: Scale) -> list[Case]:
        name = "fanout" if processes == 1 else "redis"
        return [
            Case(f"{members:,} members", fanout(name, members, processes), members)
            for members in scale.members
        ]

    return cases


def fanout(name: str, members: int, processes: int) -> Round:
    """One speaks, four messages under way, and all hear it."""

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
    """Return a page with a user and one without, and the first with sockets open."""

    def with_user(stage: Stage, entry: Entry) -> Figures:
        return pages(stage, entry, "/")

    def without_user(stage: Stage, entry: Entry) -> Figures:
        return pages(stage, entry, "/bare/")

    def beside(stage: Stage, entry: Entry) -> Figures:
        path = f"{next(iter(entry.peer.ways))}echo/"
        with stage.generator.holding(stage.server(entry.peer), path, scale.held):
            return pages(stage, entry, "/")

    return [
        Case("with user", with_user),
        Case("no database", without_user),
        Case(f"with user, {scale.held:,} sockets open", beside, scale.held),
    ]


def pages(stage: Stage, entry: Entry, path: str) -> Figures:
    """Twenty connections, each with a request under way."""
    options = ("--conns", 20, "--warmup", stage.scale.warmup, *PAGE, stage.scale.seconds)
    report, spent = stage.load("pages", stage.server(entry.peer), "http", path, *options)
    return rates(report, "requests", spent)


CPU = Column("cpu_us", "CPU us each", 1)
P99 = Column("p99_ms", "p99, ms", 2)
SERVED = Column("rate", "messages/s")

MEASURES = (
    Measure("echo", "Echo", (Column("rate", "messages/s"), CPU), True, echo_cases),
    Measure("idle", "Memory of an idle socket", (Column("kib", "KiB", 1),), False, idle_cases),
    Measure(
        "handshakes",
        "Opening sockets",
        (Column("rate", "handshakes/s"), CPU, P99),
        True,
        handshake_cases,
    ),
    Measure(
        "fanout",
        "A group, in one process",
        (Column("rate", "deliveries/s"), CPU, P99),
        True,
        fanout_cases(1),
    ),
    Measure(
        "redis",
        "A group, in two processes, through Redis",
        (Column("rate", "deliveries/s"), CPU, P99),
        True,
        fanout_cases(2),
    ),
    Measure("pages", "Plain pages", (Column("rate", "requests/s"), CPU, P99), True, page_cases),
    Measure(
        "latency",
        "Latency of an echo under even load",
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
