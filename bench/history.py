"""The cost of keeping the history of groups.

    python bench/history.py                        # every available store
    python bench/history.py local:// --short
    python bench/history.py redis://127.0.0.1:6379 --processes 1 4 8

CPU time is user and system time of the process that calls the store, without that of a server. The
wall time of a call contains the waits for other processes. ``postgres://`` needs
DJANGO_SETTINGS_MODULE.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

#: The stores to look for.
USUAL = ("memory://", "local://", "redis://127.0.0.1:6379", "postgres://")

#: Calls between two readings of the CPU clock; the best of these batches is printed, too.
BATCH = 50

MESSAGE = b"x" * 200


def set_up(namespace: str, url: str):
    """Set up Django, and create the store."""
    import django
    from django.conf import settings

    if "DJANGO_SETTINGS_MODULE" in os.environ:
        django.setup()
    elif not settings.configured:
        settings.configure()
    from django_wsmux.history.stores import store_from_url

    return store_from_url(url, namespace, None)


def streams(count: int = 10):
    """Return the groups that messages are sent to."""
    from django_wsmux.history.store import Keep, Stream

    return [Stream(f"room.{number}", Keep(200, 600.0), "bench") for number in range(count)]


def measure(what: str, count: int, call: Callable[[int], object]) -> None:
    """Call a function often, and print the time of one call."""
    best = worst = 0.0
    cpu = time.process_time()
    began = time.perf_counter()
    for start in range(0, count, BATCH):
        before = time.process_time()
        for number in range(start, start + BATCH):
            at = time.perf_counter()
            call(number)
            worst = max(worst, time.perf_counter() - at)
        taken = (time.process_time() - before) / BATCH
        best = min(best or taken, taken)
    cpu = (time.process_time() - cpu) / count
    wall = (time.perf_counter() - began) / count
    print(
        f"{what:28} {cpu * 1e6:8.1f} us CPU (best {best * 1e6:.1f}) {wall * 1e6:8.1f} us wall, "
        f"worst {worst * 1e3:.1f} ms",
        flush=True,
    )


def append(options: argparse.Namespace) -> None:
    """Append messages when told to; print CPU time, wall time and the longest call."""
    store = set_up(options.namespace, options.urls[0])
    groups = streams()
    store.read(groups[0])
    print("ready", flush=True)
    sys.stdin.readline()
    worst = 0.0
    cpu, began = time.process_time(), time.perf_counter()
    for number in range(options.count):
        at = time.perf_counter()
        store.append(groups[number % len(groups)], MESSAGE)
        worst = max(worst, time.perf_counter() - at)
    print(time.process_time() - cpu, time.perf_counter() - began, worst, flush=True)


def append_together(options: argparse.Namespace, url: str, processes: int) -> None:
    """Let processes append at the same time, and print the times."""
    command = [sys.executable, __file__, url, "--role", "append", "--namespace", options.namespace]
    started = [
        subprocess.Popen(
            [*command, "--count", str(options.count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    rows = [[float(value) for value in process.communicate()[0].split()] for process in started]
    total = processes * options.count
    what = f"append, {processes} at once"
    print(
        f"{what:28} {sum(row[0] for row in rows) / total * 1e6:8.1f} us CPU "
        f"{total / max(row[1] for row in rows):10,.0f}/s together, "
        f"worst {max(row[2] for row in rows) * 1e3:.1f} ms",
        flush=True,
    )


def measure_store(options: argparse.Namespace, url: str) -> None:
    """Measure one store."""
    store = set_up(options.namespace, url)
    groups = streams()
    count = options.count
    store.read(groups[0])  # raises if it is not reachable
    measure("append", count, lambda n: store.append(groups[n % 10], MESSAGE))
    measure("append with a key", count // 4, lambda n: store.append(groups[0], MESSAGE, key=f"{n}"))
    for processes in options.processes if url != "memory://" else ():
        append_together(options, url, processes)
    top = store.read(groups[0]).top
    measure("read, nothing missed", count // 4, lambda n: store.read(groups[0], top, 500))
    measure("read, 5 missed", count // 4, lambda n: store.read(groups[0], top - 5, 500))
    measure("read, 100 missed", count // 10, lambda n: store.read(groups[0], top - 100, 500))
    seen, _ = store.changed("")
    measure("changed, nothing sent", count // 10, lambda n: store.changed(seen))
    for group in groups:
        store.append(group, MESSAGE)
    measure("changed, 10 groups", count // 10, lambda n: store.changed(seen))
    measure("sweep, nothing to do", count // 10, lambda n: store.sweep())
    store.close()


def main() -> None:
    """Measure the stores."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("urls", nargs="*", default=USUAL)
    parser.add_argument("--count", type=int, default=20_000, help="messages of each process")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--short", action="store_true", help="only check that it works")
    parser.add_argument("--namespace", default=uuid4().hex[:8], help=argparse.SUPPRESS)
    parser.add_argument("--role", choices=["append"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.short:
        options.count = 500
    if options.role:
        append(options)
        return
    from django_wsmux.exceptions import BackendUnavailable

    with tempfile.TemporaryDirectory() as directory:
        for url in options.urls:
            print(f"\n{url}")
            try:
                measure_store(options, f"local://{directory}" if url == "local://" else url)
            except (BackendUnavailable, ImportError, ValueError) as error:
                print(f"not measured: {error}")


if __name__ == "__main__":
    main()
