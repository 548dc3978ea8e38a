"""The parts of a benchmark: servers, the load generator, cores, CPU time and memory.

It only stops processes that it has started. It needs Linux: the load generator uses epoll, and CPU
time is read from /proc.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "BENCH",
    "GUNICORN",
    "PATIENCE",
    "ROOT",
    "SERVERS",
    "TICKS",
    "BenchError",
    "Contestant",
    "Generator",
    "Server",
    "Spent",
    "allow_many_files",
    "build_wsload",
    "compiled",
    "gunicorn",
    "leave_on_sigterm",
    "pick_cores",
    "pinned_to",
    "prepare",
    "process_ticks",
    "running",
    "server_environment",
    "settled",
]

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
SERVERS = BENCH / "servers"
WSLOAD = BENCH / "wsload"

# Redis and PostgreSQL are run by code of the tests.
sys.path.insert(0, str(ROOT))

#: Seconds that a server may take to start, to become idle after a round, and to stop.
PATIENCE = 30.0

TICKS = os.sysconf("SC_CLK_TCK")

#: Headers that a browser also sends; servers that keep the request keep them, too.
HEADERS = ("User-Agent: Mozilla/5.0 (X11; Linux x86_64)", "Accept-Language: en-US,en;q=0.5")


#: gunicorn's configuration. Versions without a setting ignore it.
GUNICORN = """\
import os

control_socket_disable = True
http_parser = os.environ.get("BENCH_HTTP_PARSER", "auto")
worker_connections = 12000
"""


class BenchError(Exception):
    """The benchmark cannot continue; the text gives the reason."""


@dataclass(frozen=True)
class Contestant:
    """A server to measure.

    Attributes:
        name: name of its log.
        command: returns its command line for a scratch directory and the port of 127.0.0.1 on
            which it listens.
        environment: additional environment variables.
    """

    name: str
    command: Callable[[Path, int], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)


# Cores


def pick_cores() -> tuple[int | None, int | None]:
    """Choose a core for the servers and one for the generator, or none if there is only one."""
    if not hasattr(os, "sched_setaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


@contextmanager
def pinned_to(core: int | None) -> Iterator[None]:
    """Run on one core; processes started in the block inherit it."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# Servers


class Server:
    """A running contestant.

    Attributes:
        name: name of the contestant.
        address: HOST:PORT.
    """

    def __init__(self, contestant: Contestant, scratch: Path) -> None:
        self.name = contestant.name
        port = unused_port()
        self.address = f"127.0.0.1:{port}"
        self._log = scratch / f"{contestant.name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                contestant.command(scratch, port),
                cwd=SERVERS,
                env={**server_environment(scratch), **contestant.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """Id of the process that was started."""
        return self._process.pid

    def wait_until_up(self, patience: float = PATIENCE) -> None:
        """Wait until the server accepts connections, for so many seconds."""
        host, _, port = self.address.partition(":")
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection((host, int(port)), timeout=PATIENCE).close()
            except ConnectionRefusedError:
                time.sleep(0.05)
            else:
                return
        raise BenchError(f"{self.name} did not start:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines of the server's log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def cpu_ticks(self) -> dict[int, int]:
        """Return the CPU time of the server and its workers so far, by process."""
        return process_ticks(self._process.pid)

    def rest(self) -> dict[int, int]:
        """Wait until the server is idle; return its CPU times."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            before = self.cpu_ticks()
            time.sleep(0.15)
            after = self.cpu_ticks()
            if sum(after.values()) - sum(before.values()) <= 1:
                return after
        raise BenchError(f"{self.name} is still busy {PATIENCE:g} seconds after the load ended")

    def resident(self) -> int:
        """Return the resident memory of all processes of the server, in bytes."""
        found = 0
        for pid in self.cpu_ticks():
            status = Path(f"/proc/{pid}/status").read_text()
            match = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
            assert match is not None
            found += int(match[1]) * 1024
        return found

    def stop(self) -> None:
        """Stop the server; gunicorn's workers exit with their master."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def unused_port() -> int:
    """Return a port that no process listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def gunicorn(
    worker: str, application: str, *options: str, python: str = sys.executable
) -> Callable[[Path, int], list[str]]:
    """Return a function that makes the command line of an application under gunicorn."""

    def command(scratch: Path, port: int) -> list[str]:
        settings = scratch / "gunicorn.conf.py"
        settings.write_text(GUNICORN)
        arguments = ["-b", f"127.0.0.1:{port}", "-k", worker, "-c", str(settings), *options]
        return [python, "-m", "gunicorn", *arguments, application]

    return command


def compiled(source: Path) -> Callable[[Path, int], list[str]]:
    """Return a function that compiles a server in C and makes its command line."""

    def command(scratch: Path, port: int) -> list[str]:
        binary = scratch / source.stem
        compile_c(source, binary)
        return [str(binary), str(port)]

    return command


def compile_c(source: Path, binary: Path) -> None:
    """Compile one C file."""
    if shutil.which("gcc") is None:
        raise BenchError(f"gcc is missing, and {source.name} needs it: install it")
    command = ["gcc", "-O2", "-Wall", "-o", str(binary), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchError(f"{source.name} does not compile:\n{result.stderr}")


def server_environment(scratch: Path) -> dict[str, str]:
    """Return the environment of the servers: the caller's, without variables that affect them."""
    environment = dict(os.environ)
    for name in (
        "DJANGO_SETTINGS_MODULE",
        "GUNICORN_CMD_ARGS",
        "NODE_OPTIONS",
        "PYTHONDEVMODE",
        "PYTHONPATH",
        "PYTHONWARNINGS",
        "WEB_CONCURRENCY",
    ):
        environment.pop(name, None)
    # Use the package beside this directory, even if another version is installed.
    environment["PYTHONPATH"] = str(BENCH.parent)
    environment["BENCH_DATABASE"] = str(scratch / "db.sqlite3")
    return environment


def prepare(scratch: Path) -> str:
    """Create the database of the Django sites; return the header that carries a session."""
    made = subprocess.run(
        [sys.executable, "django_database.py"],
        cwd=SERVERS,
        env=server_environment(scratch),
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise BenchError(f"creating the database failed:\n{made.stderr}")
    return f"Cookie: sessionid={made.stdout.strip()}; csrftoken={'x' * 32}"


def process_ticks(parent: int) -> dict[int, int]:
    """Return user and system time, in clock ticks, of a process and its children."""
    ticks = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            stat = (directory / "stat").read_text()
        except OSError:  # the process has ended
            continue
        # See proc(5). The second field, the name, is in parentheses and may contain anything.
        fields = stat.rpartition(")")[2].split()
        pid, parent_of_it = int(directory.name), int(fields[1])
        if parent in (pid, parent_of_it):
            ticks[pid] = int(fields[11]) + int(fields[12])
    return ticks


@contextmanager
def running(
    contestant: Contestant, scratch: Path, core: int | None, patience: float = PATIENCE
) -> Iterator[Server]:
    """Run a contestant's server for the duration of the block."""
    with pinned_to(core):
        server = Server(contestant, scratch)
    try:
        server.wait_until_up(patience)
        yield server
    finally:
        server.stop()


def settled(read: Callable[[], int]) -> int:
    """Return a value once it has stopped changing, or after ten seconds."""
    value = read()
    for _ in range(50):
        time.sleep(0.2)
        before, value = value, read()
        if value == before:
            break
    return value


def leave_on_sigterm() -> None:
    """Turn SIGTERM into an exit, so that the servers are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


# The generator


def build_wsload() -> None:
    """Compile the load generator, unless the program is newer than its source."""
    source = WSLOAD.with_suffix(".c")
    if WSLOAD.exists() and WSLOAD.stat().st_mtime >= source.stat().st_mtime:
        return
    compile_c(source, WSLOAD)


def allow_many_files() -> None:
    """Raise the limit of open files to the maximum, for this process and its children."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@dataclass(frozen=True)
class Spent:
    """The cost of a load for the server.

    Attributes:
        seconds: CPU time, user and system, of all of its processes.
        busy: share of a core. If it is well below 1, the server was not the limit.
    """

    seconds: float
    busy: float


@dataclass(frozen=True)
class Generator:
    """The load generator, wsload, on its core.

    Attributes:
        cookie: the header that carries the session.
        core: core that it runs on.
    """

    cookie: str
    core: int | None

    def run(self, server: Server, mode: str, path: str, *options: object) -> dict[str, Any]:
        """Put load on a server; return the generator's report."""
        return self._finish(server, path, self._start(server, mode, path, *options))

    def measure(
        self, server: Server, mode: str, path: str, *options: object
    ) -> tuple[dict[str, Any], Spent]:
        """Put load on a server; return the report, and the server's cost while it was counting.

        Not for ``once``, which has no counting period.
        """
        server.rest()
        process = self._start(server, mode, path, "--marks", *options)
        assert process.stdout is not None
        marks: list[tuple[float, dict[int, int]]] = []
        said = ""
        # If nothing was counted there are no marks: the report with the error comes first.
        while len(marks) < 2 and (said := process.stdout.readline()).startswith('{"event"'):
            marks.append((time.monotonic(), server.cpu_ticks()))
            said = ""
        report = self._finish(server, path, process, said)
        (began, before), (ended, after) = marks
        if before.keys() != after.keys():
            raise BenchError(f"{server.name} lost a process during a round:\n{server.log_tail()}")
        seconds = (sum(after.values()) - sum(before.values())) / TICKS
        return report, Spent(seconds, seconds / (ended - began))

    def _start(
        self, server: Server, mode: str, path: str, *options: object
    ) -> subprocess.Popen[str]:
        with pinned_to(self.core):
            return subprocess.Popen(
                self._command(server, mode, path, *options),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

    def _finish(
        self, server: Server, path: str, process: subprocess.Popen[str], said: str = ""
    ) -> dict[str, Any]:
        output, errors = rest_of(process)
        try:
            report: dict[str, Any] = json.loads(said + output)
        except ValueError:
            raise BenchError(f"wsload ended with {process.returncode}: {errors}") from None
        if report["errors"]:
            reason = report.get("first_error", report["err"])
            raise BenchError(f"{server.name}, {path}: {reason}\n{server.log_tail()}")
        return report

    @contextmanager
    def holding(self, server: Server, path: str, count: int) -> Iterator[dict[str, Any]]:
        """Hold ``count`` sockets open; yield the generator's report once all are open."""
        process = self._start(server, "idle", path, "--conns", count, "--hold-stdin")
        assert process.stdout is not None
        try:
            report = json.loads(process.stdout.readline())
            if report["open"] != count:
                reason = report.get("first_error", report["err"])
                raise BenchError(
                    f"{report['open']:,} of {count:,} sockets opened: {reason}\n{server.log_tail()}"
                )
            yield report
        finally:
            rest_of(process)

    def _command(self, server: Server, mode: str, path: str, *options: object) -> list[str]:
        headers = [part for header in (self.cookie, *HEADERS) for part in ("--header", header)]
        origin = f"http://{server.address}"
        command = [str(WSLOAD), mode, "--path", path, "--origin", origin, *headers]
        return [*command, *map(str, options), server.address]


def rest_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return the remaining output of a generator; ``communicate()`` loses lines read ahead."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.close()
    output, errors = process.stdout.read(), process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    process.wait()
    return output, errors
