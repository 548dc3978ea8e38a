"""Presence in the chat, with two workers, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack

from websockets.sync.client import ClientConnection

from tests.gauges import worker_of
from tests.support import TIMEOUT

from .conftest import Demo


def introduce(websocket: ClientConnection, name: str) -> None:
    """Send a name; wait until it is known."""
    websocket.send(json.dumps({"type": "name", "name": name}))
    while json.loads(websocket.recv(timeout=TIMEOUT)) != {"type": "changed"}:
        pass


def here(websocket: ClientConnection) -> list[str]:
    """Ask for the people who are present."""
    websocket.send(json.dumps({"type": "here", "ref": 1}))
    while True:
        message = json.loads(websocket.recv(timeout=TIMEOUT))
        if "reply" in message:
            names: list[str] = message["reply"]
            return names


def test_killed_worker(demo: Demo) -> None:
    """The windows of a killed worker are no longer present, though none of them could leave."""
    server = demo.server
    with ExitStack() as stack:
        windows: dict[str, ClientConnection] = {}
        workers: dict[str, int] = {}
        while len(set(workers.values())) < 2 or len(windows) < 4:
            name = f"guest {len(windows):03d}"
            windows[name] = stack.enter_context(server.connect("/chat/"))
            introduce(windows[name], name)
            workers[name] = worker_of(server, windows[name].local_address[1])
            assert len(windows) < 100, "all in one worker"
        for websocket in windows.values():
            assert here(websocket) == sorted(windows)
        victim = workers["guest 000"]
        os.kill(victim, signal.SIGKILL)
        server.wait_for_replacement(victim)
        left = sorted(name for name, worker in workers.items() if worker != victim)
        for name in left:
            assert here(windows[name]) == left
