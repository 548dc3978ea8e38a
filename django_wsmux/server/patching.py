"""Checks that gevent's monkey-patching is in place.

In a gevent server, a view that blocks outside gevent stops every socket of the process. That shows
only under load, so it is reported before the first socket opens.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache

__all__ = ["after_preload", "partial_problem", "problem"]

# Modules in which a Django project waits: database drivers, caches, HTTP clients, locks, sleeps.
_MODULES = ("socket", "ssl", "select", "threading", "time")

_REMEDY = (
    "run it with gunicorn -k django_wsmux.worker.WebSocketWorker, which patches it, or make "
    '"from gevent import monkey; monkey.patch_all()" the first lines of the program'
)


def _missing() -> tuple[str, ...]:
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return _MODULES
    return tuple(name for name in _MODULES if not monkey.is_module_patched(name))


@cache
def is_patched() -> bool:
    """Return whether the process is patched, so that greenlets take turns while views wait."""
    return not _missing()


def problem() -> str | None:
    """Return what is wrong in a process that serves with gevent, or ``None``."""
    if missing := _missing():
        return (
            f"this process serves with gevent, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not monkey-patched, so a view that waits "
            f"would block all others: {_REMEDY}"
        )
    return None


def partial_problem() -> str | None:
    """Return what is wrong in any process, or ``None``: partial patching is always wrong."""
    return problem() if 0 < len(_missing()) < len(_MODULES) else None


def after_preload(callback: Callable[[], object]) -> None:
    """Call ``callback`` in each worker if this is ``gunicorn --preload`` with gevent.

    There the application is loaded before the fork, and gunicorn patches after it (27.0,
    ``ggevent.py``): objects that the application made before, such as thread-local storage, know
    nothing of greenlets. In the worker, the process is patched and ``callback`` repairs that.
    """
    if "gunicorn.workers.ggevent" not in sys.modules or not _missing():
        return

    def in_worker() -> None:
        from gevent import monkey

        monkey.patch_all()
        is_patched.cache_clear()
        callback()

    os.register_at_fork(after_in_child=in_worker)
