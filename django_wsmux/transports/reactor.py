"""Watches all connections of a process: one epoll descriptor, and one watcher of gevent for it.

A watcher of gevent for each socket costs memory, and a trip through Python for each event. Here
gevent sees one descriptor, and all connections that are readable at a time are handled in one go.
Where there is no epoll, each connection has a watcher.

The kernel forgets a descriptor only when its last copy is closed, and reports its events until
then: ``remove()`` a connection before its descriptor is closed or passed on.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

import gevent
from gevent import monkey

from ..connection.link import Link, is_compiled, readable

__all__ = ["Reactor", "disown", "reactor"]

#: Events that are handled before other watchers of gevent have their turn.
_BATCH: Final = 256

_READ: Final = 1


class Reactor(Protocol):
    """Calls ``Transport._readable()`` of connections whose descriptors are readable."""

    def add(self, link: Any, descriptor: int, /) -> None:
        """Watch a connection; does nothing if it is watched."""

    def remove(self, link: Any, /) -> None:
        """Stop watching a connection; does nothing if it is not watched."""

    def disown(self) -> None:
        """Forget all connections, in a forked child, without a change for the parent."""


class _EpollReactor:
    """The reactor in Python: see ``connection/reactor/reactor.c`` for the one in C."""

    def __init__(self) -> None:
        # gevent.monkey removes it.
        self._epoll = monkey.get_original("select", "epoll")()
        self._links: dict[int, Link] = {}
        self._descriptors: dict[Link, int] = {}

    def add(self, link: Link, descriptor: int, /) -> None:
        """Watch a connection; does nothing if it is watched."""
        if link._is_watched:
            return
        if descriptor in self._links:
            raise ValueError(f"descriptor {descriptor} was closed before it was removed")
        self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP)
        self._links[descriptor] = link
        self._descriptors[link] = descriptor
        link._is_watched = True

    def remove(self, link: Link, /) -> None:
        """Stop watching a connection; does nothing if it is not watched."""
        descriptor = self._descriptors.pop(link, None)
        if descriptor is None:
            return
        link._is_watched = False
        del self._links[descriptor]
        # It fails only if the descriptor was closed, which has removed it.
        with contextlib.suppress(OSError):
            self._epoll.unregister(descriptor)

    def disown(self) -> None:
        """Forget all connections, in a forked child, without a change for the parent."""
        self._epoll.close()
        for link in self._descriptors:
            link._is_watched = False
        self._links.clear()
        self._descriptors.clear()

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return int(self._epoll.fileno())

    def run(self) -> None:
        """Handle the connections that are readable now."""
        if self._epoll.closed:
            return
        found = self._epoll.poll(0, _BATCH)
        # Found by descriptor before any is handled, since that may give descriptors to others.
        links = [self._links.get(descriptor) for descriptor, _ in found]
        for link in links:
            if link is not None and link._is_watched:
                readable(link)


class _Watched:
    """A reactor with the watcher that calls it."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.add: Callable[[Link, int], None] = reactor.add
        self.remove: Callable[[Link], None] = reactor.remove
        # It keeps the loop running, as the watchers of sockets would.
        self._watcher = gevent.get_hub().loop.io(reactor.fileno(), _READ)
        self._watcher.start(reactor.run)

    def disown(self) -> None:
        """Forget all connections, in a forked child, without a change for the parent."""
        self._watcher.stop()
        self._watcher.close()
        self._reactor.disown()


class _Watchers:
    """A watcher of gevent for each connection, where there is no epoll."""

    def __init__(self) -> None:
        self._watchers: dict[Link, Any] = {}

    def add(self, link: Link, descriptor: int, /) -> None:
        """Watch a connection; does nothing if it is watched."""
        if link._is_watched:
            return
        watcher = self._watchers[link] = gevent.get_hub().loop.io(descriptor, _READ)
        link._is_watched = True
        watcher.start(partial(readable, link))

    def remove(self, link: Link, /) -> None:
        """Stop watching a connection; does nothing if it is not watched."""
        watcher = self._watchers.pop(link, None)
        if watcher is not None:
            link._is_watched = False
            watcher.stop()
            watcher.close()

    def disown(self) -> None:
        """Forget all connections, in a forked child, without a change for the parent."""
        for link in list(self._watchers):
            self.remove(link)


_reactor: Reactor | None = None


def reactor() -> Reactor:
    """Return the reactor of this process; the first call makes it."""
    global _reactor
    if _reactor is None:
        _reactor = _make()
    return _reactor


def _make() -> Reactor:
    if not hasattr(select, "EPOLLIN"):
        return _Watchers()
    if is_compiled:
        from ..connection._reactor import Reactor as CompiledReactor

        return _Watched(CompiledReactor())
    return _Watched(_EpollReactor())


def disown() -> None:
    """Leave the connections to the parent, in a forked child."""
    global _reactor
    if _reactor is not None:
        _reactor.disown()
        _reactor = None
