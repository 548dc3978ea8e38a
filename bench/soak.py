"""Check that nothing leaks over millions of messages and connections.

Sends messages over event views and function views, and opens and closes sockets of signed-in users,
in slices. After each slice the worker collects its garbage and reports its number of objects, its
resident memory and its open files. Exits with 1 if one of them grows: ``python bench/soak.py``.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from harness import (
    BenchError,
    Generator,
    Server,
    build_wsload,
    leave_on_sigterm,
    pick_cores,
    prepare,
    running,
)
from peers import OURS

#: Allowed growth: caches of fixed size, the allocator's own memory.
OBJECTS = 300
RESIDENT = 4 * 2**20
#: What a connection of a page, or of the database, may have open at that moment.
FILES = 5
#: Seconds to wait for greenlets and sockets that end by themselves.
PATIENCE = 30.0
KINDS = ("event", "lean", "function")
CONNS = 50


@dataclass(frozen=True)
class Gauge:
    """Objects, memory, files and sockets of the worker.

    Attributes:
        objects: number of objects that the garbage collector tracks.
        resident: memory in bytes.
        files: number of open files.
        sockets: open WebSockets.
    """

    objects: int
    resident: int
    files: int
    sockets: int


def gauge(address: str) -> Gauge:
    """Make the worker collect its garbage and report what is left."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/gauge/")
    report = json.loads(connection.getresponse().read())
    connection.close()
    return Gauge(**report)


def soak(server: Server, generator: Generator, options: argparse.Namespace) -> list[Gauge]:
    """Put load on in slices; return a gauge after each of them."""
    gauges = []
    how = ("--conns", CONNS, "--warmup", 0, "--duration", options.round)
    for number in range(options.slices + 1):
        for kind in KINDS:
            messages = options.messages // options.slices // len(KINDS)
            sockets = options.connections // options.slices // len(KINDS)
            sent = opened = 0
            while sent < messages:
                sent += generator.run(server, "echo", f"/{kind}/echo/", *how)["total_msgs"]
            while opened < sockets:
                opened += generator.run(server, "churn", f"/{kind}/echo/", *how)["total_conns"]
        gauges.append(gauge(server.address))
        print(f"slice {number}: {gauges[-1]}", flush=True)
    # Idle greenlets end after a while; leaks stay.
    deadline = time.monotonic() + PATIENCE
    while verdict(gauges) and time.monotonic() < deadline:
        time.sleep(1)
        gauges[-1] = gauge(server.address)
    print(f"in the end: {gauges[-1]}", flush=True)
    return gauges


def verdict(gauges: list[Gauge]) -> str | None:
    """Return what grew. The first slice is a warm-up, and the others are compared with it."""
    first, last = gauges[0], gauges[-1]
    if last.objects - first.objects > OBJECTS:
        return f"{last.objects - first.objects} objects more than after the first slice"
    if last.resident - first.resident > RESIDENT:
        return f"{last.resident - first.resident} bytes more than after the first slice"
    if last.files - first.files > FILES:
        return f"{last.files - first.files} open files more than after the first slice"
    if last.sockets:
        return f"{last.sockets} sockets are still open"
    return None


def main() -> None:
    """Soak and check."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=10_000_000, help="in total, at least")
    parser.add_argument("--connections", type=int, default=100_000, help="in total, at least")
    parser.add_argument("--slices", type=int, default=10, help="after a warm-up (default 10)")
    parser.add_argument("--round", type=float, default=5.0, help="seconds of each burst of load")
    options = parser.parse_args()
    leave_on_sigterm()
    server_core, core = pick_cores()
    try:
        build_wsload()
        with tempfile.TemporaryDirectory(prefix="django-wsmux-bench-") as directory:
            scratch = Path(directory)
            generator = Generator(prepare(scratch), core)
            with running(OURS.contestant(), scratch, server_core) as server:
                gauges = soak(server, generator, options)
    except BenchError as error:
        sys.exit(f"bench/soak.py: {error}")
    if grown := verdict(gauges):
        sys.exit(f"bench/soak.py: {grown}")
    print("nothing grew")


if __name__ == "__main__":
    main()
