"""The choice of a process's store by URL, for histories and for presence."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, Generic, Protocol, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .. import conf
from ..backends import Backend, take_namespace

__all__ = ["ChosenStore"]

#: Settings after whose change a process has another store.
_SETTINGS: Final = frozenset(
    {"WEBSOCKET_HISTORY_STORE", "WEBSOCKET_BACKEND", "WEBSOCKET_NAMESPACE"}
)


class _Closeable(Protocol):
    def close(self) -> None:
        """Close files and connections."""


_Store = TypeVar("_Store", bound=_Closeable)


class ChosenStore(Generic[_Store]):
    """The store of this process, from ``WEBSOCKET_HISTORY_STORE`` or ``WEBSOCKET_BACKEND``.

    Args:
        kinds: module and class of the store for each URL scheme. A module is imported when its
            store is used.
        package: the package of these modules, which has one object of this class.
        duty: what the stores do, for the message about a URL that has no store.
    """

    def __init__(self, kinds: Mapping[str, str], package: str, duty: str) -> None:
        self._kinds = kinds
        self._package = package
        self._duty = duty
        # The store, and the arguments that it was made for. The lock is held while it is made.
        self._made: tuple[tuple[str, str, Backend | None], _Store] | None = None
        self._making = threading.Lock()
        setting_changed.connect(self._forget, dispatch_uid=package)
        if hasattr(os, "register_at_fork"):
            # Windows has no fork.
            os.register_at_fork(after_in_child=self._after_fork)

    def store(self, backend: Backend | None, namespace: str) -> _Store:
        """Return the store; make it at the first call and after a change of settings.

        Args:
            backend: the backend of this process, ``None`` for ``memory://``.
            namespace: names the project.

        Raises:
            ImproperlyConfigured: there is no store for the backend.
        """
        url = conf.get("WEBSOCKET_HISTORY_STORE") or conf.get("WEBSOCKET_BACKEND")
        wanted = url, namespace, backend
        made = self._made
        if made is None or made[0] != wanted:
            with self._making:
                made = self._made
                if made is None or made[0] != wanted:
                    if made is not None:
                        made[1].close()
                    made = self._made = wanted, self.store_from_url(url, namespace, backend)
        return made[1]

    def store_from_url(self, url: str, namespace: str, backend: Backend | None) -> _Store:
        """Create the store for a URL. It does not connect yet.

        Args:
            url: as in ``WEBSOCKET_HISTORY_STORE``.
            namespace: names the project; ``?namespace=`` in the URL takes precedence.
            backend: the backend of this process, which a store with the same URL may use.

        Raises:
            ImproperlyConfigured: there is no store for this URL.
        """
        kind = self.kind_of(url)
        if kind is None:
            raise ImproperlyConfigured(
                f"{url.partition('://')[0]}:// cannot {self._duty}: set "
                f'WEBSOCKET_HISTORY_STORE = "local://" (one machine), "redis://..." or '
                f'"postgres://"'
            )
        module, _, name = kind.rpartition(".")
        store_class: Any = getattr(import_module(f".{module}", self._package), name)
        url, named = take_namespace(url)
        is_shared = backend is not None and backend.url == url
        made: _Store = store_class(
            url,
            namespace=namespace if named is None else named,
            backend=backend if is_shared else None,
        )
        return made

    def kind_of(self, url: str) -> str | None:
        """Return module and class of the store for a URL, or ``None`` if there is none."""
        scheme = url.partition("://")[0]
        if scheme == "local" and not hasattr(socket, "AF_UNIX"):
            # Windows has no unix sockets, so groups stay within the process there.
            scheme = "memory"
        return self._kinds.get(scheme)

    def reset(self) -> None:
        """Close the store; the next call of ``store()`` makes another one."""
        with self._making:
            if self._made is not None:
                self._made[1].close()
            self._made = None

    def _forget(self, *, setting: str, **kwargs: Any) -> None:
        if setting in _SETTINGS:
            self.reset()

    def _after_fork(self) -> None:
        self._making = threading.Lock()
