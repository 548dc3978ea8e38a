"""The cost of presence, by store and by the number of rows of a group.

    python bench/presence.py                        # every available store
    python bench/presence.py redis://127.0.0.1:6379 --rows 10 1000
    python bench/presence.py local:// --short

CPU time is user and system time of the process that calls the store. With ``--server PID``, the
time of the server with its children is printed, too. ``postgres://`` needs DJANGO_SETTINGS_MODULE.
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

INFO = '{"name": "Somebody or other"}'


def set_up(namespace: str, url: str):
    """Set up Django, and create the store."""
    import django
    from django.conf import settings

    if "DJANGO_SETTINGS_MODULE" in os.environ:
        django.setup()
    elif not settings.configured:
        settings.configure()
    from django_wsmux.presence.stores import store_from_url

    return store_from_url(url, namespace, None)


def entries(begin: int, end: int, info: str = INFO):
    """Return the entries of connections."""
    from django_wsmux.presence.store import Entry

    return [
        Entry(f"connection-{number:08}", f"user-{number}", info) for number in range(begin, end)
    ]


def server_time(pid: int) -> float:
    """Return the CPU time of a process and its children."""
    pids = [pid] if pid else []
    total = 0
    for each in pids:
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            children = Path(f"/proc/{each}/task/{each}/children").read_text()
        except OSError:
            continue
        # For the server itself, with its children that have ended.
        total += sum(map(int, fields[11 : 15 if each == pid else 13]))
        pids += map(int, children.split())
    return total / os.sysconf("SC_CLK_TCK")


def measure(what: str, count: int, call: Callable[[int], object], server: int) -> None:
    """Call a function often, and print the time of one call."""
    worst = 0.0
    cpu, of_server, began = time.process_time(), server_time(server), time.perf_counter()
    for number in range(count):
        at = time.perf_counter()
        call(number)
        worst = max(worst, time.perf_counter() - at)
    cpu = (time.process_time() - cpu) / count
    wall = (time.perf_counter() - began) / count
    of_server = (server_time(server) - of_server) / count
    shown = f"{of_server * 1e6:9.1f} us server" if server else ""
    print(
        f"{what:34} {cpu * 1e6:9.1f} us CPU {shown} {wall * 1e6:9.1f} us wall, "
        f"worst {worst * 1e3:.1f} ms",
        flush=True,
    )


def measure_rows(store, group: str, rows: int, options: argparse.Namespace) -> None:
    """Measure the calls for a group with some rows."""
    pid, count = options.server, options.count
    people = entries(0, rows)
    parts = [people[begin : begin + 1000] for begin in range(0, rows, 1000)]

    def enter(process: str) -> None:
        for part in parts:
            store.enter(group, part, process)

    measure(f"enter {rows:,}", 1, lambda n: enter("first"), pid)
    measure("  the same again", 1, lambda n: enter("first"), pid)
    measure("  hand over to another process", 1, lambda n: enter("bench"), pid)
    one = entries(rows, rows + 1)
    ids = [one[0].connection]

    def come_and_go(number: int) -> None:
        store.enter(group, one, "bench")
        store.leave(group, ids, "bench")

    measure("enter one and leave", count, come_and_go, pid)
    infos = [entries(0, 1, f'"{number}"') for number in range(2)]
    measure("another info", count, lambda n: store.enter(group, infos[n % 2], "bench"), pid)
    version = store.read(group).version
    measure("read, nothing new", count, lambda n: store.read(group, version), pid)
    measure("read all", max(1, min(count, 100_000 // rows)), lambda n: store.read(group), pid)
    measure("changed, 1 group", count, lambda n: store.changed({group: version}), pid)
    measure("renew", count, lambda n: store.renew("bench"), pid)
    measure("expire, nothing to do", count, lambda n: store.expire(), pid)
    ids = [each.connection for each in people]
    measure(f"leave {rows:,}", 1, lambda n: store.leave(group, ids, "bench"), pid)


def together(options: argparse.Namespace, url: str) -> None:
    """Let two processes enter 400 rows each into one group at the same time, one by one."""
    command = [sys.executable, __file__, url, "--namespace", options.namespace, "--role"]
    started = [
        subprocess.Popen(
            [*command, f"{number}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for number in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    of_server, began = server_time(options.server), time.perf_counter()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    rows = [[float(value) for value in process.communicate()[0].split()] for process in started]
    wall = time.perf_counter() - began
    shown = f"{(server_time(options.server) - of_server) / 800 * 1e6:9.1f} us server"
    print(
        f"{'enter, 800 from 2 processes':34} {sum(row[0] for row in rows) / 800 * 1e6:9.1f} us CPU"
        f" {shown if options.server else ''} {wall * 1e3:9.1f} ms wall in total,"
        f" worst {max(row[1] for row in rows) * 1e3:.1f} ms",
        flush=True,
    )


def enter_together(options: argparse.Namespace) -> None:
    """Enter rows when told to; print CPU time and the longest call."""
    store = set_up(options.namespace, options.urls[0])
    store.renew(options.role)
    print("ready", flush=True)
    sys.stdin.readline()
    worst, cpu = 0.0, time.process_time()
    begin = 400 * int(options.role)
    for entry in entries(begin, begin + 400):
        at = time.perf_counter()
        store.enter("together", [entry], options.role)
        worst = max(worst, time.perf_counter() - at)
    print(time.process_time() - cpu, worst, flush=True)


def main() -> None:
    """Measure the stores."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("urls", nargs="*", default=USUAL)
    parser.add_argument("--rows", type=int, nargs="*", default=[10, 1_000, 10_000])
    parser.add_argument("--count", type=int, default=1_000, help="calls of each kind")
    parser.add_argument("--server", type=int, default=0, help="the process id of the server")
    parser.add_argument("--short", action="store_true", help="only check that it works")
    parser.add_argument("--namespace", default=uuid4().hex[:8], help=argparse.SUPPRESS)
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.short:
        options.count, options.rows = 10, [10]
    if options.role:
        enter_together(options)
        return
    from django_wsmux.exceptions import BackendUnavailable

    with tempfile.TemporaryDirectory() as directory:
        for url in options.urls:
            print(f"\n{url}")
            where = f"local://{directory}" if url == "local://" else url
            try:
                store = set_up(options.namespace, where)
                for rows in options.rows:
                    measure_rows(store, f"room.{rows}", rows, options)
                store.close()
                if url != "memory://":
                    together(options, where)
            except (BackendUnavailable, ImportError, ValueError) as error:
                print(f"not measured: {error}")


if __name__ == "__main__":
    main()
