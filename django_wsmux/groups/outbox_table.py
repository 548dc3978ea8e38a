"""The rows of the outbox.

Django composes each statement once, and the text is cached: composing takes several times as long
as running it. No signals are sent: their receivers might send to groups themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from django.apps import apps
from django.db import DatabaseError, connections, router

__all__ = [
    "MAX_ROWS",
    "Row",
    "delete",
    "discard",
    "exist",
    "groups_of",
    "has_locks",
    "insert",
    "is_locked",
    "is_migrated",
    "lock",
    "select",
]

#: The most rows that are read, and locked, together.
MAX_ROWS: Final = 500

#: The group of rows that cannot be read.
ASIDE: Final = 0

#: Codes of "another transaction holds the lock": PostgreSQL, MySQL, MariaDB, Oracle, SQLite.
_LOCKED: Final = frozenset({"55P03", 3572, 1205, 54, 5})


class Row(NamedTuple):
    """A message to send; see ``models.Outbox``."""

    id: int
    key: str
    envelope: bytes


def _model() -> Any:
    # Groups are imported before models can be loaded.
    return apps.get_model("django_wsmux", "Outbox")


def is_migrated(alias: str) -> bool:
    """Return whether a database has the table, according to the project's routers."""
    return router.allow_migrate_model(alias, _model())


def has_locks(alias: str) -> bool:
    """Return whether the database can lock rows without waiting for other locks."""
    return bool(connections[alias].features.has_select_for_update_nowait)


def can_take(alias: str) -> bool:
    """Return whether ``take()`` works now: statements can be sent together, as psycopg 3 does."""
    connection: Any = connections[alias]
    return (
        connection.vendor == "postgresql"
        and getattr(connection.Database, "__name__", "") == "psycopg"
        and not connection.settings_dict["OPTIONS"].get("server_side_binding")
        and not connection.in_atomic_block
        and bool(connection.get_autocommit())
    )


def take(alias: str, groups: Collection[int]) -> list[Row]:
    """Begin a transaction that deletes rows of some groups, and return them; ordered as above.

    Call ``commit()`` or ``roll_back()`` afterwards, also after an error. Beginning, locking and
    deleting take one round trip.

    Raises:
        DatabaseError: see ``is_locked()``.
    """
    with connections[alias].cursor() as cursor:
        cursor.execute(_take(alias, len(groups)), list(groups))
        cursor.nextset()  # from BEGIN to DELETE
        return sorted(Row(pk, key, bytes(envelope)) for pk, key, envelope in cursor.fetchall())


def commit(alias: str, groups: Collection[int]) -> bool:
    """Commit the transaction of ``take()``; return whether there are rows of some groups then."""
    with connections[alias].cursor() as cursor:
        cursor.execute(f"COMMIT; {_exists(alias, len(groups))}", list(groups))
        cursor.nextset()
        return cursor.fetchone() is not None


def roll_back(alias: str) -> None:
    """Undo ``take()``."""
    connection = connections[alias]
    try:
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")
    except DatabaseError:
        connection.close()  # the server rolls back


def insert(alias: str, group: int, key: str, envelope: bytes) -> None:
    """Insert a row in the current transaction.

    Raises:
        DatabaseError: it could not be inserted.
    """
    connection: Any = connections[alias]
    with connection.cursor() as cursor:
        cursor.execute(_insert(alias), [group, key, connection.Database.Binary(envelope)])


def discard(alias: str, group: int, key: str) -> None:
    """Delete the row of a group with a key."""
    _model().objects.using(alias).filter(group=group, key=key).delete()


def select(alias: str, groups: Collection[int]) -> list[Row]:
    """Return rows of some groups, ordered by id, at most ``MAX_ROWS``."""
    return _rows(alias, _select(alias, len(groups)), groups)


def lock(alias: str, groups: Collection[int]) -> list[Row]:
    """Return the same rows, and lock them until the transaction ends, in the order of their ids.

    Raises:
        DatabaseError: see ``is_locked()``.
    """
    return _rows(alias, _lock(alias, len(groups)), groups)


def _rows(alias: str, sql: str, groups: Collection[int]) -> list[Row]:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, list(groups))
        return [Row(pk, key, _bytes(envelope)) for pk, key, envelope in cursor.fetchall()]


def _bytes(value: Any) -> bytes:
    # Oracle returns a file-like object.
    return bytes(value.read() if hasattr(value, "read") else value)


def is_locked(error: DatabaseError) -> bool:
    """Return whether an error means that another transaction holds a lock."""
    cause = error.__cause__
    first = getattr(cause, "args", ())[:1]
    names = ("sqlstate", "pgcode", "sqlite_errorcode")
    codes = [*(getattr(cause, name, None) for name in names), *first]
    codes += [getattr(each, "code", None) for each in first]
    return any(code in _LOCKED for code in codes)


def exist(alias: str, groups: Collection[int]) -> bool:
    """Return whether there are rows of some groups."""
    with connections[alias].cursor() as cursor:
        cursor.execute(_exists(alias, len(groups)), list(groups))
        return cursor.fetchone() is not None


def delete(alias: str, rows: Sequence[Row]) -> None:
    """Delete rows."""
    with connections[alias].cursor() as cursor:
        cursor.execute(_delete(alias, len(rows)), [row.id for row in rows])


def set_aside(alias: str, rows: Sequence[Row]) -> None:
    """Take rows out of their group, so that they are kept and do not stop the others."""
    ids = [row.id for row in rows]
    _model().objects.using(alias).filter(pk__in=ids).update(group=ASIDE)


def groups_of(alias: str) -> list[int]:
    """Return groups that have rows, at most ``MAX_ROWS``."""
    rows = _model().objects.using(alias).exclude(group=ASIDE)
    ids = rows.order_by().values_list("group", flat=True)
    return list(ids.distinct()[:MAX_ROWS])


# Statements


@cache
def _insert(alias: str) -> str:
    names = ", ".join(_quoted(alias, name) for name in ("group", "key", "envelope"))
    return f"INSERT INTO {_table(alias)} ({names}) VALUES (%s, %s, %s)"  # noqa: S608


@cache
def _select(alias: str, number: int) -> str:
    return _compose(_of(alias, number)[:MAX_ROWS])


@cache
def _lock(alias: str, number: int) -> str:
    rows = _of(alias, number).select_for_update(nowait=True)
    limited = connections[alias].features.supports_select_for_update_with_limit
    return _compose(rows[:MAX_ROWS] if limited else rows)


@cache
def _take(alias: str, number: int) -> str:
    table, pk = _table(alias), _quoted(alias, "id")
    locked = f"{_compose(_of(alias, number).values_list('pk')[:MAX_ROWS])} FOR UPDATE NOWAIT"
    names = ", ".join(_quoted(alias, name) for name in ("id", "key", "envelope"))
    # An array is made once, in the order of the ids; IN could be evaluated for each row.
    return (
        f"BEGIN; DELETE FROM {table} WHERE {pk} = ANY (ARRAY({locked})) "  # noqa: S608
        f"RETURNING {names}"
    )


@cache
def _exists(alias: str, number: int) -> str:
    return _compose(_of(alias, number).order_by().values("pk")[:1])


@cache
def _delete(alias: str, number: int) -> str:
    places = ", ".join(["%s"] * number)
    return f"DELETE FROM {_table(alias)} WHERE {_quoted(alias, 'id')} IN ({places})"  # noqa: S608


def _of(alias: str, number: int) -> Any:
    rows = _model().objects.using(alias).filter(group__in=range(number)).order_by("pk")
    return rows.values_list("pk", "key", "envelope")


def _compose(rows: Any) -> str:
    sql, _ = rows.query.get_compiler(rows.db).as_sql()
    return str(sql)


def _quoted(alias: str, name: str) -> str:
    return str(connections[alias].ops.quote_name(name))


def _table(alias: str) -> str:
    return _quoted(alias, _model()._meta.db_table)
