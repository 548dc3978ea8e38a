"""The store in memory: the tests of all stores, and forks."""

from __future__ import annotations

import os

import pytest

from django_wsmux.presence.memory import MemoryPresence
from django_wsmux.presence.store import LEAVING_SECONDS, LEFT_SECONDS, NO_GROUP, PresenceStore

from .contract import GROUP, HERE, PresenceContract, entries, keys


class TestMemoryPresence(PresenceContract):
    """The contract."""

    @pytest.fixture
    def store(self) -> MemoryPresence:
        """Return an empty store."""
        return MemoryPresence()

    def pass_time(self, store: PresenceStore, seconds: float) -> None:
        """Advance the clock."""
        assert isinstance(store, MemoryPresence)
        store.advance(seconds)


def test_seconds() -> None:
    """Rows expire after ``LEAVING_SECONDS``, and leavings are remembered for ``LEFT_SECONDS``."""
    store = MemoryPresence()
    before = store.enter(GROUP, entries("ann"), HERE)
    store.advance(LEAVING_SECONDS)
    assert [name for name, _ in store.expire()] == [GROUP]
    assert store.read(GROUP, before).left == ("ann",)
    store.advance(LEFT_SECONDS)
    store.expire()
    assert store.read(GROUP).version == NO_GROUP


def test_fork() -> None:
    """A forked child has its own store."""
    store = MemoryPresence()
    store.enter(GROUP, entries("ann"), HERE)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert store.read(GROUP).version == NO_GROUP
            assert not store.renew(HERE)
            store.enter(GROUP, entries("bob"), HERE)
            assert keys(store.read(GROUP)) == ["bob"]
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert keys(store.read(GROUP)) == ["ann"]
