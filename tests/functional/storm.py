"""A storm: all clients return at once, after missing 50 messages each.

Prints the number of readings of the store and the CPU time of the workers, and for comparison the
CPU time of as many handshakes to groups without a history. Exits with 1 if a process read a group
twice: ``python -m tests.functional.storm --clients 2000``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from ..support import TIMEOUT, Server
from .crowd import Client, Crowd, Rules
from .model import post, say, serving

__all__ = ["main"]

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu(server: Server) -> float:
    """Return the CPU time of the workers in seconds."""
    ticks = 0
    for pid in server.workers:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def gather(crowd: Crowd, expected: int) -> None:
    """Wait until all clients have a welcome, and this many messages in total."""
    deadline = time.monotonic() + 4 * TIMEOUT
    while crowd.counts["messages"] < expected or not all(each.signed for each in crowd.clients):
        crowd.step()
        assert time.monotonic() < deadline, f"{crowd.counts}"


def storm(server: Server, options: argparse.Namespace, kind: str) -> float:
    """Let clients connect, miss messages and return; return the CPU time of the return."""
    groups = [f"{kind}.{number}" for number in range(options.groups)]
    crowd = Crowd(server.port, Rules(0))
    has_history = kind == "model"
    for group in groups:
        if has_history:
            say(server, group, "first")
    for number in range(options.clients):
        crowd.add(Client(crowd, groups[number % len(groups)]))
    gather(crowd, 0)
    for client in crowd.clients:
        client.drop("cut")
        client.signed = ""
    for group in groups:
        texts = [f"{group} {number}".ljust(200, ".") for number in range(options.missed)]
        for begin in range(0, len(texts) if has_history else 0, 50):
            wanted = [{"group": group, "text": text} for text in texts[begin : begin + 50]]
            assert post(server.port, "/kept/send/", wanted)
    print(f"storm of {kind}", flush=True)
    before, log = cpu(server), len(server.log)
    gather(crowd, options.clients * options.missed if has_history else 0)
    seconds = cpu(server) - before
    if has_history:
        reads = Counter(line for line in server.log[log:].splitlines() if line[:7] == "reading")
        print(f"{sum(reads.values())} readings by {len(server.workers)} processes")
        for line, count in reads.items():
            if count > len(server.workers):
                crowd.wrong(f"{line}: {count} times")
    crowd.close()
    for problem in crowd.problems:
        print(f"WRONG: {problem}")
    assert not crowd.problems
    return seconds


def main(arguments: list[str]) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--groups", type=int, default=20)
    parser.add_argument("--missed", type=int, default=50, help="messages")
    options = parser.parse_args(arguments)
    history = {"model.*": {"messages": 200, "seconds": 600}}
    with (
        tempfile.TemporaryDirectory(prefix="storm-") as directory,
        serving("local", Path(directory), tells_reads=True, WEBSOCKET_HISTORY=history) as (
            server,
            _,
        ),
    ):
        without = storm(server, options, "plain")
        seconds = storm(server, options, "model")
    print(f"{seconds:.2f} s of CPU, {without:.2f} s without a history")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
