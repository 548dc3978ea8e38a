"""The ids of sockets, with and without wsmux.v1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django_wsmux.connection import client_ids
from django_wsmux.protocol.v1 import BROUGHT_KEY, Brought


def test_at_first_use(connect: Callable[..., Any]) -> None:
    """A socket gets an id at first use, and keeps it."""
    websocket = connect().websocket
    assert websocket.known_client_id is None
    mine = websocket.client_id
    assert len(mine) == 16
    assert websocket.client_id == websocket.known_client_id == mine
    assert client_ids.find(mine) is websocket
    assert connect().websocket.client_id != mine


def test_ends_with_the_socket(connect: Callable[..., Any]) -> None:
    """A closed socket keeps its id, but the id no longer finds it."""
    pair = connect()
    pair.open()
    mine = pair.websocket.client_id
    pair.websocket.close()
    assert client_ids.find(mine) is None
    assert pair.websocket.client_id == mine
    late = connect()
    late.open()
    late.websocket.close()
    assert client_ids.find(late.websocket.client_id) is None


def test_brought(connect: Callable[..., Any]) -> None:
    """A socket gets the id that its client sent, unless another socket has it."""
    one, two = (connect().websocket for _ in range(2))
    for websocket in (one, two):
        websocket.environ[BROUGHT_KEY] = Brought("mine")
    assert one.known_client_id == "mine"
    assert two.client_id != "mine"
    assert client_ids.find("mine") is one


def test_v1(connect: Callable[..., Any]) -> None:
    """The id stays the same when the socket begins to speak wsmux.v1."""
    pair = connect()
    mine = pair.websocket.client_id
    pair.websocket.use_v1()
    pair.open()
    assert pair.websocket.client_id == pair.websocket.known_client_id == mine
    client_ids.leave(mine, connect().websocket)
    assert client_ids.find(mine) is pair.websocket
    client_ids.leave(mine, pair.websocket)
    assert client_ids.find(mine) is None
