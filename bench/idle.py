"""What an idle WebSocket of a signed-in user costs: memory, and pages served meanwhile.

Opens thousands of sockets through Django's session and authentication middleware, on each kind of
view in a worker of its own, and looks at the worker's resident memory before and after. Run it with
a Python that has the package: ``python bench/idle.py``; see README.rst.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import (
    BENCH,
    WSLOAD,
    BenchError,
    Contestant,
    Server,
    build_wsload,
    gunicorn,
    pick_cores,
    pinned_to,
    process_ticks,
    running,
    server_environment,
)

SITE = BENCH / "servers"
#: KiB of resident memory for each socket, at most; what the project promises.
TARGETS = {"function": 24.0, "event": 8.0, "lean": 1.5}
#: Plain requests for each measurement of their latency.
REQUESTS = 1000


@dataclass(frozen=True)
class Result:
    """What a kind of view needed.

    Attributes:
        kind: of the view.
        kib: resident memory for each socket, in KiB.
        handshakes_per_s: while they were opened.
        busy: share of its core that the worker used meanwhile.
        p99: of a plain request in milliseconds, without and with the sockets open.
        kib_after: memory for each socket that did not come back when all had gone.
    """

    kind: str
    kib: float
    handshakes_per_s: float
    busy: float
    p99: tuple[float, float]
    kib_after: float


def prepare(scratch: Path) -> str:
    """Make the database; return the header that carries a session."""
    os.environ["BENCH_DATABASE"] = str(scratch / "idle.sqlite3")
    command = [sys.executable, str(SITE / "idle_site.py")]
    environment = server_environment(scratch)
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if made.returncode:
        raise BenchError(f"the database cannot be made:\n{made.stderr}")
    return f"Cookie: sessionid={made.stdout.strip()}; csrftoken={'x' * 32}"


def worker(server: Server) -> int:
    """Return the process id of gunicorn's only worker."""
    (pid,) = server.cpu_ticks().keys() - {server.pid}
    return pid


def resident(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


@contextmanager
def sockets(
    address: str, kind: str, count: int, cookie: str, core: int | None
) -> Iterator[dict[str, Any]]:
    """Hold so many sockets open; gives what the generator reports when all are."""
    command = [str(WSLOAD), "idle", "--path", f"/{kind}/", "--conns", str(count)]
    command += ["--header", cookie, "--header", "User-Agent: Mozilla/5.0 (X11; Linux x86_64)"]
    command += ["--header", "Accept-Language: en-US,en;q=0.5", "--hold-stdin", address]
    with pinned_to(core):
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        report = json.loads(process.stdout.readline())
        if report["open"] != count:
            raise BenchError(f"{kind}: {report['open']} of {count} sockets opened: {report}")
        yield report
    finally:
        process.stdin.close()
        process.stdout.read()
        process.wait()


def load(server: Server, cookie: str, core: int | None, *arguments: str) -> dict[str, Any]:
    """Run the generator to its end; return its report."""
    command = [str(WSLOAD), *arguments, "--header", cookie, server.address()]
    with pinned_to(core):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report: dict[str, Any] = json.loads(result.stdout)
    except ValueError:
        raise BenchError(f"wsload ended with {result.returncode}: {result.stderr}") from None
    if report["errors"]:
        raise BenchError(f"{report['errors']} errors: {report}\n{server.log_tail()}")
    return report


def p99(address: str, cookie: str, core: int | None) -> float:
    """Return the 99th percentile of a plain request's time in milliseconds."""
    name, _, value = cookie.partition(": ")
    connection = http.client.HTTPConnection(address)
    times = []
    with pinned_to(core):
        for _ in range(REQUESTS):
            started = time.perf_counter()
            connection.request("GET", "/", headers={name: value})
            body = connection.getresponse().read()
            times.append((time.perf_counter() - started) * 1000)
            assert body == b"hello ann\n", body
    connection.close()
    return statistics.quantiles(times, n=100)[98]


def settled(read: Callable[[], int]) -> int:
    """Return a value once it has stopped changing."""
    value = read()
    for _ in range(50):
        time.sleep(0.2)
        before, value = value, read()
        if value == before:
            break
    return value


def measure(kind: str, count: int, scratch: Path, cookie: str) -> Result:
    """Measure one kind of view in a worker of its own."""
    application = gunicorn("django_wsmux.worker.WebSocketWorker", "idle_site")
    server_core, core = pick_cores()
    with running(Contestant(f"idle-{kind}", application, SITE), scratch, server_core) as server:
        address = server.address()
        pid = worker(server)
        # So that nothing of what is made once is counted.
        for _ in range(2):
            with sockets(address, kind, 500, cookie, core):
                pass
        without = p99(address, cookie, core)
        before = settled(lambda: resident(pid))
        ticks = sum(process_ticks(pid).values())
        started = time.monotonic()
        with sockets(address, kind, count, cookie, core) as report:
            seconds = time.monotonic() - started
            busy = (sum(process_ticks(pid).values()) - ticks) / os.sysconf("SC_CLK_TCK") / seconds
            after = settled(lambda: resident(pid))
            within = p99(address, cookie, core)
        left = settled(lambda: resident(pid))
        per_socket = (after - before) / count / 1024
        rate = report["handshakes_per_s"]
        return Result(
            kind, per_socket, rate, busy, (without, within), (left - before) / count / 1024
        )


def as_text(results: list[Result], count: int) -> str:
    """Return the report."""
    lines = [f"{count} idle sockets of signed-in users, one worker", ""]
    for result in results:
        target = TARGETS[result.kind]
        verdict = "reached" if result.kib <= target else "MISSED"
        lines += [
            f"{result.kind:9} {result.kib:6.2f} KiB each (target {target:g}: {verdict}), "
            f"{result.kib_after:.2f} KiB not returned",
            f"{'':9} {result.handshakes_per_s:,.0f} handshakes/s, worker at {result.busy:.0%}; "
            f"page p99 {result.p99[0]:.2f} ms without, {result.p99[1]:.2f} ms with them",
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--conns", type=int, default=10_000, help="sockets (default 10000)")
    parser.add_argument("--kinds", nargs="+", choices=TARGETS, default=list(TARGETS))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        build_wsload()
        with tempfile.TemporaryDirectory(prefix="django-wsmux-bench-") as directory:
            scratch = Path(directory)
            cookie = prepare(scratch)
            results = [measure(kind, options.conns, scratch, cookie) for kind in options.kinds]
    except BenchError as error:
        sys.exit(f"bench/idle.py: {error}")
    print(as_text(results, options.conns))


if __name__ == "__main__":
    main()
