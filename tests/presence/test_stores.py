"""The choice of a process's store of presence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_wsmux.history import stores as histories
from django_wsmux.history.sqlite import SQLiteStore
from django_wsmux.presence import stores
from django_wsmux.presence.memory import MemoryPresence
from django_wsmux.presence.sqlite import SQLitePresence
from django_wsmux.presence.store import PresenceStore
from tests.support import ROOT

from .contract import GROUP, HERE, entries, keys


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Leave no store to other tests."""
    stores.reset()
    yield
    stores.reset()
    histories.reset()


def present() -> PresenceStore:
    """Return the store of this process."""
    return stores.store(None, "tests")


def test_of_backend(tmp_path: Path) -> None:
    """The store is where the backend or the history is, in a file of its own."""
    with override_settings(WEBSOCKET_BACKEND=f"local://{tmp_path}?namespace=one"):
        found = present()
        history = histories.store(None, "tests")
        assert isinstance(found, SQLitePresence)
        assert isinstance(history, SQLiteStore)
        assert found.path != history.path
        assert Path(found.path).parent == Path(history.path).parent
        with override_settings(WEBSOCKET_HISTORY_STORE="memory://"):
            assert isinstance(present(), MemoryPresence)


def test_once() -> None:
    """A process has one store, until the settings change or a test wants a fresh one."""
    with override_settings(WEBSOCKET_BACKEND="memory://"):
        first = present()
        assert isinstance(first, MemoryPresence)
        assert present() is first
        histories.store(None, "tests")
        histories.reset()
        assert present() is first
        stores.reset()
        second = present()
        assert second is not first
    with override_settings(WEBSOCKET_HISTORY_STORE="memory://"):
        assert present() is not second


def test_after_fork() -> None:
    """A forked child has a store, even if another thread was making it."""
    with override_settings(WEBSOCKET_HISTORY_STORE="memory://"):
        with stores._chosen._making:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    present().enter(GROUP, entries("ann"), HERE)
                    assert keys(present().read(GROUP)) == ["ann"]
                    status = 0
                finally:
                    os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert keys(present().read(GROUP)) == []


def test_own_backend() -> None:
    """A project's own backend has no store."""
    with (
        override_settings(WEBSOCKET_BACKEND="mysite.nats.NatsBackend://127.0.0.1"),
        pytest.raises(ImproperlyConfigured, match=r"NatsBackend:// cannot keep who is .*_STORE"),
    ):
        present()


@pytest.mark.parametrize("url", ["", "local:///nowhere", "memory://"])
def test_imports(url: str) -> None:
    """Only the store that the URL names is imported, and no history."""
    program = f"""
import sys
from django.conf import settings
settings.configure(WEBSOCKET_BACKEND="redis://127.0.0.1:1", WEBSOCKET_HISTORY_STORE={url!r})
import django_wsmux.presence.stores as stores
assert not any("sqlite" in name for name in sys.modules)
if {url!r}:
    stores.store(None, "")
modules = "memory", "postgresql", "redis", "sqlite"
rooms = "history", "presence"
names = [f"{{room}}.{{module}}" for room in rooms for module in modules]
print(*(name for name in names if f"django_wsmux.{{name}}" in sys.modules))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    expected = {"": "", "local:///nowhere": "presence.sqlite", "memory://": "presence.memory"}[url]
    assert (result.stdout.strip(), result.stderr) == (expected, "")
