"""The store in memory: the tests of all stores, and forks."""

from __future__ import annotations

import os
from ast import literal_eval

import pytest

from django_wsmux.history.memory import MemoryStore
from django_wsmux.history.store import IDLE_SECONDS, Store, Stream

from .contract import StoreContract, fill, stream


class TestMemoryStore(StoreContract):
    """The contract."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        """Return an empty store."""
        return MemoryStore()

    def make_idle(self, store: Store, of: Stream) -> None:
        """Set back when the row was used."""
        assert isinstance(store, MemoryStore)
        store._rows[of.name].used -= IDLE_SECONDS * 1_000_000


def test_fork() -> None:
    """A forked child has its own store, with other epochs."""
    store = MemoryStore()
    fill(store, stream(), 3)
    ours = store.read(stream()).store
    seen, _ = store.changed("")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            reading = store.read(stream())
            found = *store.changed(seen), reading.store, reading.top
            os.write(writer, repr(found).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    answer, changed, theirs, top = literal_eval(os.read(reader, 1000).decode())
    os.close(reader)
    os.close(writer)
    assert theirs != ours
    assert (answer, changed, top) == ("", [], 0)
    assert store.read(stream()).top == 3
