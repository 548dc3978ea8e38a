"""``request.session`` of a handshake, read at little cost; and after it, when nobody saves it.

Django's sessions in the database are read by the ORM, which takes more time to put the query
together than the database to answer it: a quarter of a whole handshake. Here it is put together
once.

Saving it hours later behind the view's back would bring back what another request has changed
meanwhile, a sign-out included. So a view that changes the session saves it, and is told when it
forgets to.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from django.contrib.sessions.backends import db
from django.contrib.sessions.backends.base import SessionBase
from django.db import connections, router
from django.db.models import Model
from django.http import HttpRequest
from django.utils import timezone

from .server.environ import wire_path
from .server.logs import get_logger

__all__ = ["read_directly", "warn_of_change", "watch"]

logger = get_logger("django_wsmux.sessions")


# Databases whose drivers give a column of text as the text that it is.
_PLAIN_TEXT: Final = frozenset({"mysql", "postgresql", "sqlite"})


@cache
def _query(alias: str, model: type[Model]) -> str:
    """Return what asks a database for a session that has not expired."""
    quote, fields = connections[alias].ops.quote_name, model._meta.concrete_fields
    columns = {field.name: quote(field.column) for field in fields if field.column}
    return (
        f"SELECT {columns['session_data']} FROM {quote(model._meta.db_table)} "  # noqa: S608
        f"WHERE {columns['session_key']} = %s AND {columns['expire_date']} > %s"
    )


class SessionStore(db.SessionStore):
    """Django's own store, with its query written down.

    It has the same name, by which Django signs what is in a session.
    """

    def load(self) -> dict[str, Any]:
        """Return what the session holds; as Django's store does."""
        connection = connections[router.db_for_read(self.model)]
        if connection.vendor not in _PLAIN_TEXT:
            return super().load()
        now = connection.ops.adapt_datetimefield_value(timezone.now())
        with connection.cursor() as cursor:
            cursor.execute(_query(connection.alias, self.model), (self.session_key, now))
            row = cursor.fetchone()
        if row is None:
            self._session_key = None
            return {}
        return self.decode(row[0])


def read_directly(request: HttpRequest) -> None:
    """Have the session read at less cost, if it is one of Django's own in the database."""
    session = getattr(request, "session", None)
    if type(session) is db.SessionStore:
        # The object is known to others already, so it is its class that changes.
        session.__class__ = SessionStore


# What _watched() has returned.
_watching: Final[set[type[Any]]] = set()


@cache
def _watched(store: type[Any]) -> type[Any]:
    """Return a session store that knows whether it has been saved since it was changed."""

    def save(self: Any, *args: Any, **kwargs: Any) -> None:
        store.save(self, *args, **kwargs)
        self.modified = False

    watched = type(store.__name__, (store,), {"save": save, "__module__": store.__module__})
    _watching.add(watched)
    return watched


def watch(request: HttpRequest) -> SessionBase | None:
    """From here on nobody saves the session but the view; return it, if there is one."""
    session = getattr(request, "session", None)
    if not isinstance(session, SessionBase):
        return None
    session.modified = False
    store = type(session)
    if store not in _watching:  # made anew by refresh_user() it is of that class already
        # The object is known to others already, so it is its class that changes.
        session.__class__ = _watched(store)
    return session


def warn_of_change(session: SessionBase, request: HttpRequest | None) -> None:
    """The view has changed the session and not saved it."""
    session.modified = False
    logger.warning(
        "%s: request.session was changed after the handshake and not saved: call "
        "request.session.save(), since no middleware saves it once the socket is open",
        request and wire_path(request.META),
    )
