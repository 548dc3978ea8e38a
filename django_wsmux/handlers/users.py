"""``request.user``: a cheap query for the handshake.

Django reads the user with the ORM, which needs longer to build the query than the database to
answer it: a third of a whole handshake. Here the query is built once.

This module only recognizes a user who is signed in as Django does it: with a backend that reads the
user's row, and a session of the user's current password. Django itself decides all other cases.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.contrib import auth
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, Manager, Model
from django.db.models.expressions import Col
from django.db.models.lookups import Exact
from django.db.models.query import QuerySet
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare

__all__ = ["reads_rows", "user_of"]

#: Attribute of a database connection: its functions that convert the columns of users.
_CONVERTERS: Final = "_django_wsmux_user_converters"


class _Query(NamedTuple):
    """The query for a user.

    Attributes:
        sql: the query, with the primary key as its parameter.
        names: the names of the attributes for the columns.
    """

    sql: str
    names: tuple[str, ...]


def user_of(request: HttpRequest) -> Any:
    """Return the user of a request's session, as ``django.contrib.auth.get_user()`` does."""
    user = _signed_in(request.session)
    return auth.get_user(request) if user is None else user


def reads_rows(backend: Any) -> bool:
    """Return whether an authentication backend reads users as Django's ``ModelBackend`` does."""
    from django.contrib.auth.backends import ModelBackend  # its app may not be installed

    return isinstance(backend, ModelBackend) and type(backend).get_user is ModelBackend.get_user


def _signed_in(session: Any) -> Any:
    """Return the user of a session; ``None`` if Django has to decide."""
    given = session.get(auth.HASH_SESSION_KEY)
    user_id = session.get(auth.SESSION_KEY)
    path = session.get(auth.BACKEND_SESSION_KEY)
    if not given or user_id is None or path not in settings.AUTHENTICATION_BACKENDS:
        return None
    if auth.get_user.__module__ != auth.__name__:
        return None  # the project has replaced it
    backend: Any = auth.load_backend(path)
    user = _read(user_id) if reads_rows(backend) else None
    if user is None or not backend.user_can_authenticate(user):
        return None
    # Otherwise an old SECRET_KEY may have signed it, or the password has changed.
    return user if constant_time_compare(given, user.get_session_auth_hash()) else None


def _read(user_id: str) -> Any:
    """Return the user with a primary key; ``None`` if there is none, or if Django must read it."""
    model: Any = auth.get_user_model()
    manager = model._default_manager
    connection = connections[manager.db]
    kind: Any = type(manager)
    query = _query(model, kind, connection.alias)
    if query is None:
        return None
    key = model._meta.pk
    value = key.get_db_prep_value(key.to_python(user_id), connection)
    if isinstance(value, int) and not _is_in_range(value, key, connection):
        return None  # the database would refuse it, and Django does not ask the database
    with connection.cursor() as cursor:
        cursor.execute(query.sql, (value,))
        row = cursor.fetchone()
    if row is None:
        return None
    values = list(row)
    for place, functions, column in _converters(connection, model):
        for function in functions:
            values[place] = function(values[place], column, connection)
    return model.from_db(connection.alias, query.names, values)


def _is_in_range(value: int, key: Field[Any, Any], connection: BaseDatabaseWrapper) -> bool:
    low, high = connection.ops.integer_field_range(key.get_internal_type())
    return (low is None or value >= low) and (high is None or value <= high)


@cache
def _query(model: Any, manager: Any, alias: str) -> _Query | None:
    """Return the query for a user; ``None`` if only the model's own query sets know it."""
    meta = model._meta
    fields = meta.concrete_fields
    is_plain = (
        hasattr(model, "get_session_auth_hash")
        and manager.get_queryset is Manager.get_queryset
        and manager._queryset_class is QuerySet
        and not meta.concrete_model._meta.parents
        and meta.pk in fields
        and meta.pk.get_lookup("exact").__module__ == Exact.__module__
        and all(_is_plain(field) for field in fields)
    )
    if not is_plain:
        return None
    quote = connections[alias].ops.quote_name
    sql = (
        f"SELECT {', '.join(quote(field.column) for field in fields)} "  # noqa: S608
        f"FROM {quote(meta.db_table)} WHERE {quote(meta.pk.column)} = %s"
    )
    return _Query(sql, tuple(field.attname for field in fields))


def _is_plain(field: Any) -> bool:
    """Return whether a query selects the column of a field as it is stored."""
    column = field.get_col(field.model._meta.db_table)
    # The fields of GeoDjango, for example, have their own functions.
    return type(column) is Col and all(
        type(each).select_format.__module__ == Field.__module__
        for each in (field, column.output_field)
    )


def _converters(
    connection: BaseDatabaseWrapper, model: type[Model]
) -> list[tuple[int, list[Callable[..., Any]], Any]]:
    """Return the columns that need converting: place, functions, and column."""
    found: tuple[Any, list[Any]] = getattr(connection, _CONVERTERS, (None, []))
    if found[0] is not model:
        columns = [field.get_col(model._meta.db_table) for field in model._meta.concrete_fields]
        listed = []
        for place, column in enumerate(columns):
            functions = connection.ops.get_db_converters(column)
            functions = functions + column.get_db_converters(connection)
            if functions:
                listed.append((place, functions, column))
        found = model, listed
        setattr(connection, _CONVERTERS, found)
    return found[1]
