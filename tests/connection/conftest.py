"""Sockets in memory, without a framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_wsmux.connection.interfaces import DefaultHooks
from django_wsmux.protocol.options import Options
from django_wsmux.testing.memory import Loop, MemoryTransport
from django_wsmux.websocket import WebSocket


class Client:
    """The other end of a socket.

    Attributes:
        sent: the bytes received from the server.
    """

    def __init__(self) -> None:
        self.sent = b""

    def connected(self, transport: MemoryTransport) -> None:
        """Do nothing with the transport."""

    def data_received(self, data: bytes) -> None:
        """Keep the bytes."""
        self.sent += data

    def eof_received(self) -> None:
        """Do nothing at the end of the bytes."""


class Hooks(DefaultHooks):
    """A framework that does nothing."""

    user_id = None

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


class Pair:
    """A socket of the server and its client.

    Args:
        hooks: the hooks of the framework.
        options: the limits of the connection.
    """

    def __init__(self, hooks: Any, **options: Any) -> None:
        self.loop, self.client = Loop(), Client()
        self.websocket = WebSocket({"PATH_INFO": "/"}, Options(**options), hooks)
        self.transport = MemoryTransport(self.loop, self.websocket, self.client, lambda: None)

    def open(self) -> None:
        """Accept the handshake."""
        self.websocket.opened(self.transport, b"101 ", b"")
        self.loop.run()

    @property
    def sent(self) -> bytes:
        """The bytes that the client has received since the last access."""
        self.loop.run()
        sent, self.client.sent = self.client.sent, b""
        return sent


@pytest.fixture
def connect() -> Iterator[Callable[..., Pair]]:
    """Returns a function that makes pairs, which are dropped at the end."""
    pairs = []

    def make(hooks: Any = None, **options: Any) -> Pair:
        pair = Pair(hooks or Hooks(), **options)
        pairs.append(pair)
        return pair

    yield make
    for pair in pairs:
        if pair.websocket.connecting:
            pair.websocket.abandon()
        else:
            pair.transport.abort()
