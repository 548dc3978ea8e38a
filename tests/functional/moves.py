"""Moves open sockets many times, with and without faults: ``python -m tests.functional.moves``.

Clients talk all the time while gunicorn reloads. With ``--faults`` processes are killed or stopped
at random moments of a reload. Checked are: each message is answered at most once, and by one
process; each socket answers or is closed; the processes hold no more descriptors than sockets need;
the directory of the offers has no more files than there are workers. Exits with 1 if not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from ..moved import SETTINGS
from ..support import ROOT, Server, Wire, frame

#: Seconds that a client waits for an answer or the close: longer than gunicorn's ``timeout``.
PATIENCE = 60.0

#: Seconds after which gunicorn kills a worker that does not answer.
GUNICORN_TIMEOUT = 5

#: Seconds that gunicorn gives old workers.
GRACE = 100


class Talker(threading.Thread):
    """A client that sends one message after the other, and reconnects when it is closed.

    Attributes:
        answers: messages answered.
        closes: how often a socket was closed, by code.
        problems: what went wrong.
    """

    def __init__(self, server: Server, name: str, pause: float) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._name = name
        self._pause = pause
        self.is_over = False
        self.answers = 0
        self.closes: Counter[int] = Counter()
        self.problems: list[str] = []

    def run(self) -> None:
        """Talk until it is over."""
        while not self.is_over:
            try:
                with self._server.upgraded(f"/board/{self._name}/1/") as wire:
                    self._talk(wire)
            except (OSError, EOFError, ValueError, AssertionError) as error:
                if "timed out" in str(error):
                    self.problems.append(f"{self._name}: no answer in {PATIENCE} s")
                time.sleep(0.1)  # the server is being replaced

    def _talk(self, wire: Wire) -> None:
        wire.sock.settimeout(PATIENCE)
        sent: list[str] = []
        while not self.is_over:
            sent.append(f"{len(sent)}")
            wire.send(frame(0x81, sent[-1].encode()))
            while True:
                opcode, payload = wire.frame()
                if opcode == 9:
                    wire.send(frame(0x8A, payload))
                elif opcode == 8:
                    self.closes[int.from_bytes(payload[:2], "big")] += 1
                    return
                else:
                    break
            found = json.loads(payload)
            if found[3] != sent:
                self.problems.append(f"{self._name}: {found} after {sent}")
                return
            self.answers += 1
            time.sleep(self._pause * random.random())


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


def memory(pid: int) -> int:
    """Return the resident memory of a process in KiB."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
    return 0


def strike(server: Server, before: list[int], stopped: list[int]) -> str:
    """Kill or stop a worker, old or new."""
    time.sleep(random.random() * 2.5)
    workers = server.workers
    if not workers:
        return "nothing"
    victim = random.choice(workers)
    how = random.choice((signal.SIGKILL, signal.SIGSTOP))
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, how)
        if how == signal.SIGSTOP:
            stopped.append(victim)
    age = "old" if victim in before else "new"
    return f"{how.name} of {age} worker"


def settle(server: Server, before: list[int], workers: int) -> None:
    """Wait until new workers alone are there, and have loaded the application.

    Before that they lose gunicorn's next signal.
    """
    deadline = time.monotonic() + 2 * GRACE
    while time.monotonic() < deadline:
        found = server.workers
        if len(found) == workers and not set(found) & set(before):
            log = server.log
            if all(f"[{pid}] [INFO] WebSockets: " in log for pid in found):
                return
        time.sleep(0.05)
    raise TimeoutError(f"the workers are {server.workers}, after {before}:\n{server.log[-5000:]}")


def main(arguments: list[str] | None = None) -> int:
    """Run; return 1 if something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args(arguments)
    random.seed(options.seed)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="m") as directory:
        settings = {**SETTINGS, "WEBSOCKET_BACKEND": f"local://{directory}"}
        env = {
            "TEST_SETTINGS": json.dumps(settings),
            "TEST_DATABASE": f"{directory}/db.sqlite3",
            "DJANGO_SETTINGS_MODULE": "tests.project.settings",
        }
        subprocess.run(
            [sys.executable, "-m", "django", "migrate", "-v0"],
            env={**os.environ, **env},
            cwd=ROOT,
            check=True,
        )
        # A worker that boots on a busy machine takes long, and the old ones wait for it.
        patience = ("-t", f"{GUNICORN_TIMEOUT}", "--graceful-timeout", f"{GRACE}")
        server = Server.gunicorn("own", "-w", f"{options.workers}", *patience, env=env)
        try:
            return run(server, Path(directory), options)
        finally:
            server.stop()


def run(server: Server, directory: Path, options: argparse.Namespace) -> int:
    """Reload again and again; return 1 if something went wrong."""
    talkers = [Talker(server, f"t{number}", 0.05) for number in range(options.clients)]
    for talker in talkers:
        talker.start()
    strikes: Counter[str] = Counter()
    first: tuple[int, int] | None = None
    for number in range(options.rounds):
        before = server.workers
        server.signal(signal.SIGHUP)
        stopped: list[int] = []
        if options.faults:
            strikes[strike(server, before, stopped)] += 1
            # It continues, unless gunicorn has ended it, and must not serve what others have.
            # gunicorn itself never ends one that was stopped before it has begun to serve.
            time.sleep(random.random() * 2 * GUNICORN_TIMEOUT)
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        settle(server, before, options.workers)
        if number == min(9, options.rounds - 1):
            first = sum(map(memory, server.workers)), sum(map(descriptors, server.workers))
    time.sleep(1)
    last = sum(map(memory, server.workers)), sum(map(descriptors, server.workers))
    files = sorted(each.name for each in directory.rglob(".handover/*"))
    for talker in talkers:
        talker.is_over = True
    for talker in talkers:
        talker.join(PATIENCE + 10)
    problems = [problem for talker in talkers for problem in talker.problems]
    problems += [f"{talker._name} hangs" for talker in talkers if talker.is_alive()]
    closes = sum((talker.closes for talker in talkers), Counter[int]())
    print(
        f"{options.rounds} reloads, {sum(talker.answers for talker in talkers)} answers, closes "
        f"{dict(closes)}, {dict(strikes)}\n"
        f"memory KiB and descriptors: {first} -> {last}; offers: {files}",
        flush=True,
    )
    if not options.faults and closes:
        told = [line for line in server.log.splitlines() if "sockets in" in line]
        stayed = [line for line in told if "; 0 stay" not in line]
        problems.append(f"sockets were closed: {dict(closes)}, {stayed}")
    if len(files) > 2 * options.workers:
        problems.append(f"files are left: {files}")
    if first is not None and last[1] > first[1] + options.clients // 2 + 20:
        problems.append(f"descriptors are left: {first[1]} -> {last[1]}")
    for problem in problems[:20]:
        print(problem)
    print(f"{len(problems)} problems", flush=True)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
