"""What a server under test holds: memory, descriptors, open sockets."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support import TIMEOUT, Server

__all__ = [
    "MIB",
    "Gauges",
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
    """Ask until it is so, for what gives no sign when it happens."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.01)


# Sockets


def open_sockets(server: Server) -> int:
    """Return how many WebSockets the server has open; for a server with one worker."""
    return int(json.loads(server.get("/report/none/"))["open"])


def settled(server: Server) -> None:
    """Wait until no WebSocket is open and no view runs."""

    def is_settled() -> bool:
        state = json.loads(server.get("/report/none/"))
        return bool(state["open"] == state["conversations"] == state["inside"] == 0)

    wait_until(is_settled, "no socket open and no view running")


def reported(server: Server, key: str) -> str:
    """Return what a view left behind under this key, when it has."""
    found: list[str] = []

    def has_reported() -> bool:
        report = json.loads(server.get(f"/report/{key}/"))["report"]
        found.extend([] if report is None else [str(report)])
        return bool(found)

    wait_until(has_reported, f"a report under {key}")
    return found[0]


# Processes


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak(pid: int) -> int:
    """Return the bytes that it had at most since ``forget_peak()``."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def forget_peak(pid: int) -> None:
    """Begin to measure the peak anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def worker_of(server: Server, port: int) -> int:
    """Return the worker that has taken a connection; ``port`` is the client's."""
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
    raise AssertionError(f"no worker has the connection from port {port}")


class Gauges:
    """How a worker's memory changes within ``growth()``, in bytes.

    Args:
        server: has one worker.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pid = int(server.get("/collect/"))
        self._before = resident(self._pid)
        forget_peak(self._pid)

    @property
    def peak(self) -> int:
        """By how much it has grown at most so far."""
        return peak(self._pid) - self._before

    def kept(self) -> int:
        """By how much it has grown in the end, when all that is garbage is collected."""
        assert int(self._server.get("/collect/")) == self._pid
        return resident(self._pid) - self._before


@contextmanager
def growth(server: Server, *, kept: int = 20 * MIB) -> Iterator[Gauges]:
    """Measure memory; when the block is over all but ``kept`` bytes of it must come back."""
    settled(server)
    gauges = Gauges(server)
    yield gauges
    settled(server)
    assert gauges.kept() < kept, f"{gauges.kept() / MIB:.1f} MiB more than before"


@contextmanager
def unharmed(server: Server) -> Iterator[None]:
    """Hold that the block leaves the server's one worker as it was.

    The same process, no socket and no descriptor more, nothing raised, and an echo works. What
    the servers log of connections that never became ours is theirs: pywsgi writes a traceback for
    each that is reset within its request.
    """

    def assert_alive() -> None:
        with server.connect("/echo/") as websocket:
            websocket.send("alive")
            assert websocket.recv(timeout=TIMEOUT) == "alive"

    # The first socket opens what stays open for all of them: the backend of groups, for one.
    assert_alive()
    settled(server)
    (pid,) = server.workers
    before = descriptors(pid)
    logged = len(server.log)
    yield
    settled(server)
    assert_alive()
    # The database file of a request may be open or not.
    wait_until(lambda: descriptors(pid) <= before + 2, f"at most {before} + 2 descriptors")
    assert server.workers == [pid]
    log = server.log[logged:]
    assert "django_wsmux" not in log, log[-3000:]
