"""Fixtures for groups with a history, whose store is in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import pytest
from django.test import override_settings

from django_wsmux.connection import fanout, hub_thread
from django_wsmux.groups.sequencer import sequencer
from django_wsmux.history import stores

from .peers import HISTORY, Peer


@pytest.fixture
def history() -> Iterator[None]:
    """A separate store for each test."""
    changed = override_settings(
        WEBSOCKET_BACKEND="memory://", WEBSOCKET_HISTORY=HISTORY, WEBSOCKET_HISTORY_LIMIT=4
    )
    with changed:
        stores.reset()
        sequencer.reset()
        yield
        sequencer.reset()
        stores.reset()


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> Iterator[deque[Callable[[], None]]]:
    """The calls that the hub is to make; a message to a group is sent to one member in each."""
    calls: deque[Callable[[], None]] = deque()
    monkeypatch.setattr(hub_thread, "_soon", calls.append)
    for name, value in {"_SLICE": 0.0, "_STEP": 1, "_FEW": 0}.items():
        monkeypatch.setattr(fanout, name, value)
    yield calls
    fanout.disown()


@pytest.fixture
def connect() -> Iterator[Callable[[], Peer]]:
    """Return a function that opens sockets, which are dropped at the end."""
    peers: list[Peer] = []

    def make() -> Peer:
        peers.append(Peer())
        return peers[-1].open()

    yield make
    for peer in peers:
        peer.websocket.connection_lost()
