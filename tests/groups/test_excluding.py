"""Sockets, clients and pages of clients that do not get a message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_wsmux.groups import Group, excluding
from django_wsmux.groups.envelope import EXCLUDED, Envelope
from django_wsmux.groups.envelope import excluding as fields_of
from django_wsmux.groups.members import Members
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.protocol.frames import TEXT
from django_wsmux.protocol.prepared import PreparedMessage
from tests.connection.conftest import Hooks, Pair


@pytest.fixture
def connect() -> Iterator[Callable[[], Pair]]:
    """Return a function that opens sockets in memory, which are dropped at the end."""
    pairs: list[Pair] = []

    def make() -> Pair:
        pair = Pair(Hooks())
        pair.open()
        assert pair.sent
        pairs.append(pair)
        return pair

    yield make
    for pair in pairs:
        pair.transport.abort()


def deliver(pairs: list[Pair], exclude: Any) -> list[bytes]:
    """Send a message to sockets; return what each of them got."""
    members = Members()
    for pair in pairs:
        members.add("room", pair.websocket)
    excluded, ids = excluding.exclusion(exclude, by_id=False)
    members.deliver("room", PreparedMessage(TEXT, b"hi", "room"), excluded, ids)
    return [pair.sent for pair in pairs]


def test_excluded(connect: Callable[[], Pair]) -> None:
    """A socket, an id or a list of both is excluded."""
    one, two, three = pairs = [connect(), connect(), connect()]
    frame = b"\x81\x02hi"
    assert deliver(pairs, ()) == deliver(pairs, None) == [frame] * 3
    assert deliver(pairs, one.websocket) == [b"", frame, frame]
    assert deliver(pairs, two.websocket.client_id) == [frame, b"", frame]
    assert deliver(pairs, [one.websocket, two.websocket.client_id]) == [b"", b"", frame]
    assert deliver(pairs, {one.websocket, three.websocket}) == [b"", frame, b""]
    assert deliver(pairs, "another") == [frame] * 3
    assert deliver(pairs[:1], one.websocket.client_id) == [b""]


def test_any_container(connect: Callable[[], Pair]) -> None:
    """Any container may hold any number of sockets."""

    class Everyone:
        def __contains__(self, websocket: object) -> bool:
            return True

    pairs = [connect() for _ in range(9)]
    assert deliver(pairs, Everyone()) == [b""] * 9
    assert deliver(pairs, [pair.websocket for pair in pairs]) == [b""] * 9


def test_pages(connect: Callable[[], Pair]) -> None:
    """A socket of which a page is excluded gets the message with the page's name."""
    pair = connect()
    mine = pair.websocket.client_id
    message = PreparedMessage(TEXT, b"hi", "room", "a.1-1")
    own = excluding.variant_for(message, [f"{mine}.p1", "else.p2", f"{mine}.p3"], pair.websocket)
    assert own is not None
    assert own.pages == ["p1", "p3"]
    assert (own.kind, own.payload, own.group, own.position) == (TEXT, b"hi", "room", "a.1-1")
    assert excluding.variant_for(message, [f"{mine}.p1", mine], pair.websocket) is None
    assert excluding.variant_for(message, ["else"], pair.websocket) is message
    assert excluding.variant_for(message, ["else"], connect().websocket) is message
    assert deliver([pair, connect()], f"{mine}.p1") == [b"\x81\x02hi"] * 2


def test_by_id(connect: Callable[[], Pair]) -> None:
    """In a group with a history, a socket stands for its client."""
    one, two = connect().websocket, connect().websocket
    ids = (one.client_id, two.client_id)
    assert excluding.exclusion(one, by_id=True) == ((), ids[:1])
    assert excluding.exclusion([one, ids[1]], by_id=True) == ((), ids)
    with pytest.raises(ValueError, match="has 9 clients: at most 8"):
        excluding.exclusion([one] * 9, by_id=True)
    with pytest.raises(TypeError, match="is not a WebSocket"):
        excluding.exclusion([1], by_id=True)  # type: ignore[list-item]


@pytest.mark.parametrize("wrong", ["", "a b", "a\n", "x" * 101, "\xe9", [""], ["a"] * 9])
def test_wrong_ids(wrong: Any) -> None:
    """Texts that are not ids, and more than eight ids, are errors."""
    with pytest.raises(ValueError, match=r"is not the id|at most 8"):
        Group("room").send("hi", exclude=wrong)


def test_wrong_types() -> None:
    """Anything else is an error."""
    with pytest.raises(TypeError, match="is not a WebSocket"):
        Group("room").send("hi", exclude=1)  # type: ignore[arg-type]


def test_other_processes(connect: Callable[[], Pair]) -> None:
    """Ids of an envelope are also excluded."""
    assert fields_of(["a", "b.c"]) == {EXCLUDED: b"a b.c"}
    one, two = connect(), connect()
    for pair in (one, two):
        Group("room").join(pair.websocket)
    arrived = Envelope(TEXT, "room", b"hi", fields_of([one.websocket.client_id]))
    pubsub.deliver("room", arrived)
    assert [one.sent, two.sent] == [b"", b"\x81\x02hi"]
