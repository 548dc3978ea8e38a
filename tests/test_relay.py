"""The way to the other processes, where it cannot be gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from django_wsmux import conf
from django_wsmux.backends import BackendUnavailable
from django_wsmux.relay import Relay, members


class Backend:
    """Cannot start the first time, as where its directory is somebody else's."""

    def __init__(self) -> None:
        self.channels: list[str] = []
        self.effective = threading.Event()
        self._is_broken = True

    def start(self, *callbacks: Any) -> None:
        if self._is_broken:
            self._is_broken = False
            raise BackendUnavailable("local://", "not a directory", "")

    def subscribe(self, channel: str) -> threading.Event:
        self.channels.append(channel)
        return self.effective


@pytest.fixture
def backend() -> Backend:
    """One that is broken."""
    return Backend()


@pytest.fixture
def relay(backend: Any) -> Iterator[Relay]:
    """Uses it."""
    relay = Relay()
    relay._backend, relay._made_for = backend, conf.get("WEBSOCKET_BACKEND")
    yield relay
    assert not members.of("@user:1")


@pytest.mark.parametrize("name", ["@user:1", "@user:2"])
def test_add_fails(relay: Relay, backend: Backend, name: str) -> None:
    """Whoever could not join is no member, and the next one tries again to hear the others."""
    one: Any = object()
    two: Any = object()
    with pytest.raises(BackendUnavailable):
        relay.add("@user:1", one)
    assert not members.of("@user:1")
    relay.add(name, two)
    assert members.of(name) == [two]
    assert backend.channels == ["@people"]
    relay.discard(name, two)
