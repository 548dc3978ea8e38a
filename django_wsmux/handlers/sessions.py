"""``request.session``: a cheap query for the handshake, and a warning about unsaved changes.

Django reads sessions from the database with the ORM, which needs longer to build the query than the
database to answer it: a quarter of a whole handshake. Here the query is built once.

Once the socket is open, no middleware saves the session. Saving it hours later without the view's
knowledge would undo changes of other requests, such as signing out. So a view that changes the
session must save it, and a warning is logged if it does not.
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

from ..logs import get_logger
from ..protocol.environ import wire_path

__all__ = ["DIRECT", "warn_of_change", "watch"]

logger = get_logger("django_wsmux.sessions")


# Databases whose drivers return a text column as ``str``.
_PLAIN_TEXT: Final = frozenset({"mysql", "postgresql", "sqlite"})


@cache
def _query(alias: str, model: type[Model]) -> str:
    """Return the SQL query for a session that has not expired."""
    quote, fields = connections[alias].ops.quote_name, model._meta.concrete_fields
    columns = {field.name: quote(field.column) for field in fields if field.column}
    return (
        f"SELECT {columns['session_data']} FROM {quote(model._meta.db_table)} "  # noqa: S608
        f"WHERE {columns['session_key']} = %s AND {columns['expire_date']} > %s"
    )


class SessionStore(db.SessionStore):
    """Django's own store, with its query as SQL.

    It must have the same name, which Django uses to sign the content of a session.
    """

    def load(self) -> dict[str, Any]:
        """Return the content of the session, as Django's store does."""
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


#: Session stores of Django, and classes that read the same data at less cost.
DIRECT: Final[dict[type[SessionBase], type[SessionBase]]] = {db.SessionStore: SessionStore}


# The classes that _watched() has returned.
_watching: Final[set[type[Any]]] = set()


@cache
def _watched(store: type[Any]) -> type[Any]:
    """Return a subclass of a session store that knows whether changes have been saved."""

    def save(self: Any, *args: Any, **kwargs: Any) -> None:
        store.save(self, *args, **kwargs)
        self.modified = False

    watched = type(store.__name__, (store,), {"save": save, "__module__": store.__module__})
    _watching.add(watched)
    return watched


def watch(request: HttpRequest) -> SessionBase | None:
    """Start watching the session for unsaved changes; return the session, if any."""
    session = getattr(request, "session", None)
    if not isinstance(session, SessionBase):
        return None
    session.modified = False
    store = type(session)
    if store not in _watching:  # refresh_user() creates sessions of that class
        # Others already hold the object, so change its class.
        session.__class__ = _watched(store)
    return session


def warn_of_change(session: SessionBase, request: HttpRequest | None) -> None:
    """Log that the view changed the session and did not save it."""
    session.modified = False
    logger.warning(
        "%s: request.session was changed after the handshake and not saved: call "
        "request.session.save(), since no middleware saves it once the socket is open",
        request and wire_path(request.META),
    )
