"""What idle sockets cost: hundreds of thousands of them on this machine.

::

    python bench/hold.py                                # 200,000 sockets, 16 workers
    python bench/hold.py --sockets 20000 --workers 2 --kind event

Clients connect from many addresses of 127.0.0.0/8, since one address has 28,000 ports. The memory
of workers is their proportional share (Pss): pages that workers share count once. Kernel memory is
that of slabs and of TCP buffers, which both ends of each connection use. The CPU time is that of
workers while they only send pings. It needs Linux and gcc. See README.rst.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import (
    HEADERS,
    TICKS,
    WSLOAD,
    BenchError,
    Contestant,
    Server,
    allow_many_files,
    build_wsload,
    gunicorn,
    leave_on_sigterm,
    prepare,
    running,
)
from peers import WORKER

#: Sockets of one generator; each has a limit of open files.
EACH = 12_500

#: Handshakes of one generator at the same time.
AT_ONCE = 8

#: Seconds between two pings, the default of WEBSOCKET_PING_INTERVAL.
PING = 20.0


@dataclass(frozen=True)
class Memory:
    """Memory in bytes.

    Attributes:
        workers: of all processes of the server.
        kernel: slabs and TCP buffers of the machine.
    """

    workers: int
    kernel: int


def memory_of(server: Server) -> Memory:
    """Return the memory in use."""
    pss = 0
    for pid in server.cpu_ticks():
        pss += kilobytes(f"/proc/{pid}/smaps_rollup", "Pss")
    (pages,) = re.findall(r"^TCP: .* mem (\d+)$", Path("/proc/net/sockstat").read_text(), re.M)
    buffers = int(pages) * os.sysconf("SC_PAGE_SIZE")
    return Memory(pss * 1024, kilobytes("/proc/meminfo", "Slab") * 1024 + buffers)


def kilobytes(file: str, name: str) -> int:
    """Return a field of a file in /proc."""
    (found,) = re.findall(rf"^{name}:\s+(\d+) kB$", Path(file).read_text(), re.MULTILINE)
    return int(found)


def files_of(server: Server) -> list[int]:
    """Return the number of open files of each worker, in order."""
    workers = [pid for pid in server.cpu_ticks() if pid != server.pid]
    return sorted(len(os.listdir(f"/proc/{pid}/fd")) for pid in workers)


@contextmanager
def holding(server: Server, path: str, count: int, cookie: str) -> Iterator[float]:
    """Hold sockets open; yield the seconds that opening them took."""
    numbers = [min(EACH, count - begin) for begin in range(0, count, EACH)]
    headers = [part for header in (cookie, *HEADERS) for part in ("--header", header)]
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            [
                *(str(WSLOAD), "idle", "--path", path, "--origin", f"http://{server.address}"),
                *headers,
                *("--conns", str(number), "--src-addrs", str(len(numbers)), "--hold-stdin"),
                *("--inflight", str(AT_ONCE), "--timeout", "1800", server.address),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in numbers
    ]
    try:
        for process, number in zip(processes, numbers, strict=True):
            assert process.stdout is not None
            report = json.loads(process.stdout.readline())
            if report["open"] != number:
                raise BenchError(f"{report['open']:,} of {number:,} sockets opened: {report}")
        yield time.monotonic() - began
    finally:
        for process in processes:
            process.communicate()


def measure(server: Server, options: argparse.Namespace, cookie: str) -> None:
    """Hold the sockets and print what they cost."""
    path = f"/{options.kind}/echo/"
    # Each worker allocates some things once.
    with holding(server, path, 100 * options.workers, cookie):
        pass
    time.sleep(options.settle)
    before = memory_of(server)
    count = options.sockets
    with holding(server, path, count, cookie) as seconds:
        cpu = sum(server.cpu_ticks().values()) / TICKS
        print(
            f"{count:,} sockets opened in {seconds:.0f} s, {cpu / count * 1e3:.2f} ms of CPU "
            f"time each",
            flush=True,
        )
        time.sleep(options.settle)
        after = memory_of(server)
        workers = (after.workers - before.workers) / count / 1024
        kernel = (after.kernel - before.kernel) / count / 1024
        files = files_of(server)
        print(
            f"workers: {after.workers / 2**30:.2f} GiB, {workers:.2f} KiB a socket; "
            f"{files[0]:,} to {files[-1]:,} open files\n"
            f"kernel: {kernel / 2:.2f} KiB for each end of a connection",
            flush=True,
        )
        ticks = server.cpu_ticks()
        began = time.monotonic()
        time.sleep(options.seconds)
        passed = time.monotonic() - began
        spent = (sum(server.cpu_ticks().values()) - sum(ticks.values())) / TICKS
        print(
            f"pings: {spent / passed * 1e5 / count:.3f} cores for 100,000 sockets, "
            f"{spent / passed * PING / count * 1e6:.0f} us a ping"
        )
        if sum(files_of(server)) < count:
            raise BenchError("sockets were closed meanwhile")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sockets", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--kind", choices=["event", "lean", "function"], default="lean")
    parser.add_argument("--seconds", type=float, default=60.0, help="to measure pings")
    parser.add_argument(
        "--settle", type=float, default=30.0, help="seconds until memory is measured"
    )
    options = parser.parse_args()
    leave_on_sigterm()
    allow_many_files()
    build_wsload()
    with tempfile.TemporaryDirectory(prefix="django-wsmux-bench-") as directory:
        scratch = Path(directory)
        cookie = prepare(scratch)
        more = ("-w", str(options.workers), "--timeout", "300", "--backlog", "4096")
        command = gunicorn(WORKER, "wsmux_site", *more)
        contestant = Contestant("hold", command)
        try:
            with running(contestant, scratch, None, 120.0) as server:
                measure(server, options, cookie)
        except BenchError as error:
            sys.exit(f"bench/hold.py: {error}")


if __name__ == "__main__":
    main()
