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

__all__ = ["warn_if_unsaved", "watch"]

logger = logging.getLogger("django_wsmux.sessions")


@cache
def _watched(store: type[Any]) -> type[Any]:
    """Return a session store that knows whether it has been saved since it was changed."""

    def save(self: Any, *args: Any, **kwargs: Any) -> None:
        store.save(self, *args, **kwargs)
        self.modified = False

    return type(store.__name__, (store,), {"save": save, "__module__": store.__module__})


def watch(request: HttpRequest) -> None:
    """From here on nobody saves the session but the view."""
    session = getattr(request, "session", None)
    if isinstance(session, SessionBase):
        session.modified = False
        # The object is known to others already, so it is its class that changes.
        session.__class__ = _watched(type(session))


def warn_if_unsaved(request: HttpRequest) -> None:
    """Say so when the view has changed the session and not saved it."""
    session = request.__dict__.get("session")
    if session is not None and session.modified:
        session.modified = False
        logger.warning(
            "%s: request.session was changed after the handshake and not saved: call "
            "request.session.save(), as no middleware does once the socket is open",
            request.path,
        )
