"""Handovers in which a process is killed or stopped at a random moment.

Processes with plain sockets hand them over while their peers talk. Each message must be answered
once, by one process, or the socket be closed, and no descriptor may be left. Exits with 1
otherwise: ``python -m tests.functional.interrupted --rounds 200``.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..gauges import wait_until
from ..server.movers import Client, Process, Said, running

__all__ = ["interrupt", "main"]

#: Sockets of a round: several batches.
_SOCKETS = 150

#: Seconds in which a handover of them ends, roughly.
_LONGEST = 0.2


def interrupt(directory: Path, chooser: random.Random) -> Counter[str]:
    """Run a handover that is interrupted; return how many sockets were served and closed."""
    clients = [Client() for _ in range(_SOCKETS)]
    with running(directory, clients, takers=2) as (giver, takers):
        everyone = [giver, *takers]
        idle = {each.pid: files(each) for each in everyone}
        giver.ask("patience", 0.5)
        victim = chooser.choice([giver, giver, *takers])
        giver.tell("give", 60)
        for client in clients:
            client.tell()
        time.sleep(chooser.uniform(0, _LONGEST))
        how = chooser.choice(["killed", "stopped", "stopped and killed"])
        if how == "killed":
            victim.process.kill()
        else:
            victim.process.send_signal(signal.SIGSTOP)
            time.sleep(chooser.uniform(0, 2.0))
        if how == "stopped":
            victim.go_on()
        elif how == "stopped and killed":
            # As gunicorn does, when a worker gives no sign of life.
            victim.process.kill()
        living = [each for each in everyone if each is not victim or how == "stopped"]
        if giver in living:
            giver.hear()
        outcome = Counter(map(end_of, clients))
        for each in living:
            wait_until(lambda each=each: files(each) == idle[each.pid], "no descriptor is left")  # type: ignore[misc]
    outcome[f"{'giver' if victim is giver else 'taker'} {how}"] += 1
    return outcome


def files(process: Process) -> int:
    """Return how many descriptors a process has open besides its sockets."""
    report = process.ask("report")
    return int(report["fds"]) - int(report["open"])


def end_of(client: Client) -> str:
    """Return what has become of a socket to which one message was sent."""
    for _ in range(3):
        client.tell()
    for number in range(1, 5):
        said = client.hear()
        if said is None:
            return "closed"
        assert isinstance(said, Said), said
        assert (said.number, said.text) == (number, str(number)), "lost, or answered twice"
    client.sock.setblocking(False)
    try:
        more = client.sock.recv(1)
    except BlockingIOError:
        return "served"
    assert not more, "answered twice"
    return "closed"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run rounds, and print what has happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(arguments)
    seed = random.randrange(2**32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    chooser = random.Random(seed)
    total: Counter[str] = Counter()
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as directory:
            total += interrupt(Path(directory), chooser)
        if sys.stdout.isatty() or number % 20 == 19:
            print(number + 1, dict(total), flush=True)
    print(dict(total))


if __name__ == "__main__":
    main()
