"""The choice of a process's store."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_wsmux.backends import Backend, from_url
from django_wsmux.history import stores
from django_wsmux.history.memory import MemoryStore
from django_wsmux.history.sqlite import SQLiteStore
from django_wsmux.history.store import Store
from tests.support import ROOT

from .contract import fill, stream


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Leave no store to other tests."""
    stores.reset()
    yield
    stores.reset()


def present(backend: Backend | None = None) -> Store:
    """Return the store of this process."""
    return stores.store(backend, "tests")


def test_of_backend(tmp_path: Path) -> None:
    """The store is where the backend is; a setting names another one."""
    with override_settings(WEBSOCKET_BACKEND="memory://"):
        assert isinstance(present(), MemoryStore)
        with override_settings(WEBSOCKET_HISTORY_STORE=f"local://{tmp_path}"):
            found = present()
            assert isinstance(found, SQLiteStore)
            assert found.path.startswith(str(tmp_path))
    with override_settings(WEBSOCKET_BACKEND=f"local://{tmp_path}"):
        assert isinstance(present(from_url(f"local://{tmp_path}")), SQLiteStore)
        with override_settings(WEBSOCKET_HISTORY_STORE="memory://"):
            assert isinstance(present(), MemoryStore)


def test_once() -> None:
    """A process has one store, until the settings change or a test wants a fresh one."""
    first = present()
    assert present() is first
    fill(first, stream(), 1)
    with override_settings(WEBSOCKET_HISTORY={"room.*": {"messages": 1, "seconds": 1}}):
        assert present() is first
    with override_settings(WEBSOCKET_BACKEND="memory://"):
        second = present()
        assert second is not first
        assert second.read(stream()).top == 0
    stores.reset()
    assert present() is not second


def test_of_threads() -> None:
    """Threads that need the store at the same time get the same one."""
    barrier = threading.Barrier(8)
    found: list[Store] = []

    def find() -> None:
        barrier.wait()
        found.append(present())

    threads = [threading.Thread(target=find) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_namespace(tmp_path: Path) -> None:
    """Projects have different files; the URL may name the project."""
    paths = []
    for url, namespace in (
        (f"local://{tmp_path}", "one"),
        (f"local://{tmp_path}", "two"),
        (f"local://{tmp_path}?namespace=one", "two"),
        (f"local://{tmp_path}?queue=1000&namespace=two", "one"),
    ):
        found = stores.store_from_url(url, namespace, None)
        assert isinstance(found, SQLiteStore)
        paths.append(found.path)
    assert paths[0] == paths[2]
    assert paths[1] == paths[3]
    assert len(set(paths)) == 2
    backend = from_url(f"local://{tmp_path}", namespace="one")
    assert paths[0].startswith(backend.place)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "postgres://?using=default"])
def test_of_broker(url: str) -> None:
    """A store with the URL of the backend publishes; another one only keeps messages."""
    backend = from_url(url, namespace="tests")
    with override_settings(WEBSOCKET_BACKEND=url):
        assert present(backend)._publishes  # type: ignore[attr-defined]
        with override_settings(WEBSOCKET_HISTORY_STORE=url):
            assert present(backend)._publishes  # type: ignore[attr-defined]
    with override_settings(WEBSOCKET_BACKEND="local://", WEBSOCKET_HISTORY_STORE=url):
        assert not present(from_url("local://"))._publishes  # type: ignore[attr-defined]


def test_after_fork(tmp_path: Path) -> None:
    """A forked child continues with the same file, even if another thread was making the store."""
    with override_settings(WEBSOCKET_HISTORY_STORE=f"local://{tmp_path}"):
        with stores._chosen._making:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    fill(present(), stream(), 2)
                    status = 0
                finally:
                    os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert present().read(stream()).top == 2


def test_own_backend() -> None:
    """A project's own backend has no store."""
    with (
        override_settings(WEBSOCKET_BACKEND="mysite.nats.NatsBackend://127.0.0.1"),
        pytest.raises(ImproperlyConfigured, match=r"mysite\.nats\.NatsBackend:// .*HISTORY_STORE"),
    ):
        present()


@pytest.mark.parametrize("url", ["", "local:///nowhere", "memory://"])
def test_imports(url: str) -> None:
    """Only the store that the URL names is imported."""
    program = f"""
import sys
from django.conf import settings
settings.configure(WEBSOCKET_BACKEND="redis://127.0.0.1:1", WEBSOCKET_HISTORY_STORE={url!r})
import django_wsmux.history.stores as stores
assert not any("sqlite" in name for name in sys.modules)
if {url!r}:
    stores.store(None, "")
modules = "memory", "postgresql", "redis", "sqlite"
print(*(name for name in modules if f"django_wsmux.history.{{name}}" in sys.modules))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    expected = {"": "", "local:///nowhere": "sqlite", "memory://": "memory"}[url]
    assert (result.stdout.strip(), result.stderr) == (expected, "")
