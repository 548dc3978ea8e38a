"""The rows of the outbox: inserting, reading, deleting, and errors of locks."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pytest
from django.db import DatabaseError
from django.test import override_settings

from django_wsmux.groups import outbox_table as table


class Code:
    """What the driver of Oracle passes to its errors.

    Args:
        code: the number of the error.
    """

    def __init__(self, code: int) -> None:
        self.code = code


def error(cause: Exception) -> DatabaseError:
    """Return Django's error for one of a driver."""
    try:
        raise DatabaseError(*cause.args) from cause
    except DatabaseError as found:
        return found


@pytest.mark.django_db
def test_rows() -> None:
    """Rows are read by group, in the order of their ids, and deleted."""
    for number in range(6):
        table.insert("default", number % 3 - 2**63, f"key {number}", bytes([number, 255]))
    groups = sorted(table.groups_of("default"))
    assert groups == [-(2**63), 1 - 2**63, 2 - 2**63]
    rows = table.select("default", groups[:2])
    assert [(row.key, row.envelope) for row in rows] == [
        (f"key {number}", bytes([number, 255])) for number in (0, 1, 3, 4)
    ]
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    table.delete("default", rows)
    assert table.groups_of("default") == groups[2:]
    assert [table.exist("default", [group]) for group in groups] == [False, False, True]


@pytest.mark.django_db
def test_most() -> None:
    """No more than ``MAX_ROWS`` rows are read at once: the oldest ones."""
    for number in range(table.MAX_ROWS + 1):
        table.insert("default", 1, f"{number}", b"")
    rows = table.select("default", [1])
    assert [row.key for row in rows] == [f"{number}" for number in range(table.MAX_ROWS)]


@pytest.mark.parametrize(
    "cause",
    [
        psycopg.errors.LockNotAvailable("could not obtain lock on row"),
        Exception(3572, "Statement aborted because lock(s) could not be acquired immediately"),
        Exception(1205, "Lock wait timeout exceeded; try restarting transaction"),
        Exception(Code(54)),
    ],
)
def test_locked(cause: Exception) -> None:
    """Errors of PostgreSQL, MySQL, MariaDB and Oracle that mean a lock of another transaction."""
    assert table.is_locked(error(cause))


@pytest.mark.parametrize(
    "cause",
    [
        psycopg.errors.InsufficientPrivilege("permission denied"),
        psycopg.OperationalError("the connection is lost"),
        Exception(2006, "MySQL server has gone away"),
        Exception(Code(942)),
        Exception(),
    ],
)
def test_not_locked(cause: Exception) -> None:
    """Other errors do not mean that another transaction holds a lock."""
    assert not table.is_locked(error(cause))


def test_locked_sqlite(tmp_path: Path) -> None:
    """A file of SQLite that another connection writes to is locked."""
    path = tmp_path / "db"
    with sqlite3.connect(path) as one, sqlite3.connect(path, timeout=0) as two:
        one.execute("CREATE TABLE t (n)")
        one.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError) as caught:
            two.execute("BEGIN IMMEDIATE")
    one.close()
    two.close()
    assert table.is_locked(error(caught.value))


class Nowhere:
    """A router that migrates nothing."""

    def allow_migrate(self, *args: object, **hints: object) -> bool:
        """Refuse every model."""
        return False


def test_is_migrated() -> None:
    """Routers decide which databases have the table."""
    assert table.is_migrated("default")
    with override_settings(DATABASE_ROUTERS=["tests.groups.test_outbox_table.Nowhere"]):
        assert not table.is_migrated("default")
