"""The statements of the store in a SQLite file; ``sqlite_tables`` describes its tables."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ADD",
    "ADD_KEY",
    "AGES",
    "APPEND",
    "BEGIN",
    "CHANGED",
    "DELETE",
    "DELETE_BEFORE",
    "DELETE_EXPIRED",
    "DELETE_KEY",
    "DELETE_KEY_OF_STREAM",
    "DELETE_STREAM",
    "DUE",
    "EMPTY",
    "ENTRIES",
    "EXPIRED_KEYS",
    "FIRST",
    "FORGET",
    "IS_DUE",
    "NAME",
    "NEWEST_FIRST",
    "NUMBER",
    "OLDEST",
    "OLDEST_FIRST",
    "RELEASE_KEY",
    "ROW",
    "SET_LIFETIME",
    "STREAM",
    "SUM",
    "TOP",
]

APPEND: Final = """
    INSERT OR IGNORE INTO message (stream, offset, sent, total, body)
    VALUES (
        ?1,
        (SELECT max(offset) + 1 FROM message WHERE stream = ?1),
        ?2,
        (SELECT total FROM message WHERE stream = ?1 ORDER BY offset DESC LIMIT 1) + ?3,
        ?4
    )
    RETURNING offset, total
"""
# A row without a message, before the first one of an epoch.
BEGIN: Final = "INSERT INTO message (stream, offset, sent, total) VALUES (?, 0, ?, 0)"
STREAM: Final = "SELECT stream, began, lifetime, due FROM stream WHERE name = ?"
ADD: Final = """
    INSERT INTO stream (name, stream, began, is_forgotten, lifetime, due, keys)
    VALUES (?, ?, ?, ?, ?, ?, 0)
"""
SET_LIFETIME: Final = "UPDATE stream SET lifetime = ?, due = min(due, ?) WHERE name = ?"
FORGET: Final = "UPDATE stream SET stream = ?, began = ?, is_forgotten = true WHERE name = ?"
ADD_KEY: Final = """
    INSERT OR IGNORE INTO key (stream, key, nth, expires)
    SELECT id, ?, keys + 1, ? FROM stream WHERE name = ?
"""
TOP: Final = """
    SELECT number, offset, sent, total FROM message WHERE stream = ? ORDER BY offset DESC LIMIT 1
"""
# The oldest message within the limits, and the size of all messages before it.
FIRST: Final = """
    SELECT offset, total - length(body) FROM message
    WHERE stream = ? AND offset > ? AND sent > ? AND total - length(body) >= ?
    ORDER BY offset LIMIT 1
"""
DELETE_BEFORE: Final = "DELETE FROM message WHERE stream = ? AND offset < ?"
DELETE: Final = "DELETE FROM message WHERE number = ?"
EMPTY: Final = "UPDATE message SET body = NULL WHERE number = ?"
ENTRIES: Final = """
    SELECT offset, sent / 1e6, body FROM message WHERE stream = ? AND offset > ?
    ORDER BY offset {} LIMIT ?
"""
ROW: Final = """
    SELECT s.stream, s.began, s.is_forgotten, m.offset, m.total
    FROM stream AS s JOIN message AS m ON m.stream = s.stream
    WHERE s.name = ? ORDER BY m.offset DESC LIMIT 1
"""
DELETE_KEY: Final = """
    DELETE FROM key
    WHERE stream = (SELECT id FROM stream WHERE name = ?) AND key = ? AND expires <= ?
"""
NUMBER: Final = "SELECT ifnull(max(number), 0) FROM message"
CHANGED: Final = """
    SELECT number, stream, offset FROM message WHERE number > ? ORDER BY number LIMIT ?
"""
NAME: Final = "SELECT name, began FROM stream WHERE stream = ?"
IS_DUE: Final = "SELECT EXISTS (SELECT 1 FROM stream WHERE due <= ?)"
DUE: Final = "SELECT id, stream, lifetime FROM stream WHERE due <= ? ORDER BY due LIMIT ?"
DELETE_STREAM: Final = (
    "DELETE FROM message WHERE stream = (SELECT stream FROM stream WHERE id = ?)",
    "DELETE FROM key WHERE stream = ?",
    "DELETE FROM stream WHERE id = ?",
)
AGES: Final = """
    SELECT offset, sent FROM message WHERE stream = ? AND body IS NOT NULL ORDER BY offset LIMIT ?
"""
DELETE_EXPIRED: Final = "DELETE FROM message WHERE stream = ? AND offset <= ? AND sent <= ?"
RELEASE_KEY: Final = """
    UPDATE key SET expires = ?
    WHERE stream = (SELECT id FROM stream WHERE name = ?) AND key = ? AND expires > ?
"""
EXPIRED_KEYS: Final = "SELECT stream, key FROM key WHERE expires <= ? LIMIT ?"
DELETE_KEY_OF_STREAM: Final = "DELETE FROM key WHERE stream = ? AND key = ? AND expires <= ?"
OLDEST: Final = """
    SELECT number, length(body), EXISTS (
        SELECT 1 FROM message AS newer WHERE newer.stream = m.stream AND newer.offset > m.offset
    )
    FROM message AS m WHERE number > ? AND body IS NOT NULL ORDER BY number LIMIT ?
"""
SUM: Final = """
    SELECT ifnull(sum(length(body)), 0), count(body), max(number)
    FROM (SELECT number, body FROM message WHERE number > ? ORDER BY number LIMIT ?)
"""
OLDEST_FIRST: Final = ENTRIES.format("")
NEWEST_FIRST: Final = ENTRIES.format("DESC")
