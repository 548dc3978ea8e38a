"""The store of this process, as the settings name it."""

from __future__ import annotations

import socket
from importlib import import_module

from .. import conf
from ..backends import Backend
from .memory import MemoryStore
from .store import Store

__all__ = ["reset", "store", "store_from_url"]

#: Modules and classes of the stores, by the beginning of their URL. Each is imported when used.
_CLASSES = {
    "local": ("sqlite", "SQLiteStore"),
    "postgres": ("postgresql", "PostgresStore"),
    "redis": ("redis", "RedisStore"),
    "valkey": ("redis", "RedisStore"),
}

# The store, and the URL, the namespace and the backend that it was made for.
_present: tuple[Store, tuple[str, str, Backend | None]] | None = None


def store(backend: Backend | None, namespace: str) -> Store:
    """Return the store of ``WEBSOCKET_HISTORY_STORE``, or else where ``WEBSOCKET_BACKEND`` is.

    Args:
        backend: the backend of this process; ``None`` if there are no other processes.
        namespace: names the project.
    """
    global _present
    url = conf.get("WEBSOCKET_HISTORY_STORE") or conf.get("WEBSOCKET_BACKEND")
    made_for = url, namespace, backend
    if _present is None or _present[1] != made_for:
        reset()
        _present = store_from_url(url, namespace, backend), made_for
    return _present[0]


def store_from_url(url: str, namespace: str, backend: Backend | None) -> Store:
    """Return a new store.

    Args:
        url: as in ``WEBSOCKET_HISTORY_STORE``.
        namespace: names the project.
        backend: the backend of this process. A store in the same place publishes through it.
    """
    scheme = url.partition(":")[0].partition("+")[0].removesuffix("ql").removesuffix("s")
    # Windows has no unix sockets, so groups stay within the process there.
    if scheme == "memory" or (scheme == "local" and not hasattr(socket, "AF_UNIX")):
        return MemoryStore()
    module, name = _CLASSES[scheme]
    kind: type[Store] = getattr(import_module(f".{module}", __package__), name)
    is_shared = backend is not None and backend.url == url
    found: Store = kind(url, namespace=namespace, backend=backend if is_shared else None)  # type: ignore[call-arg]
    return found


def reset() -> None:
    """Close the store; the next use makes another one."""
    global _present
    if _present is not None:
        _present[0].close()
    _present = None
