"""Whether gevent's monkey-patching is in place.

In a gevent server one view that blocks outside gevent stops every socket of the process, which
shows only under load. Better to say so before the first one opens.
"""

from __future__ import annotations

import sys

__all__ = ["partial_problem", "problem"]

# What a Django project waits in: database drivers, caches, HTTP clients, locks, sleeps.
_MODULES = ("socket", "ssl", "select", "threading", "time")

_REMEDY = (
    "run it with gunicorn -k django_wsmux.worker.WebSocketWorker, which patches by itself, or make "
    '"from gevent import monkey; monkey.patch_all()" the first lines of the program'
)


def _missing() -> tuple[str, ...]:
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return _MODULES
    return tuple(name for name in _MODULES if not monkey.is_module_patched(name))


def problem() -> str | None:
    """Say what is wrong in a process that serves with gevent, or ``None``."""
    if missing := _missing():
        return (
            f"this process serves with gevent, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not monkey-patched, so a view that waits "
            f"would stop all others: {_REMEDY}"
        )
    return None


def partial_problem() -> str | None:
    """Say what is wrong in any process: patched in part is wrong everywhere."""
    return problem() if 0 < len(_missing()) < len(_MODULES) else None
