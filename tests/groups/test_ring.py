"""The ring of publications: what it keeps, and whom late ones leave out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_wsmux.backends import Backend, from_url
from django_wsmux.groups import ring as module
from django_wsmux.groups.envelope import FORGET, numbered, pack
from django_wsmux.groups.pubsub import PubSub
from django_wsmux.groups.ring import Ring, read_table, table_as_json

OTHER, THIRD = b"o" * 18, b"t" * 18


class Socket:
    """A socket."""


@pytest.fixture
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A backend."""
    backend = from_url(f"local://{tmp_path_factory.mktemp('l')}")
    backend.process()
    yield backend
    backend.close()


@pytest.fixture
def pubsub() -> PubSub:
    """Delivers publications."""
    return PubSub()


def observe(backend: Backend, source: bytes, number: int, text: bytes) -> None:
    """Receive a publication."""
    backend.numbers.last[source][0] = number
    assert backend.numbers.observe is not None
    backend.numbers.observe(source, number, "room", pack(1, "room", text))


def test_kept(backend: Backend, pubsub: PubSub) -> None:
    """It keeps what arrives, in order, but nothing that has a position in a store."""
    ring = Ring(backend, pubsub)
    for number, source in enumerate((OTHER, THIRD, OTHER), 1):
        observe(backend, source, number, b"hello")
    assert backend.numbers.observe is not None
    for payload in (numbered("a.b-1", pack(1, "room", b"x")), pack(FORGET, "room", b"")):
        backend.numbers.observe(OTHER, 4, "room", payload)
    assert [each[:3] for each in ring.all()] == [
        (OTHER, 1, "room"),
        (THIRD, 2, "room"),
        (OTHER, 3, "room"),
    ]
    assert [each.number for each in ring.all() if each.follows({OTHER: 1, THIRD: 2})] == [3]
    ring.close()
    assert backend.numbers.observe is None


@pytest.mark.parametrize("limit", ["MOST", "MOST_BYTES"])
def test_full(
    limit: str, backend: Backend, pubsub: PubSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full ring drops the oldest, and is incomplete for those who miss them."""
    monkeypatch.setattr(module, limit, 3 if limit == "MOST" else 3 * len(pack(1, "room", b"x")))
    ring = Ring(backend, pubsub)
    for number in range(1, 6):
        observe(backend, OTHER, number, b"x")
    assert [each.number for each in ring.all()] == [3, 4, 5]
    assert ring.is_complete({OTHER: 2})
    assert not ring.is_complete({OTHER: 1})
    assert not ring.is_complete({})


def test_gap(backend: Backend, pubsub: PubSub) -> None:
    """After a gap of the backend, the ring is incomplete."""
    ring = Ring(backend, pubsub)
    assert ring.is_complete({})
    backend.counts.gaps += 1
    assert not ring.is_complete({})


def test_late(backend: Backend, pubsub: PubSub) -> None:
    """What a socket got elsewhere and arrives late leaves it out, until all of it has arrived."""
    ring = Ring(backend, pubsub)
    one, two = Socket(), Socket()
    sockets: list[Any] = [one, two]
    observe(backend, OTHER, 5, b"x")
    ring.note_arrivals({OTHER: 7}, sockets[:1])
    ring.note_arrivals({OTHER: 6, THIRD: 1}, sockets[1:])
    expected: list[Any] = [
        (OTHER, 6, {one, two}),
        (OTHER, 7, {one}),
        (OTHER, 8, set()),
        (THIRD, 1, {two}),
    ]
    for source, number, excluded in expected:
        observe(backend, source, number, b"x")
        assert set(pubsub.excluded) == excluded
    ring.note_arrivals({OTHER: 8}, sockets)
    assert not ring._arrivals
    observe(backend, OTHER, 9, b"x")
    assert not pubsub.excluded


def test_json() -> None:
    """Numbers travel as JSON."""
    assert read_table(table_as_json({OTHER: 3})) == {OTHER: 3}
