"""The store in a SQLite file: the tests of all stores, and what can go wrong with a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from django_wsmux.history.sqlite import SQLiteStore
from django_wsmux.history.store import IDLE_SECONDS, Store, Stream

from .contract import SharedStoreContract


def open_store(directory: Path) -> SQLiteStore:
    """Return a handle of the store in a directory."""
    return SQLiteStore(f"local://{directory}", namespace="tests", backend=None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    """An empty store."""
    store = open_store(tmp_path)
    yield store
    store.close()


class TestSQLiteStore(SharedStoreContract):
    """The contract."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        """Return an empty store."""
        self.directory = tmp_path
        self.handles = [open_store(tmp_path)]
        yield self.handles[0]
        for handle in self.handles:
            handle.close()

    def another(self, store: Store) -> Store:
        """Return a second handle, with a connection of its own."""
        self.handles.append(open_store(self.directory))
        return self.handles[-1]

    def make_idle(self, store: Store, of: Stream) -> None:
        """Set back when the row was used, and has to be looked at."""
        assert isinstance(store, SQLiteStore)
        assert store._connection is not None
        store._connection.execute(
            "UPDATE stream SET used = used - ?, due = used - ? WHERE name = ?",
            (IDLE_SECONDS * 1_000_000, IDLE_SECONDS * 1_000_000, of.name.encode()),
        )
