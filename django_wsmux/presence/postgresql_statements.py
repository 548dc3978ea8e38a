"""The statements of ``presence.postgresql``.

Parameters and results are text; names, keys and infos are hexadecimal digits where they are
parameters. Statements run in this order of locks: the rows of processes by id, then one group,
then its other rows. The ones that lock several groups wait for none of them. So there are no
deadlocks.

Statements are planned once, while the tables may be small. So they are written in a way that leaves
no choice but to look up each row by the right index: with LATERAL, LIMIT and ANY instead of joins.

A statement that changes a group follows one that locks it, in the same transaction. It changes
nothing, and returns no row, if the group has another incarnation.
"""

# ruff: noqa: S608  # the statements consist of constants
from __future__ import annotations

from typing import Final

from .store import NO_GROUP

__all__ = [
    "BEGIN",
    "CHANGED",
    "DELETE_GROUPS",
    "DELETE_PROCESSES",
    "END",
    "ENTER",
    "EXPIRE",
    "FIND",
    "FORGET",
    "FORGOTTEN",
    "LAYOUT",
    "LEAVE",
    "LOCK",
    "LOCK_OR_INSERT",
    "READ",
    "REMOVED",
    "RENEW",
    "RETURN",
    "SIGN",
]

#: The layout of the rows of a group.
LAYOUT: Final = 1

#: The most rows of dead processes, and groups with old leavings, that one statement handles.
REMOVED: Final = 1_000
FORGOTTEN: Final = 1_000

_NEW_EPOCH: Final = "to_hex((extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"


def _is_alive(seconds: str, incarnation: str = "") -> str:
    """Return the condition for a process ``p``; the clock of another server may be early or late.

    The restart of a server counts as a sign of life of all processes, which could show none before.

    Args:
        seconds: the parameter with the seconds to live.
        incarnation: the present incarnation; left out if the process has it.
    """
    seen = "p.seen"
    if incarnation:
        seen = f"""CASE WHEN p.incarnation = {incarnation} THEN p.seen
            ELSE greatest(p.seen, pg_postmaster_start_time()) END"""
    return f"""(p.incarnation <> ''
        AND abs(extract(epoch FROM clock_timestamp() - {seen})) < {seconds}::float8)"""


# Processes

#: Show a sign of life before entering rows; begin a life if there is none. $1: the namespace. $2:
#: the process. $3: the incarnation. $4: the seconds to live.
SIGN: Final = f"""
WITH living AS MATERIALIZED (
    SELECT id FROM django_wsmux_presentprocess p
    WHERE process = $2::uuid AND incarnation = $3 AND {_is_alive("$4")}
), seen AS (
    UPDATE django_wsmux_presentprocess p SET seen = clock_timestamp() FROM living
    WHERE p.id = living.id AND p.incarnation <> ''
)
INSERT INTO django_wsmux_presentprocess (namespace, process, incarnation, seen)
SELECT $1, $2::uuid, $3, clock_timestamp() WHERE NOT EXISTS (SELECT FROM living)
""".encode()

#: Show a sign of life; return the life. $1: the process. $2: the incarnation. $3: the seconds.
RENEW: Final = f"""
UPDATE django_wsmux_presentprocess p SET seen = clock_timestamp()
WHERE process = $1::uuid AND incarnation = $2 AND {_is_alive("$3")} RETURNING id::text
""".encode()

#: Let all processes of a namespace live on after the server was away; return the groups with rows
#: that did not count any more. $1: the namespace. $2: the seconds. $3: the incarnation.
RETURN: Final = f"""
WITH life AS MATERIALIZED (
    SELECT id, {_is_alive("$2", "$3")} AS is_alive FROM django_wsmux_presentprocess p
    WHERE namespace = $1 AND incarnation <> '' ORDER BY id FOR UPDATE
), seen AS (
    UPDATE django_wsmux_presentprocess p SET seen = clock_timestamp() FROM life
    WHERE p.id = life.id
)
SELECT DISTINCT c."group"::text FROM life, LATERAL (
    SELECT "group" FROM django_wsmux_presentconnection WHERE process = life.id OFFSET 0
) AS c WHERE NOT is_alive
""".encode()

#: End the lives of dead processes of a namespace; return the groups with rows of ended lives. $1:
#: the namespace. $2: the seconds. $3: the incarnation.
END: Final = f"""
WITH dead AS MATERIALIZED (
    SELECT id FROM django_wsmux_presentprocess p
    WHERE namespace = $1 AND incarnation <> '' AND NOT {_is_alive("$2", "$3")}
    ORDER BY id FOR UPDATE SKIP LOCKED
), ended AS (
    UPDATE django_wsmux_presentprocess p SET incarnation = '' FROM dead WHERE p.id = dead.id
)
SELECT DISTINCT c."group"::text FROM (
    SELECT id FROM dead
    UNION SELECT id FROM django_wsmux_presentprocess WHERE namespace = $1 AND incarnation = ''
) AS life, LATERAL (
    SELECT "group" FROM django_wsmux_presentconnection WHERE process = life.id OFFSET 0
) AS c
""".encode()

#: Delete ended lives without rows. $1: the namespace.
DELETE_PROCESSES: Final = b"""
DELETE FROM django_wsmux_presentprocess WHERE id = ANY (ARRAY(
    SELECT p.id FROM django_wsmux_presentprocess p WHERE namespace = $1 AND incarnation = ''
    AND (SELECT 1 FROM django_wsmux_presentconnection c WHERE c.process = p.id LIMIT 1) IS NULL
    FOR UPDATE SKIP LOCKED))
"""

# Groups

#: Lock a group; insert it if there is none. $1: the group. $2: the namespace. $3: the name. $4:
#: the incarnation.
LOCK_OR_INSERT: Final = f"""
INSERT INTO django_wsmux_presentgroup AS g
    (id, namespace, name, layout, incarnation, epoch, number, floor)
VALUES ($1::uuid, $2, decode($3, 'hex'), {LAYOUT}, $4::text, $4::text || '-' || {_NEW_EPOCH}, 0, 0)
ON CONFLICT (id) DO UPDATE SET layout = g.layout WHERE false
""".encode()

#: Lock a group. $1: the group.
LOCK: Final = b"""
SELECT FROM django_wsmux_presentgroup WHERE id = $1::uuid FOR NO KEY UPDATE
"""

#: Incarnation and layout of a group. $1: the group.
FIND: Final = b"""
SELECT incarnation, layout::text FROM django_wsmux_presentgroup WHERE id = $1::uuid
"""

#: Begin a new epoch of a group. $1: the group. $2: the new incarnation. $3: the old one.
BEGIN: Final = f"""
UPDATE django_wsmux_presentgroup SET incarnation = $2::text, epoch = $2::text || '-' || {_NEW_EPOCH}
WHERE id = $1::uuid AND incarnation = $3
""".encode()

# $1: the group. $2: the incarnation.
_GROUP: Final = f"""
grp AS MATERIALIZED (
    SELECT * FROM django_wsmux_presentgroup
    WHERE id = $1::uuid AND incarnation = $2 AND layout <= {LAYOUT}
)"""

# Keys leave whose rows are all in ``gone``, after {changes}. It returns the version and {result}.
_LEAVING: Final = """
leaving AS MATERIALIZED (
    SELECT key AS id, row_number() OVER (ORDER BY min(position)) + {changes} AS step
    FROM gone GROUP BY key HAVING count(*) = (
        SELECT count(*) FROM django_wsmux_presentconnection c WHERE c.key = gone.key)
), deleted AS (
    DELETE FROM django_wsmux_presentkey WHERE id = ANY (ARRAY(SELECT id FROM leaving))
    RETURNING id, name, joined
), remembered AS (
    INSERT INTO django_wsmux_presentleft ("group", number, key, name, joined, moment)
    SELECT grp.id, grp.number + step, d.id, d.name, joined, clock_timestamp()
    FROM grp, deleted d JOIN leaving ON leaving.id = d.id
), total AS (
    SELECT (SELECT count(*) FROM leaving) + {changes} AS number
), counted AS (
    UPDATE django_wsmux_presentgroup g SET number = g.number + total.number FROM grp, total
    WHERE g.id = grp.id AND total.number > 0
)
SELECT CASE WHEN total.number > 0 THEN grp.epoch || '.' || grp.number + total.number ELSE '' END,
    {result}
FROM grp, total
"""

#: Enter rows; return the version, or ``''``, and the life. $3: the process. $4: the seconds to
#: live. $5, $6: connections and their keys. $7, $8, $9: the different keys, their names and infos.
ENTER: Final = f"""
WITH living AS MATERIALIZED (
    SELECT max(id) AS id FROM django_wsmux_presentprocess p
    WHERE process = $3::uuid AND incarnation = $2 AND {_is_alive("$4")} HAVING max(id) IS NOT NULL
), {_GROUP}, entry AS MATERIALIZED (
    SELECT e.* FROM grp, living, unnest($5::uuid[], $6::uuid[])
        WITH ORDINALITY AS e (id, key, position)
), input AS MATERIALIZED (
    SELECT key, decode(i.name, 'hex') AS name, decode(i.info, 'hex') AS info, position
    FROM grp, living, unnest($7::uuid[], $8::text[], $9::text[])
        WITH ORDINALITY AS i (key, name, info, position)
), gone AS MATERIALIZED (
    SELECT c.key, e.position FROM entry e, LATERAL (
        SELECT key FROM django_wsmux_presentconnection WHERE id = e.id LIMIT 1
    ) AS c WHERE c.key <> e.key AND c.key NOT IN (SELECT key FROM input)
), entered AS (
    INSERT INTO django_wsmux_presentconnection AS c (id, "group", key, process)
    SELECT e.id, grp.id, e.key, living.id FROM grp, living, entry e
    ON CONFLICT (id) DO UPDATE SET key = excluded.key, process = excluded.process
    WHERE c.key <> excluded.key OR c.process <> excluded.process
), found AS MATERIALIZED (
    SELECT i.*, k.info AS known, (
        SELECT 1 FROM django_wsmux_presentconnection c JOIN django_wsmux_presentprocess p
        ON p.id = c.process AND {_is_alive("$4", "$2")}
        WHERE c.key = i.key LIMIT 1
    ) IS NULL AS is_new
    FROM input i LEFT JOIN LATERAL (
        SELECT info FROM django_wsmux_presentkey WHERE id = i.key LIMIT 1
    ) AS k ON true
), changes AS MATERIALIZED (
    SELECT *, row_number() OVER (ORDER BY position) AS step FROM found
    WHERE is_new OR known IS DISTINCT FROM info
), joined AS (
    INSERT INTO django_wsmux_presentkey AS k
        (id, "group", name, info, joined, changed, since)
    SELECT key, grp.id, c.name, info, CASE WHEN is_new THEN grp.number + step ELSE 0 END,
        grp.number + step, clock_timestamp() FROM grp, changes c
    ON CONFLICT (id) DO UPDATE SET info = excluded.info, changed = excluded.changed,
        since = CASE WHEN excluded.joined > 0 THEN excluded.since ELSE k.since END
), {_LEAVING.format(changes="(SELECT count(*) FROM changes)", result="living.id::text").rstrip()}
    , living
""".encode()

#: Remove rows of a process; return the version, or ``''``, and the number of rows. $3: the
#: process. $4: connections.
LEAVE: Final = f"""
WITH {_GROUP}, removed AS (
    DELETE FROM django_wsmux_presentconnection
    WHERE EXISTS (SELECT FROM grp) AND id = ANY ($4::uuid[]) AND process + 0 = ANY (
        ARRAY(SELECT id FROM django_wsmux_presentprocess WHERE process = $3::uuid))
    RETURNING id, key
), gone AS MATERIALIZED (
    SELECT r.key, e.position FROM removed r
    JOIN unnest($4) WITH ORDINALITY AS e (id, position) ON e.id = r.id
), {_LEAVING.format(changes=0, result="(SELECT count(*) FROM gone)::text")}
""".encode()

#: Remove rows of ended lives, as LEAVE does.
EXPIRE: Final = f"""
WITH {_GROUP}, ended AS (
    SELECT id FROM django_wsmux_presentconnection
    WHERE "group" = (SELECT id FROM grp) AND process = ANY (ARRAY(
        SELECT p.id FROM django_wsmux_presentprocess p JOIN grp USING (namespace)
        WHERE p.incarnation = ''))
    LIMIT {REMOVED}
), gone AS (
    DELETE FROM django_wsmux_presentconnection WHERE id = ANY (ARRAY(SELECT id FROM ended))
    RETURNING key, 0 AS position
), {_LEAVING.format(changes=0, result="(SELECT count(*) FROM gone)::text, encode(grp.name, 'hex')")}
""".encode()

#: Forget old leavings of a namespace; return the groups, and whether none is remembered. $1: the
#: namespace. $2: the seconds for which they are remembered.
FORGET: Final = f"""
WITH old AS MATERIALIZED (
    SELECT l."group", max(l.number) AS number
    FROM django_wsmux_presentleft l JOIN django_wsmux_presentgroup g ON g.id = l."group"
    WHERE l.moment <= (SELECT clock_timestamp() - make_interval(secs => $2::float8))
        AND g.namespace = $1
    GROUP BY l."group" ORDER BY l."group" LIMIT {FORGOTTEN}
), locked AS MATERIALIZED (
    SELECT g.id, old.number FROM django_wsmux_presentgroup g JOIN old ON old."group" = g.id
    ORDER BY g.id FOR NO KEY UPDATE OF g SKIP LOCKED
), forgotten AS (
    DELETE FROM django_wsmux_presentleft l USING locked
    WHERE l."group" = locked.id AND l.number <= locked.number
)
UPDATE django_wsmux_presentgroup g SET floor = locked.number FROM locked WHERE g.id = locked.id
RETURNING g.id::text, (g.number = g.floor)::text
""".encode()

#: Delete groups without keys and without leavings. $1: the groups. If one is used meanwhile, its
#: number grows.
DELETE_GROUPS: Final = b"""
DELETE FROM django_wsmux_presentgroup WHERE id = ANY (ARRAY(
    SELECT g.id FROM django_wsmux_presentgroup g
    WHERE g.id = ANY ($1::uuid[]) AND g.number = g.floor
    AND (SELECT 1 FROM django_wsmux_presentkey k WHERE k."group" = g.id LIMIT 1) IS NULL
    FOR UPDATE SKIP LOCKED))
"""

# Reading

#: The row of a group, and people: a row with the number, the epoch, incarnation, layout and whether
#: the list is whole; rows with the number, the moment, name and info of each person; rows with the
#: number and name of those who left. $1: the group. $2, $3: the epoch and number that the reader
#: knows. $4: the seconds to live.
READ: Final = f"""
WITH grp AS MATERIALIZED (
    SELECT *, epoch <> $2 OR $3::bigint < floor OR $3::bigint > number AS is_whole
    FROM django_wsmux_presentgroup WHERE id = $1::uuid
), dead AS MATERIALIZED (
    SELECT p.id FROM grp JOIN django_wsmux_presentprocess p ON p.namespace = grp.namespace
    WHERE is_whole AND NOT {_is_alive("$4", "grp.incarnation")}
)
SELECT kind::text, number::text, text, first, second FROM (
    SELECT 0 AS kind, number, concat_ws(' ', epoch, incarnation, layout, is_whole) AS text,
        NULL::bytea AS first, NULL::bytea AS second FROM grp
    UNION ALL
    SELECT 1, k.changed, extract(epoch FROM k.since)::text, k.name, k.info
    FROM grp JOIN django_wsmux_presentkey k
    ON k."group" = grp.id AND k.changed > CASE WHEN is_whole THEN 0 ELSE $3::bigint END
    WHERE NOT is_whole OR NOT EXISTS (SELECT FROM dead) OR EXISTS (
        SELECT FROM django_wsmux_presentconnection c
        WHERE c.key = k.id AND c.process + 0 NOT IN (SELECT id FROM dead) OFFSET 0)
    UNION ALL
    SELECT 2, l.number, NULL, l.name, NULL
    FROM grp JOIN django_wsmux_presentleft l ON l."group" = grp.id AND l.number > $3::bigint
    WHERE NOT is_whole AND l.joined <= $3::bigint AND (
        SELECT 1 FROM django_wsmux_presentkey k WHERE k.id = l.key LIMIT 1) IS NULL
) AS found ORDER BY found.kind, found.number
""".encode()

#: The positions of groups that have changed. $1, $2: groups and versions. $3: the incarnation.
CHANGED: Final = f"""
SELECT position::text FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS e
    (id, version, position) LEFT JOIN LATERAL (
        SELECT * FROM django_wsmux_presentgroup WHERE id = e.id LIMIT 1) AS g ON true
WHERE e.version IS DISTINCT FROM CASE WHEN g.id IS NULL THEN '{NO_GROUP}'
    WHEN g.incarnation = $3 THEN g.epoch || '.' || g.number END
""".encode()
