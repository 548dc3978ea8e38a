"""The tables and the statements of who is present, in a SQLite file."""

from __future__ import annotations

from typing import Final

from ..history.sqlite_file import Layout

__all__ = [
    "ADD_GROUP",
    "ADD_LEFT",
    "ADD_PERSON",
    "ADD_PROCESS",
    "CHANGED",
    "CHANGE_PERSON",
    "DELETE_CONNECTION",
    "DELETE_CONNECTION_OF",
    "DELETE_GROUP",
    "DELETE_LEFT",
    "DELETE_PERSON",
    "DELETE_PROCESSES",
    "DROP_NAME",
    "GROUP",
    "IS_DEAD",
    "IS_DUE",
    "IS_LIVING",
    "IS_PRESENT",
    "JOINED",
    "LAYOUT",
    "LEFT",
    "LIVING",
    "OF_DEAD",
    "OLD_LEFT",
    "PEOPLE",
    "PERSON",
    "PERSON_OF",
    "PURGE",
    "RENEW",
    "SET_CONNECTION",
    "SET_TOP",
    "VERSION",
]

# process.seen and gone.moment are microseconds since the boot of the machine: nothing expires when
# its clock is set. process.name is NULL if the process was dead and continues, as another row. No
# number of a process is used again.
# person.joined, person.changed and gone.number are numbers of versions. A key is in gone once for
# each time that it has left.
_TABLES: Final = """
    CREATE TABLE store (id TEXT NOT NULL, boot TEXT NOT NULL);
    CREATE TABLE process (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT UNIQUE,
        seen INTEGER NOT NULL
    );
    CREATE TABLE room (
        id INTEGER PRIMARY KEY,
        name BLOB NOT NULL UNIQUE,
        epoch TEXT NOT NULL,
        top INTEGER NOT NULL,
        purged INTEGER NOT NULL
    );
    CREATE TABLE person (
        id INTEGER PRIMARY KEY,
        room INTEGER NOT NULL,
        key TEXT NOT NULL,
        info TEXT NOT NULL,
        joined INTEGER NOT NULL,
        changed INTEGER NOT NULL,
        since REAL NOT NULL,
        UNIQUE (room, key)
    );
    CREATE INDEX person_changed ON person (room, changed);
    CREATE TABLE connection (
        room INTEGER NOT NULL,
        id TEXT NOT NULL,
        person INTEGER NOT NULL,
        process INTEGER NOT NULL,
        PRIMARY KEY (room, id)
    ) WITHOUT ROWID;
    CREATE INDEX connection_person ON connection (person, process);
    CREATE INDEX connection_process ON connection (process);
    CREATE TABLE gone (
        room INTEGER NOT NULL,
        number INTEGER NOT NULL,
        key TEXT NOT NULL,
        joined INTEGER NOT NULL,
        moment INTEGER NOT NULL,
        PRIMARY KEY (room, number)
    ) WITHOUT ROWID;
    CREATE INDEX gone_moment ON gone (moment);
"""

LAYOUT: Final = Layout("presence.sqlite3", 1, _TABLES, "presence")

# Processes. The first parameter is the moment before which the processes that are dead were seen.

IS_DEAD: Final = "SELECT EXISTS (SELECT 1 FROM process WHERE seen <= ?)"
RENEW: Final = "UPDATE process SET seen = ?2 WHERE name = ?3 AND seen > ?1 RETURNING id"
DROP_NAME: Final = "UPDATE process SET name = NULL WHERE name = ?"
ADD_PROCESS: Final = "INSERT INTO process (name, seen) VALUES (?, ?)"
DELETE_PROCESSES: Final = """
    DELETE FROM process WHERE seen <= ?
    AND NOT EXISTS (SELECT 1 FROM connection WHERE process = process.id)
"""

# Groups

GROUP: Final = "SELECT id, epoch, top, purged FROM room WHERE name = ?"
ADD_GROUP: Final = "INSERT INTO room (name, epoch, top, purged) VALUES (?, ?, 0, 0)"
SET_TOP: Final = "UPDATE room SET top = ? WHERE id = ?"
VERSION: Final = "SELECT name, epoch, top FROM room WHERE id = ?"
CHANGED: Final = "SELECT name, epoch, top FROM room WHERE name IN ({})"
PURGE: Final = "UPDATE room SET purged = max(purged, ?) WHERE id = ?"
DELETE_GROUP: Final = """
    DELETE FROM room WHERE id = ?1
    AND NOT EXISTS (SELECT 1 FROM person WHERE room = ?1)
    AND NOT EXISTS (SELECT 1 FROM gone WHERE room = ?1)
"""

# People

PERSON: Final = "SELECT id, info FROM person WHERE room = ? AND key = ?"
IS_LIVING: Final = """
    SELECT EXISTS (
        SELECT 1 FROM connection AS c JOIN process AS p ON p.id = c.process
        WHERE c.person = ?2 AND p.seen > ?1
    )
"""
IS_PRESENT: Final = "SELECT EXISTS (SELECT 1 FROM connection WHERE person = ?)"
ADD_PERSON: Final = """
    INSERT INTO person (room, key, info, joined, changed, since) VALUES (?1, ?2, ?3, ?4, ?4, ?5)
"""
CHANGE_PERSON: Final = """
    UPDATE person SET info = ?, changed = ?, since = ifnull(?, since) WHERE id = ?
"""
DELETE_PERSON: Final = "DELETE FROM person WHERE id = ? RETURNING key, joined"
PEOPLE: Final = "SELECT key, info, since FROM person WHERE room = ? ORDER BY changed"
LIVING: Final = """
    SELECT key, info, since FROM person WHERE room = ?2 AND EXISTS (
        SELECT 1 FROM connection AS c JOIN process AS p ON p.id = c.process
        WHERE c.person = person.id AND p.seen > ?1
    )
    ORDER BY changed
"""
JOINED: Final = """
    SELECT key, info, since FROM person WHERE room = ? AND changed > ? ORDER BY changed
"""

# Connections

PERSON_OF: Final = "SELECT person FROM connection WHERE room = ? AND id = ?"
SET_CONNECTION: Final = """
    INSERT OR REPLACE INTO connection (room, id, person, process) VALUES (?, ?, ?, ?)
"""
DELETE_CONNECTION: Final = "DELETE FROM connection WHERE room = ? AND id = ?"
DELETE_CONNECTION_OF: Final = """
    DELETE FROM connection WHERE room = ? AND id = ?
    AND process = (SELECT id FROM process WHERE name = ?) RETURNING person
"""
OF_DEAD: Final = """
    SELECT room, id, person FROM connection
    WHERE process IN (SELECT id FROM process WHERE seen <= ?) LIMIT ?
"""

# Those who have left

ADD_LEFT: Final = "INSERT INTO gone (room, number, key, joined, moment) VALUES (?, ?, ?, ?, ?)"
LEFT: Final = """
    SELECT key FROM gone WHERE room = ?1 AND number > ?2 AND joined <= ?2
    AND NOT EXISTS (SELECT 1 FROM person WHERE room = ?1 AND key = gone.key) ORDER BY number
"""
IS_DUE: Final = "SELECT EXISTS (SELECT 1 FROM gone WHERE moment <= ?)"
OLD_LEFT: Final = """
    SELECT room, number FROM gone WHERE moment <= ? ORDER BY moment, room, number LIMIT ?
"""
DELETE_LEFT: Final = "DELETE FROM gone WHERE room = ? AND number = ?"
