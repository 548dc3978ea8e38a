"""What the sweep deletes from the SQLite file of a history.

Each function is called with the connection, and leaves no transaction open.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from . import sqlite_statements as sql
from .sqlite_file import pragma, writing
from .sqlite_tables import next_stream, now
from .store import IDLE_SECONDS

__all__ = ["delete_oldest", "keys", "size_after", "streams", "used"]

_IDLE: Final = IDLE_SECONDS * 1_000_000

#: Overhead in bytes of a message of 200 bytes in the file; measured.
_OVERHEAD: Final = 115

#: Streams or messages that are changed before others run.
_SLICE: Final = 100


def streams(connection: sqlite3.Connection) -> bool:
    """Delete expired messages and idle streams; return whether there may be more."""
    moment = now()
    if not connection.execute(sql.IS_DUE, (moment,)).fetchone()[0]:
        return False
    with writing(connection):
        for row in connection.execute(sql.DUE, (moment, _SLICE // 5)).fetchall():
            _sweep(connection, moment, *row)
    return True


def _sweep(
    connection: sqlite3.Connection, moment: int, row: int, stream: int, lifetime: int
) -> None:
    """Sweep one stream, and set the time when it is due again."""
    execute = connection.execute
    ages = execute(sql.AGES, (stream, _SLICE)).fetchall()
    expired = [offset for offset, sent in ages if sent + lifetime <= moment]
    newest, top, used, _ = execute(sql.TOP, (stream,)).fetchone()
    if expired:
        execute(sql.DELETE_EXPIRED, (stream, min(expired[-1], top - 1), moment - lifetime))
    if len(expired) < len(ages):
        due = min(sent for _, sent in ages if sent + lifetime > moment) + lifetime
    elif len(ages) == _SLICE:
        due = moment  # in the next slice
    else:
        due = used + _IDLE
        if due <= moment:
            # The row with the last number stays, so that numbers never decrease.
            if newest < execute(sql.NUMBER).fetchone()[0]:
                for statement in sql.DELETE_STREAM:
                    execute(statement, (row,))
                return
            due = moment + _IDLE
        execute(sql.EMPTY, (newest,))
        # The process that appends the next message must set the time again.
        number = next_stream(connection)
        execute("UPDATE message SET stream = ? WHERE number = ?", (number, newest))
        execute("UPDATE stream SET stream = ? WHERE id = ?", (number, row))
    execute("UPDATE stream SET due = ? WHERE id = ?", (due, row))


def keys(connection: sqlite3.Connection) -> bool:
    """Delete expired keys; return whether there may be more."""
    moment = now()
    found = connection.execute(sql.EXPIRED_KEYS, (moment, _SLICE)).fetchall()
    if found:
        values = [(*each, moment) for each in found]
        with writing(connection):
            connection.executemany(sql.DELETE_KEY_OF_STREAM, values)
    return len(found) == _SLICE


def used(connection: sqlite3.Connection) -> int:
    """Return how many bytes of the file are in use."""
    pages = pragma(connection, "page_count") - pragma(connection, "freelist_count")
    return pages * pragma(connection, "page_size")


def size_after(connection: sqlite3.Connection, last: int) -> tuple[int, int | None]:
    """Return the bytes of some messages after a number, and the last of their numbers."""
    size, count, last = connection.execute(sql.SUM, (last, 100 * _SLICE)).fetchone()
    return size + count * _OVERHEAD, last


def delete_oldest(connection: sqlite3.Connection, excess: int, last: int) -> tuple[int, int | None]:
    """Delete the oldest messages of all streams after a number.

    Args:
        connection: the connection.
        excess: how many bytes to delete.
        last: the number.

    Returns:
        The bytes of the deleted messages, and the last of their numbers; ``None`` if there are no
        more.
    """
    deleted = 0
    with writing(connection):
        rows = connection.execute(sql.OLDEST, (last, _SLICE)).fetchall()
        for number, size, has_newer in rows:
            statement = sql.DELETE if has_newer else sql.EMPTY
            connection.execute(statement, (number,))
            deleted += size + _OVERHEAD
            if deleted >= excess:
                break
    return deleted, rows[-1][0] if rows else None
