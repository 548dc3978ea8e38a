"""Fixtures for groups with a history, whose store is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.test import override_settings

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
def connect() -> Iterator[Callable[[], Peer]]:
    """Return a function that opens sockets, which are dropped at the end."""
    peers: list[Peer] = []

    def make() -> Peer:
        peers.append(Peer())
        return peers[-1].open()

    yield make
    for peer in peers:
        peer.websocket.connection_lost()
