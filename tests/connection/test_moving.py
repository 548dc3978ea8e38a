"""What a socket takes along to another process, beside its bytes and its groups."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from django_wsmux.connection import client_ids, moving
from django_wsmux.connection.interfaces import Detached
from django_wsmux.protocol.events import CannotMove
from django_wsmux.protocol.v1 import BROUGHT_KEY, Brought
from django_wsmux.testing.memory import MemoryTransport

Connect = Callable[..., Any]


def move(old: Any, new: Any) -> None:
    """Move a socket in memory, without its bytes."""
    state = json.loads(json.dumps(moving.pack(old.websocket)))
    codec_state = json.loads(json.dumps(old.websocket.detached()[2]))
    new.websocket.restore(codec_state)
    moving.unpack(new.websocket, state)
    new.websocket.adopted(new.transport, Detached(-1, b"", b"", {}))
    new.websocket.resume(b"")


def test_traffic(connect: Connect) -> None:
    """A moved socket reports its whole traffic."""
    old, new = connect(), connect()
    old.open()
    old.websocket.send("abc")
    old.websocket.latency = 0.25
    before = old.websocket.traffic
    move(old, new)
    assert new.websocket.traffic == before
    assert new.websocket.latency == 0.25
    new.websocket.send("d")
    assert new.websocket.traffic.messages_out == 2
    assert new.websocket.traffic.bytes_out == before.bytes_out + 3


@pytest.mark.parametrize("subprotocol", [None, "wsmux.v1"])
def test_client(connect: Connect, subprotocol: str | None) -> None:
    """The id of the client moves, and with wsmux.v1 the aliases of its groups."""
    old, new = connect(), connect()
    old.websocket.subprotocol = subprotocol
    if subprotocol:
        old.websocket.use_v1()
    old.open()
    client_id = old.websocket.client_id
    old.websocket.name_group("room", "lobby")
    move(old, new)
    client_ids.leave(client_id, old.websocket)  # as its hooks do
    assert new.websocket.client_id == client_id
    assert client_ids.find(client_id) is new.websocket
    assert new.websocket.subprotocol == subprotocol
    assert new.websocket.name_of_group("room") == ("lobby" if subprotocol else "room")


def test_expiry(connect: Connect) -> None:
    """The time at which it expires moves."""
    old, new = connect(), connect()
    old.open()
    old.websocket.expires_at = 5e9
    move(old, new)
    assert new.websocket.expires_at == 5e9


def test_brought(connect: Connect) -> None:
    """Positions that the view has not taken yet move."""
    old, new = connect(), connect()
    brought = old.websocket.environ[BROUGHT_KEY] = Brought()
    brought.add("room", "a.b-1")
    brought.add("other", "a.b-2")
    brought.take("other")
    old.open()
    move(old, new)
    found = new.websocket.environ[BROUGHT_KEY]
    assert found.take("room") == "a.b-1"
    assert found.recovered == {"other": None, "room": None}


def test_helper(connect: Connect) -> None:
    """A socket with a helper stays."""
    old = connect()
    old.open()
    old.websocket.on_close(print, print)
    with pytest.raises(CannotMove, match="helper"):
        moving.pack(old.websocket)


def test_held(connect: Connect) -> None:
    """What groups send before it reads follows the unsent bytes."""
    from django_wsmux.protocol.frames import TEXT
    from django_wsmux.protocol.prepared import PreparedMessage

    new = connect()
    assert isinstance(new.transport, MemoryTransport)
    new.websocket.adopted(new.transport, Detached(-1, b"", b"rest", {}))
    new.websocket.deliver(PreparedMessage(TEXT, b"a", "room"))
    assert new.sent == b"rest"
    new.websocket.resume(b"")
    assert new.sent == b"\x81\x01a"
