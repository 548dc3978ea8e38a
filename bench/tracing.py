#!/usr/bin/env python3
"""Measure the CPU time that ``WEBSOCKET_TRACING`` adds to a message.

    pip install -e .[bench,compat]
    python bench/tracing.py
    python bench/tracing.py --rounds 30 --profile on

Servers without tracing, with the API alone, and with the SDK and three samplers run side by side,
and are measured in turn. Each figure is the mean of the rounds, of the time that the kernel counts
for the worker (``/proc/PID/schedstat``). For comparison: what the SDK takes by itself for a span
like ours.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import BENCH, HEADERS, ROOT, SERVERS, BenchError, Contestant, Server, prepare, running
from loads import Client, Echo, Fanout, Load, Run, frame, opened
from peers import WORKER, under_gunicorn
from profiling import Profiler
from report import lay_out
from ticks import children

__all__ = ["main"]

#: What each server does, by the value of ``BENCH_TRACING``.
MODES = {
    "none": "WEBSOCKET_TRACING = False",
    "api": "True, without an SDK",
    "off": "SDK, ALWAYS_OFF",
    "ratio": "SDK, 1 % of traces",
    "on": "SDK, all traces",
}


@dataclass(frozen=True)
class Burst:
    """Messages of one socket to a group with one member, several at a time."""

    units: int = 20
    warm: int = 1
    few: int = 1
    many: int = 1

    @contextmanager
    def connected(self, client: Client) -> Iterator[Run]:
        """See ``Load``."""
        sent = frame(b"x" * 128) * self.units
        with (
            opened(client, 1, "/event/room/") as (member,),
            opened(client, 1, "/event/speaker/") as (speaker,),
        ):

            def run(times: int) -> None:
                for _ in range(times):
                    speaker.send(sent)
                    for _ in range(self.units):
                        member.receive()

            yield run


#: What is measured: a load, the messages of one turn of it, and how many turns there are.
LOADS: dict[str, tuple[str, Load, int, int]] = {
    "receive": ("message to an event view", Echo("/event/echo/", "x" * 64), 20, 250),
    "publish": ("receive and publish", Burst(), 20, 250),
    "group": ("group_receive()", Fanout("/watched/room/", "/watched/speaker/", 50), 50, 100),
}


def contestant(mode: str) -> Contestant:
    """Return a server."""
    start = under_gunicorn(WORKER, "tracing_site")
    return Contestant(
        f"tracing-{mode}",
        lambda scratch, port: start(sys.executable, 1, scratch, port),
        {"PYTHONPATH": str(ROOT), "BENCH_TRACING": mode},
    )


def spent(server: Server) -> int:
    """Return the nanoseconds that the worker has run."""
    (worker,) = children(server.pid)
    return int(Path(f"/proc/{worker}/schedstat").read_text().split()[0])


@contextmanager
def connected(
    servers: dict[str, Server], load: Load, headers: tuple[str, ...]
) -> Iterator[dict[str, Run]]:
    """Open the sockets of a load at each server."""
    with ExitStack() as stack:
        found = {}
        for mode, server in servers.items():
            client = Client(server.address, headers, 120.0, lambda: None)
            found[mode] = stack.enter_context(load.connected(client))
        yield found


def measure(
    servers: dict[str, Server], key: str, headers: tuple[str, ...], rounds: int
) -> dict[str, float]:
    """Return the microseconds of a message, by mode."""
    _, load, units, turns = LOADS[key]
    times = dict.fromkeys(servers, 0)
    with connected(servers, load, headers) as runs:
        for run in runs.values():
            run(turns // 10)
        for _ in range(rounds):
            for mode, run in runs.items():
                before = spent(servers[mode])
                run(turns)
                times[mode] += spent(servers[mode]) - before
    return {mode: total / 1000 / rounds / turns / units for mode, total in times.items()}


def alone(mode: str, links: int) -> float:
    """Return the microseconds that the SDK takes for a span like ours, in a process of its own.

    The locks of a process that gevent has patched take longer.
    """
    program = f"""if True:
        from gevent import monkey
        monkey.patch_all()
        import tracing
        print(tracing.spans_alone({mode!r}, {links}))"""
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=BENCH, capture_output=True, text=True, check=True
    )
    return float(answer.stdout)


def spans_alone(mode: str, links: int) -> float:
    """Return the same for this process."""
    sys.path.insert(0, str(SERVERS))
    from opentelemetry import context
    from opentelemetry.trace import Link, SpanKind
    from tracing_provider import provider

    found: Any = provider(mode)
    tracer = found.get_tracer("bench")
    linked = [Link(tracer.start_span("handshake").get_span_context())] * links
    attributes = {
        "messaging.system": "django_wsmux",
        "messaging.operation.name": "receive",
        "messaging.operation.type": "process",
        "code.function.name": "wsmux_sockets.Echo.receive",
    }
    current, number, times = context.get_current(), 2000, []
    for _ in range(11):
        began = time.thread_time()
        for _ in range(number):
            tracer.start_span("receive", current, SpanKind.CONSUMER, attributes, linked).end()
        times.append((time.thread_time() - began) / number * 1e6)
    found.shutdown()
    return statistics.median(times)


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each load (default 15)")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--profile", choices=MODES, metavar="MODE", help="profile this server")
    options = parser.parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-tracing-")))
        headers = (prepare(scratch), *HEADERS)
        servers = {
            mode: stack.enter_context(running(contestant(mode), scratch, None)) for mode in MODES
        }
        if options.profile:
            profiler = Profiler(ROOT / "bench/profiles")
            for key in options.loads:
                server = {options.profile: servers[options.profile]}
                with profiler(servers[options.profile], f"tracing-{key}"):
                    measure(server, key, headers, options.rounds)
            return 0
        found = {key: measure(servers, key, headers, options.rounds) for key in options.loads}
    rows = [["tracing", *(LOADS[key][0] for key in found)]]
    for mode, title in MODES.items():
        more = {key: times[mode] - times["none"] for key, times in found.items()}
        rows.append([title, *(f"{found[key][mode]:.1f} (+{more[key]:.1f})" for key in found)])
    print("Microseconds of CPU for each, and what tracing adds:\n")
    print("\n".join(lay_out(rows)))
    print("\nThe SDK alone, for a span with one link, and with two:\n")
    for mode in ("off", "ratio", "on"):
        print(f"{MODES[mode]}: {alone(mode, 1):.1f}, {alone(mode, 2):.1f}")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except BenchError as error:
        raise SystemExit(f"error: {error}") from None
