"""What is in the SQLite file of a history."""

from __future__ import annotations

import sqlite3
import time
from typing import Final

from .sqlite_file import Layout
from .store import MAX_KEYS

__all__ = ["LAYOUT", "next_stream", "now"]

# Times are microseconds. A message is appended to one table and one index, because each page that a
# transaction changes costs about ten microseconds. message.number orders the messages of all
# streams. message.total is the size of the stream's messages so far. The newest row of a stream
# stays: without a body (NULL), it has only the number of the stream. stream.due is the time at
# which the sweep has to look at the stream. stream.stream is another one after forget(), and when
# all messages have expired, so that processes do not append to what they remember.
_TABLES: Final = """
    CREATE TABLE store (
        id TEXT NOT NULL,
        boot TEXT NOT NULL,
        streams INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE stream (
        id INTEGER PRIMARY KEY,
        name BLOB NOT NULL UNIQUE,
        stream INTEGER NOT NULL UNIQUE,
        began INTEGER NOT NULL,
        is_forgotten INTEGER NOT NULL,
        lifetime INTEGER NOT NULL,
        due INTEGER NOT NULL,
        keys INTEGER NOT NULL
    );
    CREATE INDEX stream_due ON stream (due);
    CREATE TABLE message (
        number INTEGER PRIMARY KEY,
        stream INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        sent INTEGER NOT NULL,
        total INTEGER NOT NULL,
        body BLOB
    );
    CREATE INDEX message_offset ON message (stream, offset, total);
    CREATE TABLE key (
        stream INTEGER NOT NULL,
        key BLOB NOT NULL,
        nth INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        PRIMARY KEY (stream, key)
    ) WITHOUT ROWID;
    CREATE INDEX key_nth ON key (stream, nth);
    CREATE INDEX key_expires ON key (expires);
    CREATE TRIGGER key_stored AFTER INSERT ON key BEGIN
        UPDATE stream SET keys = new.nth WHERE id = new.stream;
        DELETE FROM key WHERE stream = new.stream AND nth <= new.nth - :max_keys;
    END;
"""

LAYOUT: Final = Layout(
    "messages.sqlite3", 2, _TABLES.replace(":max_keys", str(MAX_KEYS)), "a history"
)


def next_stream(connection: sqlite3.Connection) -> int:
    """Return a number that no stream ever had."""
    statement = "UPDATE store SET streams = streams + 1 RETURNING streams"
    number: int = connection.execute(statement).fetchall()[0][0]
    return number


def now() -> int:
    """Return the time in microseconds."""
    return time.time_ns() // 1000
