"""``request.session`` after the handshake, when no middleware saves it any more.

Saving it hours later behind the view's back would bring back what another request has changed
meanwhile, a sign-out included. So a view that changes the session saves it, and is told when it
forgets to.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest

__all__ = ["warn_of_change", "watch"]

logger = logging.getLogger("django_wsmux.sessions")


@cache
def _watched(store: type[Any]) -> type[Any]:
    """Return a session store that knows whether it has been saved since it was changed."""

    def save(self: Any, *args: Any, **kwargs: Any) -> None:
        store.save(self, *args, **kwargs)
        self.modified = False

    return type(store.__name__, (store,), {"save": save, "__module__": store.__module__})


def watch(request: HttpRequest) -> SessionBase | None:
    """From here on nobody saves the session but the view; return it, if there is one."""
    session = getattr(request, "session", None)
    if not isinstance(session, SessionBase):
        return None
    session.modified = False
    # The object is known to others already, so it is its class that changes.
    session.__class__ = _watched(type(session))
    return session


def warn_of_change(session: SessionBase, request: HttpRequest | None) -> None:
    """The view has changed the session and not saved it."""
    session.modified = False
    logger.warning(
        "%r: request.session was changed after the handshake and not saved: call "
        "request.session.save(), as no middleware does once the socket is open",
        request and request.path,
    )
