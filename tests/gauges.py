"""Measures memory, and a server under test: descriptors, open sockets."""

from __future__ import annotations

import gc
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support import TIMEOUT, Server

__all__ = [
    "MIB",
    "Gauges",
    "allocated",
    "descriptors",
    "growth",
    "open_sockets",
    "peak",
    "reported",
    "resident",
    "settled",
    "unharmed",
    "wait_until",
    "worker_of",
]

MIB = 2**20


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll until the condition is true, where nothing can be awaited."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for: {what}"
        time.sleep(0.01)


# Sockets


def open_sockets(server: Server) -> int:
    """Return how many WebSockets the server has open. The server must have one worker."""
    return int(json.loads(server.get("/report/none/"))["open"])


def settled(server: Server) -> None:
    """Wait until no WebSocket is open and no view runs."""

    def is_settled() -> bool:
        state = json.loads(server.get("/report/none/"))
        return bool(state["open"] == state["running_views"] == state["inside"] == 0)

    wait_until(is_settled, "no socket open and no view running")


def reported(server: Server, key: str) -> str:
    """Return what a view reported under this key; wait until it has."""
    found: list[str] = []

    def has_reported() -> bool:
        report = json.loads(server.get(f"/report/{key}/"))["report"]
        found.extend([] if report is None else [str(report)])
        return bool(found)

    wait_until(has_reported, f"a report under {key}")
    return found[0]


# Processes


def allocated(work: Callable[[], object], *, rounds: int = 3) -> int:
    """Return how many bytes Python has allocated for the result of ``work()``, and what it leaks.

    Other threads and caches allocate memory as well, but not in every round: this is the smallest
    of several.

    Args:
        work: a function; its result is kept until the memory has been measured.
        rounds: how often to call it.
    """

    def measure() -> int:
        gc.collect()
        tracemalloc.start()
        try:
            kept = work()
            gc.collect()
            size = tracemalloc.get_traced_memory()[0]
            del kept
            return size
        finally:
            tracemalloc.stop()

    return min(measure() for _ in range(rounds))


def resident(pid: int) -> int:
    """Return how many bytes of memory a process has now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak(pid: int) -> int:
    """Return the maximum bytes of memory since ``forget_peak()``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def forget_peak(pid: int) -> None:
    """Reset the peak."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def worker_of(server: Server, port: int) -> int:
    """Return the worker that serves a connection; ``port`` is the client's."""
    suffixes = f":{server.port:04X}", f":{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines():
        fields = line.split()
        if fields[1].endswith(suffixes[0]) and fields[2].endswith(suffixes[1]):
            link = f"socket:[{fields[9]}]"
            for pid in server.workers:
                for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                    with suppress(FileNotFoundError):
                        if str(descriptor.readlink()) == link:
                            return pid
    raise AssertionError(f"no worker serves the connection from port {port}")


class Gauges:
    """How a worker's memory changes within ``growth()``, in bytes.

    Args:
        server: a server with one worker.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pid = int(server.get("/collect/"))
        self._before = resident(self._pid)
        forget_peak(self._pid)

    @property
    def peak(self) -> int:
        """The maximum growth so far."""
        return peak(self._pid) - self._before

    def kept(self) -> int:
        """Return the growth that remains after garbage collection."""
        assert int(self._server.get("/collect/")) == self._pid
        return resident(self._pid) - self._before


@contextmanager
def growth(server: Server, *, kept: int = 20 * MIB) -> Iterator[Gauges]:
    """Measure memory; assert that fewer than ``kept`` bytes remain in use after the block."""
    settled(server)
    gauges = Gauges(server)
    yield gauges
    settled(server)
    assert gauges.kept() < kept, f"{gauges.kept() / MIB:.1f} MiB more than before"


def echo(server: Server) -> None:
    """Assert that a socket opens and is answered."""
    with server.connect("/echo/") as websocket:
        websocket.send("alive")
        assert websocket.recv(timeout=TIMEOUT) == "alive"


@contextmanager
def unharmed(server: Server) -> Iterator[None]:
    """Assert that the block leaves the server's one worker as it was.

    The process is the same, no socket or descriptor is left, nothing was raised, and an echo works.
    Lines that a server logs about connections that never became WebSockets do not count: pywsgi
    writes a traceback for each connection that is reset within its request.
    """
    # The first socket of a process opens descriptors that all of them share.
    echo(server)
    settled(server)
    (pid,) = server.workers
    before = descriptors(pid)
    logged = len(server.log)
    yield
    settled(server)
    echo(server)
    # The database file of a request may be open or not.
    wait_until(lambda: descriptors(pid) <= before + 2, f"at most {before} + 2 descriptors")
    assert server.workers == [pid]
    log = server.log[logged:]
    assert "django_wsmux" not in log, log[-3000:]
