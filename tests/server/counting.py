"""Sockets that count their messages, and a mover for them; without Django.

Each message is answered with the process, the number of messages so far and the message. The number
moves with the socket.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from django_wsmux.connection.interfaces import DefaultHooks, Detached
from django_wsmux.protocol.options import Options
from django_wsmux.transports import gevent as transport
from django_wsmux.websocket import WebSocket

__all__ = ["OPTIONS", "Hooks", "Mover"]

OPTIONS: Final = Options(handler_greenlets=4, blocked_warning=0, ping_interval=0)


def hooks(count: int) -> Any:
    """Return the view of one socket, which has handled so many messages."""
    return Hooks(count)


class Hooks(DefaultHooks):
    """The view of one socket.

    Args:
        count: how many messages there were.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def receive(self, websocket: Any, message: str | bytes) -> None:
        self.count += 1
        websocket.send(f"{os.getpid()} {self.count} {message!s}")

    def nothing(self, *arguments: Any) -> None:
        pass

    before_wait = retire = open = leave = disconnect = nothing

    def is_disconnecting(self, websocket: Any) -> bool:
        return False


class Mover:
    """Moves such sockets; see ``server.mover.Mover``.

    Args:
        directory: where processes meet.
        step: called with the name of each step.
    """

    def __init__(self, directory: str, step: Callable[[str], None] = lambda name: None) -> None:
        self.directory = directory
        self._step = step
        # How often each has happened.
        self.notes = {"given": 0, "finished": 0}

    def wants_to_move(self, websocket: Any) -> bool:
        return not websocket.environ["PATH_INFO"].startswith("/stays")

    def ask(self, websockets: list[Any]) -> dict[str, Any]:
        self._step("ask")
        return {"count": len(websockets)}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self._step("answer")
        return {"asked": request["count"], "pid": os.getpid()}

    def wait_for(self, answer: dict[str, Any], seconds: float) -> bool:
        self._step("wait_for")
        assert answer["pid"] != os.getpid()
        return True

    def pack(self, websocket: Any) -> dict[str, Any]:
        self._step("pack")
        return {"path": websocket.environ["PATH_INFO"], "count": websocket.hooks.count}

    def seal(self, records: list[dict[str, Any]], is_complete: bool) -> dict[str, Any]:
        self._step("seal")
        return {"from": os.getpid(), "is_complete": is_complete}

    def given(self, websockets: list[Any]) -> None:
        self._step("given")
        self.notes["given"] += len(websockets)

    def take_back(
        self, websocket: Any, record: dict[str, Any], detached: Detached, batch: dict[str, Any]
    ) -> Any:
        assert websocket.closed
        return self._continue(self._made(record), detached)

    def _made(self, record: dict[str, Any]) -> WebSocket:
        return WebSocket({"PATH_INFO": record["path"]}, OPTIONS, hooks(record["count"]))

    def _continue(self, websocket: WebSocket, detached: Detached) -> WebSocket:
        carrier = transport.GeventTransport.adopt(detached, websocket)
        websocket.serve()
        websocket.adopted(carrier, detached)
        websocket.resume(detached.unread)
        return websocket

    def build(self, batch: dict[str, Any], records: list[dict[str, Any]]) -> list[object]:
        self._step("build")
        assert batch["is_complete"]
        return [
            "no such path" if record["path"] == "/refused" else self._made(record)
            for record in records
        ]

    def adopt(self, batch: dict[str, Any], built: list[tuple[Any, Detached]]) -> None:
        self._step("adopt")
        for websocket, detached in built:
            self._continue(websocket, detached)

    def gave_all(self) -> None:
        pass

    def finished(self) -> None:
        self._step("finished")
        self.notes["finished"] += 1
