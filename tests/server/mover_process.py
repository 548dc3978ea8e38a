"""A process with sockets that count their messages, for ``movers.py``.

Its view answers each message with its process, the number of messages so far and the message; the
number moves with the socket. At each step of a handover the process can be told to fail.
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
from typing import Any

import gevent

from django_wsmux.connection import registry
from django_wsmux.connection.counters import counters
from django_wsmux.connection.interfaces import DefaultHooks, Detached
from django_wsmux.logs import get_logger
from django_wsmux.protocol.options import Options
from django_wsmux.server import giving, handover, processes
from django_wsmux.server.giving import Giver, Plan
from django_wsmux.server.offers import Worker
from django_wsmux.transports import gevent as transport
from django_wsmux.transports.streams import detach
from django_wsmux.websocket import WebSocket

#: Seconds that a step waits that is told to: longer than any test.
LONG = 600.0


def main() -> None:
    """Run the process; the arguments are those of ``Process``."""
    directory, generation, fds, paths, files = json.loads(sys.argv[1])
    control = socket.socket(fileno=fds[0])
    pid = os.getpid()
    options = Options(handler_greenlets=4, blocked_warning=0, ping_interval=0)
    logger = get_logger("tests")
    faults: dict[str, str] = {}
    notes: dict[str, Any] = {}

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

    class Hooks(DefaultHooks):
        def __init__(self, count: int) -> None:
            self.count = count

        def receive(self, websocket: Any, message: str | bytes) -> None:
            self.count += 1
            websocket.send(f"{pid} {self.count} {message!s}")

        def nothing(self, *arguments: Any) -> None:
            pass

        before_wait = retire = open = leave = disconnect = nothing

        def is_disconnecting(self, websocket: Any) -> bool:
            return False

    class Mover:
        def __init__(self) -> None:
            self.directory = directory

        def wants_to_move(self, websocket: Any) -> bool:
            return not websocket.environ["PATH_INFO"].startswith("/stays")

        def ask(self, websockets: list[Any]) -> dict[str, Any]:
            step("ask")
            return {"count": len(websockets)}

        def answer(self, request: dict[str, Any]) -> dict[str, Any]:
            step("answer")
            return {"asked": request["count"], "pid": pid}

        def wait_for(self, answer: dict[str, Any], seconds: float) -> bool:
            step("wait_for")
            assert answer["pid"] != pid
            return True

        def pack(self, websocket: Any) -> dict[str, Any]:
            step("pack")
            return {"path": websocket.environ["PATH_INFO"], "count": websocket.hooks.count}

        def seal(self, records: list[dict[str, Any]], is_complete: bool) -> dict[str, Any]:
            step("seal")
            return {"from": pid, "is_complete": is_complete}

        def given(self, websockets: list[Any]) -> None:
            step("given")
            notes["given"] = notes.get("given", 0) + len(websockets)

        def take_back(
            self, websocket: Any, record: dict[str, Any], detached: Detached, batch: dict[str, Any]
        ) -> Any:
            assert websocket.closed
            return self._continue(self._made(record), detached)

        def _made(self, record: dict[str, Any]) -> WebSocket:
            return WebSocket({"PATH_INFO": record["path"]}, options, Hooks(record["count"]))

        def _continue(self, websocket: WebSocket, detached: Detached) -> WebSocket:
            carrier = transport.GeventTransport.adopt(detached, websocket)
            websocket.serve()
            websocket.adopted(carrier, detached)
            websocket.resume(detached.unread)
            return websocket

        def build(self, batch: dict[str, Any], records: list[dict[str, Any]]) -> list[object]:
            step("build")
            assert batch["is_complete"]
            return [
                "no such path" if record["path"] == "/refused" else self._made(record)
                for record in records
            ]

        def adopt(self, batch: dict[str, Any], built: list[tuple[Any, Detached]]) -> None:
            step("adopt")
            for websocket, detached in built:
                self._continue(websocket, detached)

        def finished(self) -> None:
            step("finished")
            notes["finished"] = notes.get("finished", 0) + 1

    def give(seconds: float) -> None:
        plan = Plan(may_take=lambda worker: worker.succeeds(me))
        report = Giver(mover, me, time.monotonic() + seconds, plan).run()
        logger.warning("%s", report)
        answer({"given": report.given, "stay": report.stay, "back": report.taken_back})

    def report() -> dict[str, Any]:
        names = ("given", "taken", "taken_back", "refused")
        return {
            "open": len(registry.open_sockets),
            "fds": len(os.listdir("/proc/self/fd")),
            "counters": [counters[f"handover_{name}"] for name in names],
            **notes,
        }

    # Numbers of processes are random, and "2" must have started after "1".
    me = Worker("f00", 1, generation, processes.start_of(pid), pid)
    mover = Mover()
    for fd, path in zip(fds[1:], paths, strict=True):
        websocket = WebSocket({"PATH_INFO": path}, options, Hooks(0))
        stream = detach(socket.socket(fileno=fd))
        websocket.opened(transport.transport_for(stream, websocket), b"", b"")
        websocket.serve()
    if not paths:
        # Make what the first socket makes, so that descriptors can be compared.
        transport.handlers_for(WebSocket({"PATH_INFO": "/"}, options, Hooks(0)))
    answer("ready")
    for line in control.makefile("rb"):
        match json.loads(line):
            case ["offer"]:
                handover.offer(mover, me)
                if files:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
                answer("offered")
            case ["version", version]:
                handover.VERSION = version  # type: ignore[misc]
                answer("set")
            case ["patience", seconds]:
                giving.PATIENCE = seconds  # type: ignore[misc]
                answer("set")
            case ["at", name, fault]:
                faults[name] = fault
                answer("set")
            case ["give", seconds]:
                gevent.spawn(give, seconds)
            case ["withdraw"]:
                handover.withdraw()
                answer("withdrawn")
            case ["report"]:
                answer(report())


if __name__ == "__main__":
    main()
