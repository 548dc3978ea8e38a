"""Count the user-space instructions of a server: it runs under valgrind's callgrind.

Times vary with the machine and its neighbours; the number of instructions that a process executes
hardly does. Work of the kernel is not included. valgrind emulates a fixed set of features, so that
the C library selects the same functions on every processor.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness import ROOT, BenchError, Contestant, Server, running
from loads import Client, Load, Run

__all__ = ["Callgrind", "counting", "per_unit", "problem"]

#: Seconds that a server under valgrind may take to start, or to answer: it is fifty times slower,
#: and other processes may use the machine.
PATIENCE = 300.0

#: Seconds to count what an idle server does.
IDLE_SECONDS = 4

#: How often a server must be found asleep before it counts as idle.
LOOKS = 5

#: Without the garbage collector, which also counts objects of before.
NO_COLLECTOR = "import gc\n\ngc.disable()\n"


def problem() -> str | None:
    """Return what is missing to count instructions, or None."""
    missing = [name for name in ("valgrind", "vgdb") if shutil.which(name) is None]
    return f"{' and '.join(missing)} missing: install valgrind" if missing else None


class Callgrind:
    """A server under valgrind.

    Args:
        server: the server.
        directory: where valgrind writes.
        headers: headers of each request.
    """

    def __init__(self, server: Server, directory: Path, headers: Sequence[str]) -> None:
        self._server = server
        self._directory = directory
        self._client = Client(server.address, headers, PATIENCE, self._rest)
        self._idle: float | None = None

    def measure(self, load: Load) -> int:
        """Return the instructions for one unit of a load.

        The load runs for a few times and for many. The difference does not contain what does
        not depend on their number. What the server does every second anyway is subtracted: under
        valgrind, on a busy machine, there are many seconds for a page.

        Raises:
            BenchError: the server or valgrind failed.
        """
        try:
            with load.connected(self._client) as run:
                run(load.warm)
                self._rest()
                self._command("instrumentation", "on")
                self._count(run, 1)
                if self._idle is None:
                    self._idle = self._count(time.sleep, IDLE_SECONDS) / IDLE_SECONDS
                few, many = self._beyond_idle(run, load.few), self._beyond_idle(run, load.many)
                self._command("instrumentation", "off")
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise BenchError(f"{self._server.name}: {error}\n{self._server.log_tail()}") from error
        return round(per_unit(few, load.few, many, load.many) / load.units)

    def _beyond_idle(self, run: Run, times: int) -> float:
        """Return the instructions for running a load, without those of an idle server."""
        assert self._idle is not None
        began = time.monotonic()
        counted = self._count(run, times)
        return counted - self._idle * (time.monotonic() - began)

    def _count(self, run: Run, times: int) -> int:
        """Return the instructions for running a load."""
        self._dump()
        run(times)
        self._rest()
        return self._dump()

    def _dump(self) -> int:
        """Return the instructions since the last call."""
        for old in self._dumps():
            old.unlink()
        self._command("dump")
        found = [re.search(r"^totals: (\d+)", each.read_text(), re.M) for each in self._dumps()]
        return sum(int(match[1]) for match in found if match is not None)

    def _dumps(self) -> list[Path]:
        return list(self._directory.glob(f"callgrind.{self._pid}.*"))

    def _command(self, *words: str) -> None:
        command = ["vgdb", f"--vgdb-prefix={self._directory}/vgdb", f"--pid={self._pid}", *words]
        subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)

    @property
    def _pid(self) -> int:
        """The process that serves: gunicorn's worker, or the only one."""
        ticks = self._server.cpu_ticks()
        workers = ticks.keys() - {self._server.pid}
        return max(workers or ticks, key=lambda pid: ticks[pid])

    def _rest(self) -> None:
        """Wait until the server waits: all threads sleep each time that one looks."""
        deadline = time.monotonic() + PATIENCE
        looks = 0
        while looks < LOOKS:
            if time.monotonic() > deadline:
                raise BenchError(f"{self._server.name} is still busy after {PATIENCE:g} seconds")
            time.sleep(0.01)
            looks = looks + 1 if is_asleep(self._pid) else 0


def is_asleep(pid: int) -> bool:
    """Return whether all threads of a process wait."""
    stats = [path.read_text() for path in Path("/proc", str(pid), "task").glob("*/stat")]
    # See proc(5): the state follows the name, which is in parentheses and may contain anything.
    return all(stat.rpartition(")")[2].split()[0] == "S" for stat in stats)


def per_unit(few: float, times_few: int, many: float, times_many: int) -> float:
    """Return the instructions for one time, from the instructions for a few times and for many."""
    return (many - few) / (times_many - times_few)


@contextmanager
def counting(contestant: Contestant, scratch: Path, headers: Sequence[str]) -> Iterator[Callgrind]:
    """Run a server under valgrind for the duration of the block; counts nothing yet."""
    directory = scratch / f"callgrind-{contestant.name}"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(NO_COLLECTOR)
    valgrind = (
        *("valgrind", "--tool=callgrind", "--trace-children=yes", "--instr-atstart=no"),
        f"--callgrind-out-file={directory}/callgrind.%p",
        f"--vgdb-prefix={directory}/vgdb",
        f"--log-file={directory}/valgrind.%p.log",
    )
    own = contestant.environment
    slow = replace(
        contestant,
        command=lambda scratch, port: [*valgrind, *contestant.command(scratch, port)],
        environment={
            **own,
            # The parser in C has instructions that valgrind 3.19 does not know.
            "BENCH_HTTP_PARSER": "python",
            "GUNICORN_CMD_ARGS": f"--timeout {PATIENCE:g}",
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": f"{directory}:{own.get('PYTHONPATH', ROOT)}",
        },
    )
    with running(slow, scratch, None, PATIENCE) as server:
        yield Callgrind(server, directory, headers)
