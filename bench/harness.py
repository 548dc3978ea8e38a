"""What a benchmark needs: servers, the load generator, cores and CPU time.

Only what was started here is ever stopped. Linux only: the load generator is built on epoll, and
CPU time comes from /proc.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "BENCH",
    "TICKS",
    "WSLOAD",
    "BenchError",
    "Contestant",
    "Load",
    "Sample",
    "Server",
    "build_wsload",
    "compiled",
    "gunicorn",
    "measure",
    "pick_cores",
    "pinned_to",
    "process_ticks",
    "run_wsload",
    "running",
    "server_environment",
]

BENCH = Path(__file__).resolve().parent
WSLOAD = BENCH / "wsload"

#: Seconds of load before the measurement begins.
WARMUP = 1.0
#: Seconds that a server has to come up, to come to rest after a round, and to leave.
PATIENCE = 30.0
#: Seconds that wsload waits, at the end, for the echoes under way.
DRAIN = 3.0

TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The benchmark cannot go on; the text says why."""


@dataclass(frozen=True)
class Contestant:
    """A server to measure.

    Attributes:
        name: what the report calls it.
        command: makes its command line, and in the directory given whatever that needs. The
            server chooses a free port of 127.0.0.1 and says ``Listening at: http://HOST:PORT``.
        directory: where it is started.
    """

    name: str
    command: Callable[[Path], list[str]]
    directory: Path


@dataclass(frozen=True)
class Load:
    """What the generator does in one round."""

    size: int
    conns: int
    duration: float
    binary: bool


@dataclass(frozen=True)
class Sample:
    """What one round showed.

    Attributes:
        messages_per_s: messages echoed in a second.
        cpu_us: CPU time of the server for each, in microseconds.
        server_busy: share of a core that the server used. Well below 1 it was not the limit.
        generator_busy: the same of the generator. Near 1 it was the limit.
    """

    messages_per_s: float
    cpu_us: float
    server_busy: float
    generator_busy: float


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
    """A contestant that runs."""

    def __init__(self, contestant: Contestant, scratch: Path) -> None:
        self.name = contestant.name
        self._log = scratch / f"{contestant.name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                contestant.command(scratch),
                cwd=contestant.directory,
                env=server_environment(scratch),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    def address(self) -> str:
        """Wait until the server listens; return HOST:PORT."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            if match := re.search(r"Listening at: http://(\S+)", self._log.read_text()):
                return match[1]
            time.sleep(0.05)
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
            time.sleep(0.25)
            after = self.cpu_ticks()
            if sum(after.values()) - sum(before.values()) <= 1:
                return after
        raise BenchError(
            f"{self.name} is still busy {PATIENCE:g} seconds after the load ended: "
            f"use fewer --conns"
        )

    def stop(self) -> None:
        """End the server; gunicorn's workers leave when their master is gone."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def gunicorn(worker: str, application: str) -> Callable[[Path], list[str]]:
    """Return what makes the command line of an application under gunicorn."""

    def command(scratch: Path) -> list[str]:
        # In a file, where a gunicorn too old to have a control socket overlooks the setting.
        settings = scratch / "gunicorn.conf.py"
        settings.write_text("control_socket_disable = True\nworker_connections = 10000\n")
        arguments = f"-m gunicorn -b 127.0.0.1:0 -k {worker} {application}"
        return [sys.executable, *arguments.split(), "-c", str(settings)]

    return command


def compiled(source: Path) -> Callable[[Path], list[str]]:
    """Return what compiles a server of one C file and makes its command line."""

    def command(scratch: Path) -> list[str]:
        binary = scratch / source.stem
        compile_c(source, binary)
        return [str(binary)]

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
    for name in ("GUNICORN_CMD_ARGS", "DJANGO_SETTINGS_MODULE", "PYTHONDEVMODE"):
        environment.pop(name, None)
    # The package beside this directory, whatever is installed.
    paths = [str(BENCH.parent), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    environment["SAMPLE_SITE_DEBUG"] = "0"
    environment["SAMPLE_SITE_DATABASE"] = str(scratch / "db.sqlite3")
    return environment


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
        yield server
    finally:
        server.stop()


# The generator


def build_wsload() -> None:
    """Compile the load generator unless there is one newer than its source."""
    source = WSLOAD.with_suffix(".c")
    if WSLOAD.exists() and WSLOAD.stat().st_mtime >= source.stat().st_mtime:
        return
    compile_c(source, WSLOAD)


def wsload_command(address: str, load: Load, warmup: float) -> list[str]:
    """Return the command line of one round; every echo is compared with what was sent."""
    options = {
        "--path": "/echo/",
        "--conns": load.conns,
        "--size": load.size,
        "--duration": load.duration,
        "--warmup": warmup,
    }
    command = [str(WSLOAD), "echo", "--check", *(["--binary"] if load.binary else [])]
    for name, value in options.items():
        command += [name, str(value)]
    return [*command, address]


def run_wsload(server: Server, load: Load, warmup: float, core: int | None) -> dict[str, Any]:
    """Put load on a server; return what the generator reports."""
    command = wsload_command(server.address(), load, warmup)
    with pinned_to(core):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report: dict[str, Any] = json.loads(result.stdout)
    except ValueError:
        raise BenchError(f"wsload ended with {result.returncode}: {result.stderr}") from None
    if report["errors"] or report["open"] != load.conns:
        reason = report.get("first_error", "not every connection opened")
        raise BenchError(f"{server.name}, {load.size} B: {reason}\n{server.log_tail()}")
    return report


def measure(server: Server, load: Load, core: int | None) -> Sample:
    """Measure one round.

    CPU time is that of the whole round, so opening and closing the connections is in it, and so
    are the messages of the warm-up, which are counted with the others.
    """
    before = server.rest()
    report = run_wsload(server, load, WARMUP, core)
    after = server.rest()
    if before.keys() != after.keys():
        raise BenchError(f"{server.name} lost a process during a round:\n{server.log_tail()}")
    rate = report["msgs_per_s"]
    if rate * DRAIN < load.conns:
        raise BenchError(
            f"{server.name} answers {rate:g} messages/s of {load.size} B, too few for "
            f"{load.conns} connections to end in order: use fewer --conns"
        )
    seconds = (sum(after.values()) - sum(before.values())) / TICKS
    cpu = seconds / report["total_msgs"]
    return Sample(rate, cpu * 1e6, rate * cpu, report["gen_cpu"])
