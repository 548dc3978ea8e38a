"""Makes a forked child leave the sockets and the worker's duties to its parent.

A fork copies the whole process: its descriptors and, under gevent, its greenlets and the watchers
that wake them. Without this module the copy would answer the parent's peers. So the child gives up
all sockets at once. It sends nothing to a peer and runs no view's ``disconnect()``.

A gevent worker of gunicorn is copied too. Its copy must not accept connections, must not end
because its parent is not the arbiter, and must not keep gunicorn's signal handlers: ``terminate()``
of ``multiprocessing`` sends SIGTERM. The copy ends with the greenlet that has forked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any, Final
from weakref import WeakSet

from greenlet import getcurrent, greenlet

from ..connection import registry

__all__ = ["gunicorn_worker", "install", "listeners"]

#: Listening sockets of gevent's own servers; gunicorn's worker knows its own.
listeners: Final[WeakSet[Any]] = WeakSet()


def _disown() -> None:
    """Give up, in a forked child, what the parent keeps using."""
    _reinit_loop()
    sockets = registry.open_sockets | registry.running_views
    registry.open_sockets.clear()
    registry.running_views.clear()
    for websocket in sockets:
        websocket.disown()
    for module in (
        "transports.gevent",
        "transports.io_thread",
        "server.limits",
        "server.dismissal",
    ):
        # A process loads only the modules of the server in use.
        loaded = sys.modules.get(f"django_wsmux.{module}")
        if loaded is not None:
            loaded.disown()
    _silence(listeners)
    worker = gunicorn_worker()
    if worker is not None:
        _silence(worker.sockets)
        _retire(worker, getcurrent())


def _reinit_loop() -> None:
    """Give gevent's loop an epoll of its own before it touches the parent's.

    gevent does so in its own ``fork()``, but not in the original one, which gevent's ``subprocess``
    module calls.
    """
    hub_module = sys.modules.get("gevent.hub")
    hub = hub_module._get_hub() if hub_module is not None else None
    if hub is not None:
        hub.loop.reinit()


def gunicorn_worker() -> Any:
    """Return gunicorn's gevent worker, if this process is a copy of one."""
    ggevent = sys.modules.get("gunicorn.workers.ggevent")
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if ggevent is None or not isinstance(worker, ggevent.GeventWorker):
        return None
    return worker


def _retire(worker: Any, survivor: greenlet) -> None:
    """Take all duties from the copy of a worker; it ends with the greenlet that has forked."""

    def end_with_survivor() -> None:
        # The worker's loop calls this once a second.
        if survivor.dead:
            os._exit(0)

    worker.notify = end_with_survivor
    for number in worker.SIGNALS:
        if getattr(signal.getsignal(number), "__self__", None) is worker:
            # A thread of gevent's pool may not set signals; no view runs there.
            with contextlib.suppress(ValueError):
                signal.signal(number, signal.SIG_DFL)


def _silence(listeners: Iterable[Any]) -> None:
    """Replace each listening socket by a pipe that stays silent.

    The servers keep watching the same descriptors, but never see a connection.
    """
    silent, _ = os.pipe()
    for listener in listeners:
        if listener.fileno() >= 0:
            os.dup2(silent, listener.fileno(), inheritable=False)
    os.close(silent)


@cache
def install() -> None:
    """Make forked children, from now on, give up what their parent keeps using."""
    if hasattr(os, "register_at_fork"):
        # Windows has no fork.
        os.register_at_fork(after_in_child=_disown)
