"""What a benchmark needs: servers, the load generator, cores, CPU time and memory.

Only what was started here is ever stopped. Linux only: the load generator is built on epoll, and
CPU time comes from /proc.
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

# Redis and PostgreSQL come from the tests.
sys.path.insert(0, str(ROOT))

#: Seconds that a server has to come up, to come to rest after a round, and to leave.
PATIENCE = 30.0

TICKS = os.sysconf("SC_CLK_TCK")

#: What a browser sends besides; a server that keeps the request keeps them.
HEADERS = ("User-Agent: Mozilla/5.0 (X11; Linux x86_64)", "Accept-Language: en-US,en;q=0.5")


class BenchError(Exception):
    """The benchmark cannot go on; the text says why."""


@dataclass(frozen=True)
class Contestant:
    """A server to measure.

    Attributes:
        name: of its log.
        command: makes its command line from a directory, for whatever that needs, and the port
            of 127.0.0.1 where it is to listen.
        environment: variables that it gets besides.
    """

    name: str
    command: Callable[[Path, int], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)


# Cores


def pick_cores() -> tuple[int | None, int | None]:
    """Choose a core for the servers and one for the generator; none where there is no choice."""
    if not hasattr(os, "sched_setaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


@contextmanager
def pinned_to(core: int | None) -> Iterator[None]:
    """Run on one core, and let the processes started meanwhile inherit that."""
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
    """A contestant that runs.

    Attributes:
        name: the contestant's.
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
        """The process that was started."""
        return self._process.pid

    def wait_until_up(self) -> None:
        """Wait until the server listens."""
        host, _, port = self.address.partition(":")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection((host, int(port)), timeout=PATIENCE).close()
            except ConnectionRefusedError:
                time.sleep(0.05)
            else:
                return
        raise BenchError(f"{self.name} does not come up:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines that the server wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def cpu_ticks(self) -> dict[int, int]:
        """Return the CPU time so far of the server and its worker processes, by process."""
        return process_ticks(self._process.pid)

    def rest(self) -> dict[int, int]:
        """Wait until the server has nothing more to do; return its CPU times."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            before = self.cpu_ticks()
            time.sleep(0.15)
            after = self.cpu_ticks()
            if sum(after.values()) - sum(before.values()) <= 1:
                return after
        raise BenchError(f"{self.name} is still busy {PATIENCE:g} seconds after the load ended")

    def resident(self) -> int:
        """Return the resident memory of all of its processes in bytes."""
        found = 0
        for pid in self.cpu_ticks():
            status = Path(f"/proc/{pid}/status").read_text()
            match = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
            assert match is not None
            found += int(match[1]) * 1024
        return found

    def stop(self) -> None:
        """End the server; gunicorn's workers leave when their master is gone."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def unused_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def gunicorn(
    worker: str, application: str, *options: str, python: str = sys.executable
) -> Callable[[Path, int], list[str]]:
    """Return what makes the command line of an application under gunicorn."""

    def command(scratch: Path, port: int) -> list[str]:
        # In a file, where a gunicorn too old to have a control socket overlooks the setting.
        settings = scratch / "gunicorn.conf.py"
        settings.write_text("control_socket_disable = True\nworker_connections = 12000\n")
        arguments = ["-b", f"127.0.0.1:{port}", "-k", worker, "-c", str(settings), *options]
        return [python, "-m", "gunicorn", *arguments, application]

    return command


def compiled(source: Path) -> Callable[[Path, int], list[str]]:
    """Return what compiles a server of one C file and makes its command line."""

    def command(scratch: Path, port: int) -> list[str]:
        binary = scratch / source.stem
        compile_c(source, binary)
        return [str(binary), str(port)]

    return command


def compile_c(source: Path, binary: Path) -> None:
    """Compile one C file."""
    if shutil.which("gcc") is None:
        raise BenchError(f"gcc is missing, which compiles {source.name}: install it")
    command = ["gcc", "-O2", "-Wall", "-o", str(binary), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchError(f"{source.name} does not compile:\n{result.stderr}")


def server_environment(scratch: Path) -> dict[str, str]:
    """Return the environment of the servers: the caller's, less what would change them."""
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
    # The package beside this directory, whatever is installed.
    environment["PYTHONPATH"] = str(BENCH.parent)
    environment["BENCH_DATABASE"] = str(scratch / "db.sqlite3")
    return environment


def prepare(scratch: Path) -> str:
    """Make the database of the Django sites; return the header that carries a session."""
    made = subprocess.run(
        [sys.executable, "django_database.py"],
        cwd=SERVERS,
        env=server_environment(scratch),
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise BenchError(f"the database cannot be made:\n{made.stderr}")
    return f"Cookie: sessionid={made.stdout.strip()}; csrftoken={'x' * 32}"


def process_ticks(parent: int) -> dict[int, int]:
    """Return user and system time, in clock ticks, of a process and of its children."""
    ticks = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            stat = (directory / "stat").read_text()
        except OSError:  # it has ended meanwhile
            continue
        # proc(5); the second field, the name, is in parentheses and may hold anything.
        fields = stat.rpartition(")")[2].split()
        pid, parent_of_it = int(directory.name), int(fields[1])
        if parent in (pid, parent_of_it):
            ticks[pid] = int(fields[11]) + int(fields[12])
    return ticks


@contextmanager
def running(contestant: Contestant, scratch: Path, core: int | None) -> Iterator[Server]:
    """Serve a contestant for the length of the block."""
    with pinned_to(core):
        server = Server(contestant, scratch)
    try:
        server.wait_until_up()
        yield server
    finally:
        server.stop()


def settled(read: Callable[[], int]) -> int:
    """Return a value once it has stopped changing."""
    value = read()
    for _ in range(50):
        time.sleep(0.2)
        before, value = value, read()
        if value == before:
            break
    return value


def leave_on_sigterm() -> None:
    """Make SIGTERM an exit, so that the servers are stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


# The generator


def build_wsload() -> None:
    """Compile the load generator unless there is one newer than its source."""
    source = WSLOAD.with_suffix(".c")
    if WSLOAD.exists() and WSLOAD.stat().st_mtime >= source.stat().st_mtime:
        return
    compile_c(source, WSLOAD)


def allow_many_files() -> None:
    """Let this process and its children open as many files as the machine lets them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@dataclass(frozen=True)
class Spent:
    """What a load cost the server.

    Attributes:
        seconds: of CPU time, user and system, of all of its processes.
        busy: share of a core. Well below 1 the server was not the limit.
    """

    seconds: float
    busy: float


@dataclass(frozen=True)
class Generator:
    """wsload on its core.

    Attributes:
        cookie: the header that carries the session.
        core: where it runs.
    """

    cookie: str
    core: int | None

    def run(self, server: Server, mode: str, path: str, *options: object) -> dict[str, Any]:
        """Put load on a server; return what the generator reports."""
        return self._finish(server, path, self._start(server, mode, path, *options))

    def measure(
        self, server: Server, mode: str, path: str, *options: object
    ) -> tuple[dict[str, Any], Spent]:
        """Do the same, and tell what CPU time the server needed while the report counted.

        Not for ``once``, which has no time that counts.
        """
        server.rest()
        process = self._start(server, mode, path, "--marks", *options)
        assert process.stdout is not None
        marks: list[tuple[float, dict[int, int]]] = []
        said = ""
        # Without marks, when nothing came to be counted, it says what was wrong at once.
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
        """Hold so many sockets open; gives what the generator reports when all are."""
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
    """Return what a generator has still to say; ``communicate()`` forgets lines read ahead."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.close()
    output, errors = process.stdout.read(), process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    process.wait()
    return output, errors
