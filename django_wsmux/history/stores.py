"""The store of this process, from ``WEBSOCKET_HISTORY_STORE`` or ``WEBSOCKET_BACKEND``."""

from __future__ import annotations

import os
import socket
import threading
from importlib import import_module
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .. import conf
from ..backends import Backend, take_namespace
from .store import Store

__all__ = ["kind_of", "reset", "store", "store_from_url"]

#: Module and class of the store for each URL scheme; imported when it is used.
_KINDS: Final = {
    "memory": "memory.MemoryStore",
    "local": "sqlite.SQLiteStore",
    "redis": "redis.RedisStore",
    "rediss": "redis.RedisStore",
    "redis+unix": "redis.RedisStore",
    "redis+sentinel": "redis.RedisStore",
    "rediss+sentinel": "redis.RedisStore",
    "redis+cluster": "redis.RedisStore",
    "rediss+cluster": "redis.RedisStore",
    "postgres": "postgresql.PostgresStore",
}

# The store, and the arguments that it was made for. The lock is held while it is made.
_made: tuple[tuple[str, str, Backend | None], Store] | None = None
_making = threading.Lock()


def store(backend: Backend | None, namespace: str) -> Store:
    """Return the store of this process; make it at the first call and after a change of settings.

    Args:
        backend: the backend of this process, ``None`` for ``memory://``.
        namespace: names the project.

    Raises:
        ImproperlyConfigured: there is no store for the backend.
    """
    global _made
    url = conf.get("WEBSOCKET_HISTORY_STORE") or conf.get("WEBSOCKET_BACKEND")
    wanted = url, namespace, backend
    made = _made
    if made is None or made[0] != wanted:
        with _making:
            made = _made
            if made is None or made[0] != wanted:
                if made is not None:
                    made[1].close()
                made = _made = wanted, store_from_url(url, namespace, backend)
    return made[1]


def store_from_url(url: str, namespace: str, backend: Backend | None) -> Store:
    """Create the store for a URL. It does not connect yet.

    Args:
        url: as in ``WEBSOCKET_HISTORY_STORE``.
        namespace: names the project; ``?namespace=`` in the URL takes precedence.
        backend: the backend of this process. A store with the same URL publishes through it.

    Raises:
        ImproperlyConfigured: there is no store for this URL.
    """
    kind = kind_of(url)
    if kind is None:
        raise ImproperlyConfigured(
            f"{url.partition('://')[0]}:// cannot keep the history of groups: set "
            f'WEBSOCKET_HISTORY_STORE = "local://" (one machine), "redis://..." or "postgres://"'
        )
    module, _, name = kind.rpartition(".")
    store_class: Any = getattr(import_module(f".{module}", __package__), name)
    url, named = take_namespace(url)
    is_shared = backend is not None and backend.url == url
    made: Store = store_class(
        url,
        namespace=namespace if named is None else named,
        backend=backend if is_shared else None,
    )
    return made


def kind_of(url: str) -> str | None:
    """Return module and class of the store for a URL, or ``None`` if there is none."""
    scheme = url.partition("://")[0]
    if scheme == "local" and not hasattr(socket, "AF_UNIX"):
        # Windows has no unix sockets, so groups stay within the process there.
        scheme = "memory"
    return _KINDS.get(scheme)


def reset() -> None:
    """Close the store; the next call of ``store()`` makes another one."""
    global _made
    with _making:
        if _made is not None:
            _made[1].close()
        _made = None


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in ("WEBSOCKET_HISTORY_STORE", "WEBSOCKET_BACKEND", "WEBSOCKET_NAMESPACE"):
        reset()


def _after_fork() -> None:
    global _making
    _making = threading.Lock()


setting_changed.connect(_forget, dispatch_uid="django_wsmux.history.stores")
if hasattr(os, "register_at_fork"):
    # Windows has no fork.
    os.register_at_fork(after_in_child=_after_fork)
