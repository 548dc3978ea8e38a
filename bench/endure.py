"""Check that a worker holds thousands of idle sockets for long, and serves pages beside them.

Opens 15,000 sockets in one worker, which pings each of them every twenty seconds, and requests
pages all the time. Exits with 1 if a socket is closed, a page fails, or the worker's memory keeps
growing: ``python bench/endure.py``; see README.rst.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from harness import (
    TICKS,
    BenchError,
    Generator,
    Server,
    allow_many_files,
    build_wsload,
    leave_on_sigterm,
    pick_cores,
    pinned_to,
    prepare,
    running,
)
from peers import OURS
from soak import KINDS, RESIDENT, gauge

#: Seconds between two pages.
PAUSE = 0.05


@dataclass(frozen=True)
class Slice:
    """Observations over a period.

    Attributes:
        sockets: open in the worker at its end.
        resident: memory of the worker in bytes.
        busy: share of its core that the worker used.
        pages: milliseconds that each page took.
    """

    sockets: int
    resident: int
    busy: float
    pages: list[float]

    def __str__(self) -> str:
        p50, p99 = (statistics.quantiles(self.pages, n=100)[at - 1] for at in (50, 99))
        return (
            f"{self.sockets} sockets, {self.resident / 2**20:.1f} MiB, worker at {self.busy:.0%}, "
            f"{len(self.pages)} pages: p50 {p50:.2f} ms, p99 {p99:.2f} ms, "
            f"slowest {max(self.pages):.2f} ms"
        )


def observe(server: Server, generator: Generator, seconds: float) -> Slice:
    """Request pages for a while."""
    name, _, value = generator.cookie.partition(": ")
    before, started = sum(server.cpu_ticks().values()), time.monotonic()
    pages = []
    with pinned_to(generator.core):
        while time.monotonic() < started + seconds:
            began = time.perf_counter()
            connection = http.client.HTTPConnection(server.address, timeout=30)
            connection.request("GET", "/", headers={name: value})
            response = connection.getresponse()
            body = response.read()
            connection.close()
            pages.append((time.perf_counter() - began) * 1000)
            if (response.status, body) != (200, b"hello ann\n"):
                raise BenchError(f"a page failed: {response.status} {body[:200]!r}")
            time.sleep(PAUSE)
    ticks = sum(server.cpu_ticks().values()) - before
    busy = ticks / TICKS / (time.monotonic() - started)
    return Slice(gauge(server.address).sockets, server.resident(), busy, pages)


def endure(server: Server, generator: Generator, options: argparse.Namespace) -> list[str]:
    """Hold the sockets; return a list of problems."""
    gauge(server.address)  # waits until there is a worker
    print(f"without: {observe(server, generator, 5)}", flush=True)
    slices: list[Slice] = []
    with generator.holding(server, f"/{options.kind}/echo/", options.conns) as opened:
        print(f"opened: {opened['handshakes_per_s']:,.0f} handshakes/s", flush=True)
        for number in range(1, options.slices + 1):
            slices.append(observe(server, generator, options.seconds / options.slices))
            print(f"slice {number}: {slices[-1]}", flush=True)
    wrong = [
        f"{each.sockets} of {options.conns} sockets are open"
        for each in slices
        if each.sockets != options.conns
    ]
    # The first slice includes one-time costs of pings and pages.
    grown = slices[-1].resident - slices[0].resident
    if grown > RESIDENT:
        wrong.append(f"{grown} bytes more than after the first slice")
    return wrong


def main() -> None:
    """Endure and check."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--conns", type=int, default=15_000, help="sockets (default 15000)")
    parser.add_argument("--seconds", type=float, default=600.0, help="in total (default 600)")
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--kind", choices=KINDS, default="event", help="of view")
    options = parser.parse_args()
    leave_on_sigterm()
    allow_many_files()
    server_core, core = pick_cores()
    try:
        build_wsload()
        with tempfile.TemporaryDirectory(prefix="django-wsmux-bench-") as directory:
            scratch = Path(directory)
            generator = Generator(prepare(scratch), core)
            with running(OURS.contestant(), scratch, server_core) as server:
                wrong = endure(server, generator, options)
    except (BenchError, OSError) as error:
        sys.exit(f"bench/endure.py: {error}")
    if wrong:
        sys.exit("\n".join(f"bench/endure.py: {each}" for each in wrong))
    print("all sockets stayed open, and memory is stable")


if __name__ == "__main__":
    main()
