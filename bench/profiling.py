"""Profile a server under load with py-spy, and summarize the result.

A profile is kept as text: the functions with the most time of their own.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import BenchError, Server

__all__ = ["Profiler"]

#: Number of lines in a profile.
LINES = 40
#: Samples per second.
RATE = 500


class Profiler:
    """Profiles the busiest process of a server during each load.

    Args:
        directory: directory for the profiles, one file for each measure.
    """

    def __init__(self, directory: Path) -> None:
        self._program = Path(sys.executable).parent / "py-spy"
        if not self._program.exists():
            found = shutil.which("py-spy")
            if found is None:
                raise BenchError("py-spy is missing: pip install -e .[bench]")
            self._program = Path(found)
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._samples: dict[str, Counter[tuple[str, ...]]] = {}

    @contextmanager
    def __call__(self, server: Server, measure: str) -> Iterator[None]:
        """Sample the server for the duration of the block."""
        ticks = server.cpu_ticks()
        # Sample a worker if there are any: the master of gunicorn does nothing.
        pids = sorted(ticks.keys() - {server.pid}) or [server.pid]
        with tempfile.NamedTemporaryFile(mode="r", prefix="profile-") as raw:
            process = subprocess.Popen(
                [
                    *(str(self._program), "record", "--nonblocking", "--format", "raw"),
                    *("--rate", str(RATE), "--duration", "3600", "--output", raw.name),
                    *("--pid", str(pids[-1])),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                yield
            finally:
                process.send_signal(signal.SIGINT)
                _, error = process.communicate()
            stacks = raw.read().splitlines()
            if process.returncode:
                raise BenchError(f"py-spy ended with {process.returncode}: {error}")
        samples = self._samples.setdefault(measure, Counter())
        for line in stacks:
            stack, _, count = line.rpartition(" ")
            samples[tuple(stack.split(";"))] += int(count)
        (self._directory / f"{measure}.txt").write_text(summary(measure, samples))


def summary(measure: str, samples: Counter[tuple[str, ...]]) -> str:
    """Return the functions with the most time of their own, and their total time."""
    everything = samples.total()
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for stack, count in samples.items():
        frames = [without_line(frame) for frame in stack]
        own[frames[-1]] += count
        total.update(dict.fromkeys(frames, count))
    lines = [
        f"{measure}: {everything:,} samples of the busy worker, {RATE} a second",
        "",
        "   own   total  function",
    ]
    for frame, count in own.most_common(LINES - len(lines)):
        lines.append(f"{count / everything:6.1%}  {total[frame] / everything:6.1%}  {frame}")
    return "\n".join(lines) + "\n"


def without_line(frame: str) -> str:
    """Return a frame as ``function (file)``."""
    if not frame:  # the worker continued while it was sampled
        return "(not known)"
    name, _, place = frame.rpartition(":")
    return f"{name})" if place.rstrip(")").isdecimal() else frame
