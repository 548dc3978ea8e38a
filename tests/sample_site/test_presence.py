"""Presence in the chat, with two workers, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack
from typing import Any

from websockets.sync.client import ClientConnection
from websockets.typing import Subprotocol

from tests.gauges import worker_of
from tests.support import TIMEOUT

from .conftest import Demo


class Window:
    """A window of the chat, which keeps the list of who is here."""

    def __init__(self, websocket: ClientConnection, name: str) -> None:
        self.websocket = websocket
        self.here: set[str] = set()
        websocket.send(json.dumps({"type": "name", "name": name}))

    def wait_for(self, names: set[str]) -> None:
        """Wait until these are the people who are here."""
        while self.here != names:
            told: Any = json.loads(self.websocket.recv(timeout=TIMEOUT))
            told = told.get("presence", {})
            self.here = {*told.get("all", self.here), *told.get("joined", ())}
            self.here -= {*told.get("left", ())}


def test_killed_worker(demo: Demo) -> None:
    """The windows of a killed worker leave, though none of them could say so."""
    server = demo.server
    with ExitStack() as stack:
        windows: dict[str, Window] = {}
        workers: dict[str, int] = {}
        while len(set(workers.values())) < 2 or len(windows) < 4:
            name = f"guest {len(windows):03d}"
            websocket = stack.enter_context(
                server.connect("/chat/", subprotocols=[Subprotocol("wsmux.v1")])
            )
            windows[name] = Window(websocket, name)
            workers[name] = worker_of(server, websocket.local_address[1])
            assert len(windows) < 100, "all in one worker"
        for window in windows.values():
            window.wait_for({*windows})
        victim = workers["guest 000"]
        os.kill(victim, signal.SIGKILL)
        server.wait_for_replacement(victim)
        left = {name for name, worker in workers.items() if worker != victim}
        for name in left:
            windows[name].wait_for(left)
