"""What an echo costs through each kind of view, in CPU time of the worker, and a group's message.

All in one worker, in turn, so that the ratios hold on a busy machine: ``python bench/views.py``.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
from pathlib import Path

from harness import (
    BENCH,
    TICKS,
    BenchError,
    Contestant,
    Server,
    build_wsload,
    gunicorn,
    pick_cores,
    running,
)
from idle import load, prepare

KINDS = ("function", "event", "lean")
#: How a group's message gets to a client: straight, or by way of ``group_receive()``.
ROOMS = ("", "watched-")
#: Members of a group.
MEMBERS = 200
#: CPU time of an event view's echo by that of a function view's, at most.
TARGET = 1.15


def cpu_us(server: Server, cookie: str, kind: str, core: int | None, seconds: float) -> float:
    """Return the server's CPU time for each message, in microseconds."""
    before = sum(server.rest().values())
    path = ("--path", f"/{kind}/", "--conns", "100", "--size", "64", "--warmup", "0")
    report = load(server, cookie, core, "echo", *path, "--duration", str(seconds))
    ticks = sum(server.rest().values()) - before
    return float(ticks / TICKS / report["total_msgs"] * 1e6)


def delivery_us(server: Server, cookie: str, room: str, core: int | None, seconds: float) -> float:
    """Return the server's CPU time for a group's message at one member, in microseconds.

    A short round tells what the handshakes cost.
    """
    path = ("--path", f"/{room}room/", "--pub-path", f"/{room}speaker/", "--conns", str(MEMBERS))
    ticks, deliveries = [], []
    for duration in (0.1, seconds):
        before = sum(server.rest().values())
        load_of = ("--size", "128", "--window", "4", "--duration", str(duration))
        report = load(server, cookie, core, "fanout", *path, *load_of)
        ticks.append(sum(server.rest().values()) - before)
        deliveries.append(report["deliveries"])
    return float((ticks[1] - ticks[0]) / TICKS / (deliveries[1] - deliveries[0]) * 1e6)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--duration", type=float, default=3.0, help="of a round in s")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    server_core, core = pick_cores()
    rounds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    deliveries: dict[str, list[float]] = {room: [] for room in ROOMS}
    try:
        build_wsload()
        with tempfile.TemporaryDirectory(prefix="django-wsmux-bench-") as directory:
            scratch = Path(directory)
            cookie = prepare(scratch)
            command = gunicorn("django_wsmux.worker.WebSocketWorker", "idle_site")
            contestant = Contestant("views", command, BENCH / "servers")
            with running(contestant, scratch, server_core) as server:
                for _ in range(options.rounds):
                    for kind in KINDS:
                        spent = cpu_us(server, cookie, kind, core, options.duration)
                        rounds[kind].append(spent)
                    for room in ROOMS:
                        spent = delivery_us(server, cookie, room, core, options.duration)
                        deliveries[room].append(spent)
    except BenchError as error:
        sys.exit(f"bench/views.py: {error}")
    medians = {kind: statistics.median(values) for kind, values in rounds.items()}
    print("echo of 64 B, CPU time of the worker for each message, median (lowest-highest)")
    for kind, values in rounds.items():
        ratio = medians[kind] / medians["function"]
        print(
            f"{kind:9} {medians[kind]:6.2f} us ({min(values):.2f}-{max(values):.2f})  {ratio:.2f} "
            f"of a function view's (target {TARGET}: {'reached' if ratio <= TARGET else 'MISSED'})"
        )
    print(f"a group's message of 128 B at each of {MEMBERS} members, the same way")
    straight = statistics.median(deliveries[""])
    for (room, values), name in zip(deliveries.items(), ("straight", "by the view"), strict=True):
        median = statistics.median(deliveries[room])
        print(
            f"{name:11} {median:6.2f} us ({min(values):.2f}-{max(values):.2f})  "
            f"{median / straight:.1f} times"
        )


if __name__ == "__main__":
    main()
