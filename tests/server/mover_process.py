"""A process with sockets that count their messages, for ``movers.py``.

At each step of a handover the process can be told to fail.
"""

# ruff: noqa: E402 -- the process must be patched before it imports anything else

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json
import os
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

import gevent

from django_wsmux.connection import registry
from django_wsmux.connection.counters import counters
from django_wsmux.logs import get_logger
from django_wsmux.server import giving, handover, offers, processes
from django_wsmux.server.giving import Giver, Plan
from django_wsmux.server.offers import Worker
from django_wsmux.transports import gevent as transport
from django_wsmux.transports.streams import detach
from django_wsmux.websocket import WebSocket
from tests.server.counting import OPTIONS, Mover, hooks

#: Seconds that a step waits that is told to: longer than any test.
LONG = 600.0


def files_open() -> list[str]:
    """Return what this process has open, without epoll: the first move opens it once more."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of listdir()
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [link for link in links if "eventpoll" not in link]


def main() -> None:
    """Run the process; the arguments are those of ``Process``."""
    directory, generation, fds, paths, files = json.loads(sys.argv[1])
    control = socket.socket(fileno=fds[0])
    pid = os.getpid()
    logger = get_logger("tests")
    faults: dict[str, str] = {}

    def answer(value: Any) -> None:
        control.sendall(json.dumps(value).encode() + b"\n")

    def step(name: str) -> None:
        fault = faults.pop(name, None)
        if fault == "kill":
            os.kill(pid, signal.SIGKILL)
        elif fault == "stop":
            os.kill(pid, signal.SIGSTOP)
        elif fault == "raise":
            raise RuntimeError(f"told to fail in {name}")
        elif fault == "wait":
            answer(name)
            gevent.sleep(LONG)

    def give(seconds: float, takers: int = 0) -> None:
        plan = Plan(
            may_take=lambda worker: worker.succeeds(me),
            is_coming=lambda: takers > 0,
            more_coming=lambda: len(offers.look(directory, me)) < takers,
        )
        report = Giver(mover, me, time.monotonic() + seconds, plan).run()
        logger.warning("Handed over %s", report)
        answer({"given": report.given, "stay": report.stay, "back": report.taken_back})

    def report() -> dict[str, Any]:
        names = ("given", "taken", "taken_back", "refused")
        return {
            "open": len(registry.open_sockets),
            "fds": len(files_open()),
            "counters": [counters[f"handover_{name}"] for name in names],
            **mover.notes,
        }

    # Numbers of processes are random, and "2" must have started after "1".
    me = Worker("f00", 1, generation, processes.start_of(pid), pid)
    mover = Mover(directory, step)
    for fd, path in zip(fds[1:], paths, strict=True):
        websocket = WebSocket({"PATH_INFO": path}, OPTIONS, hooks(0))
        stream = detach(socket.socket(fileno=fd))
        websocket.opened(transport.transport_for(stream, websocket), b"", b"")
        websocket.serve()
    if not paths:
        # Make what the first socket makes, so that descriptors can be compared.
        transport.handlers_for(WebSocket({"PATH_INFO": "/"}, OPTIONS, hooks(0)))
    answer("ready")
    for line in control.makefile("rb"):
        match json.loads(line):
            case ["offer"]:
                taker = handover.offer(mover, me)
                if files:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
                answer("offered")
            case ["version", version]:
                handover.VERSION = version  # type: ignore[misc]
                answer("set")
            case ["patience", seconds]:
                giving.PATIENCE = seconds  # type: ignore[misc]
                giving._SIBLINGS = seconds  # type: ignore[misc]
                answer("set")
            case ["at", name, fault]:
                faults[name] = fault
                answer("set")
            case ["give", *arguments]:
                gevent.spawn(give, *arguments)
            case ["leaving"]:
                assert taker is not None
                taker.is_leaving = True
                answer("set")
            case ["withdraw"]:
                handover.withdraw()
                answer("withdrawn")
            case ["report"]:
                answer(report())


if __name__ == "__main__":
    main()
