"""Sockets in memory that join groups with a history, and messages of other processes."""

from __future__ import annotations

import time
from typing import Any

from django_wsmux.connection.interfaces import DefaultHooks
from django_wsmux.groups import Group
from django_wsmux.groups.envelope import FORGET, numbered, pack
from django_wsmux.groups.numbered import stream_of
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.groups.sequencer import sequencer
from django_wsmux.history.store import Store
from django_wsmux.protocol.frames import TEXT
from django_wsmux.protocol.options import Options
from django_wsmux.testing.memory import Loop, MemoryTransport
from django_wsmux.websocket import WebSocket

HISTORY = {
    "room.*": {"messages": 5, "seconds": 600},
    "price.*": {"messages": 1, "seconds": 600},
    "@user:*": {"messages": 5, "seconds": 600},
}


class Hooks(DefaultHooks):
    """A framework that records what happens in groups."""

    user_id: str | None = None
    groups: tuple[Any, ...] = ()

    def __init__(self) -> None:
        self.news: list[tuple[Any, ...]] = []

    def group_joined(self, websocket: Any, *what: Any) -> None:
        """Record a join."""
        self.news.append(("joined", *what))

    def group_renamed(self, websocket: Any, *what: Any) -> None:
        """Record another alias."""
        self.news.append(("renamed", *what))

    def group_gap(self, websocket: Any, *what: Any) -> None:
        """Record a gap."""
        self.news.append(("gap", *what))

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


class Peer:
    """The client of a socket: its messages, and where they stop."""

    def __init__(self) -> None:
        self.hooks, self.loop, self.data = Hooks(), Loop(), b""
        self.websocket = WebSocket({"PATH_INFO": "/"}, Options(), self.hooks)
        self.transport = MemoryTransport(self.loop, self.websocket, self, lambda: None)

    def connected(self, transport: MemoryTransport) -> None:
        """Do nothing with the transport."""

    def data_received(self, data: bytes) -> None:
        """Keep the bytes."""
        self.data += data

    def eof_received(self) -> None:
        """Do nothing at the end of the bytes."""

    def open(self) -> Peer:
        """Accept the handshake."""
        self.websocket.opened(self.transport, b"", b"")
        return self

    @property
    def received(self) -> list[str]:
        """The short text messages since the last access."""
        self.loop.run()
        data, self.data = self.data, b""
        found = []
        while data:
            end = 2 + data[1]
            found.append(data[2:end].decode())
            data = data[end:]
        return found


def store() -> Store:
    """Return the store."""
    return sequencer.store()


def arrive(group: Group, position: str, text: str) -> None:
    """Deliver a numbered message of another process."""
    pubsub._receive("channel", numbered(position, pack(TEXT, group.name, text.encode())))


def elsewhere(group: Group, *texts: str) -> list[str]:
    """Store messages like another process whose publications are lost; return the positions."""
    stream = stream_of(group.key())
    assert stream is not None
    found = []
    for text in texts:
        appended = store().append(stream, pack(TEXT, group.name, text.encode()))
        assert appended is not None
        found.append(f"{appended.epoch}-{appended.offset}")
    return found


def forget_elsewhere(group: Group, *, is_lost: bool = False) -> None:
    """Forget a group like another process whose publication may be lost."""
    stream = stream_of(group.key())
    assert stream is not None
    store().forget(stream)
    if not is_lost:
        pubsub._receive("channel", pack(FORGET, group.name, b""))


def settle(group: Group) -> None:
    """Wait until the process is up to date."""
    deadline = time.monotonic() + 60
    while True:
        tracked = sequencer.tracked(group.key())
        if tracked is None or not tracked.is_behind:
            return
        assert time.monotonic() < deadline
        time.sleep(0.005)
