"""The statements of ``history.postgresql``.

Parameters and results that are not ``bytea`` are text. Every statement locks rows of streams first,
and messages or keys afterwards, so there are no deadlocks.
"""

# ruff: noqa: S608  # the statements consist of constants
from __future__ import annotations

from typing import Final

from ..backends.postgresql import INLINE
from ..protocol.positions import NUMBERED
from .store import IDLE_SECONDS, LAYOUT, MAX_KEYS

__all__ = [
    "APPEND",
    "APPEND_WITH_KEY",
    "BATCH",
    "BEGIN",
    "CHANGED",
    "DELETE",
    "EXPIRED",
    "EXPIRED_KEYS",
    "EXTRA_KEYS",
    "FIND",
    "IDENTIFY",
    "IDLE_ROWS",
    "LEASE",
    "MOST_FOUND",
    "OLDEST",
    "PAGE",
    "READ",
    "READ_NEWEST",
    "RELEASE",
    "SETTINGS",
    "SIZE",
]

#: The most messages that the sweep finds at once, and that one of its statements deletes; senders
#: wait for that statement.
MOST_FOUND: Final = 50_000
BATCH: Final = 1_000

#: The most streams that one statement returns.
PAGE: Final = 10_000

#: Messages beyond a stream's limits that are collected and then deleted together.
_SLACK: Final = 16

#: Seconds for which one process has the lease of the sweep; longer than the time between two
#: sweeps.
_LEASE: Final = 150

#: The transaction, as the tables store it.
_XACT: Final = "pg_current_xact_id()::text::bigint"

_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

#: Settings of the session. Statements are planned once; while a table is small, PostgreSQL would
#: choose to read all of it, and would still do so when it has grown.
SETTINGS: Final = b"""
SELECT set_config('lock_timeout', '1s', false), set_config('jit', 'off', false),
    set_config('plan_cache_mode', 'force_generic_plan', false),
    set_config('enable_seqscan', 'off', false)
"""

#: The incarnation, which changes when committed rows may have been lost; see
#: ``history.postgresql``.
IDENTIFY: Final = b"""
SELECT concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()),
    extract(epoch FROM stats_reset), 'django_wsmux_stream'::regclass::oid)
FROM pg_stat_bgwriter
"""

#: Incarnation and layout of a row. $1: the stream.
FIND: Final = b"""
SELECT incarnation, layout::text FROM django_wsmux_stream WHERE id = $1::uuid
"""


def _epoch(moment: str) -> str:
    """Return the expression for an epoch, see ``protocol.positions.epoch_of``; $1: incarnation."""
    powers = ",".join(str(36**power) for power in range(12, -1, -1))
    return f"""$1::text || '.' || (
        SELECT ltrim(string_agg(substr('0123456789abcdefghijklmnopqrstuvwxyz',
            (({moment}) / power % 36)::integer + 1, 1), '' ORDER BY power DESC), '0')
        FROM unnest('{{{powers}}}'::bigint[]) AS power)"""


_LATER: Final = "greatest(excluded.moment, s.moment + 1)"

#: Begin an epoch, unless another process has; return it. $1: the incarnation. $2: the stream.
#: $3: the namespace. $4: the name. $5: whether the stream is forgotten. $6: otherwise, the
#: incarnation of the row to replace.
BEGIN: Final = f"""
WITH clock AS MATERIALIZED (SELECT {_NOW} AS moment), began AS (
    INSERT INTO django_wsmux_stream AS s (id, namespace, name, layout, incarnation, moment, epoch,
        is_forgotten, top, size, sent, xact)
    SELECT $2::uuid, $3, $4::bytea, {LAYOUT}, $1::text, moment, {_epoch("moment")},
        $5::boolean, 0, 0, clock_timestamp(), {_XACT} FROM clock
    ON CONFLICT (id) DO UPDATE SET layout = {LAYOUT}, incarnation = $1::text, moment = {_LATER},
        epoch = {_epoch(_LATER)}, is_forgotten = excluded.is_forgotten, top = 0, size = 0,
        sent = excluded.sent, xact = excluded.xact
    WHERE s.layout <= {LAYOUT} AND (excluded.is_forgotten OR s.incarnation = $6)
    RETURNING id, moment, epoch
), gone AS (
    DELETE FROM django_wsmux_message m USING began
    WHERE m.stream = began.id AND m.moment <> began.moment
)
SELECT epoch FROM began
""".encode()

# The head of the packet is followed by groups.envelope.numbered(position, message).
_HEAD: Final = f"""$8::bytea || '\\x{NUMBERED:x}'::bytea
        || set_byte('\\x00'::bytea, 0, octet_length(epoch || '-' || top))
        || convert_to(epoch || '-' || top, 'UTF8')"""

#: Number a message, store it, publish it, and delete excess messages; return its number, or no row
#: if the stream has no row of this incarnation and layout. $1: the incarnation. $2: the stream. $3:
#: the message. $4, $5, $6: seconds, messages and bytes to keep. $7: the channel to notify; empty to
#: publish nothing. $8: the head of the packet.
_APPEND: Final = f"""
{{before}} row AS (
    UPDATE django_wsmux_stream SET top = top + 1, size = size + octet_length($3::bytea),
        sent = greatest(sent, clock_timestamp())
    WHERE id = $2::uuid AND incarnation = $1 AND layout <= {LAYOUT} {{condition}}
    RETURNING id, moment, epoch, top, size, sent
), stored AS (
    INSERT INTO django_wsmux_message (stream, moment, number, size, sent, expires, xact, data)
    SELECT id, moment, top, size, sent, sent + make_interval(secs => $4::float8), {_XACT}, $3
    FROM row
), trimmed AS (
    DELETE FROM django_wsmux_message m USING row
    WHERE (row.top % {_SLACK} = 0 OR octet_length($3) > $6::bigint / {_SLACK})
        AND m.stream = row.id AND m.moment = row.moment
        AND m.number > row.top - $5::bigint - {_SLACK**2}
        AND m.number < coalesce((
            SELECT m.number FROM django_wsmux_message m
            WHERE m.stream = row.id AND m.moment = row.moment AND m.number > row.top - $5
                AND m.size - octet_length(m.data) >= row.size - $6
            ORDER BY m.number LIMIT 1), row.top)
), packet AS (
    SELECT *, {_HEAD} AS head FROM row
)
SELECT epoch, top::text, CASE WHEN $7 <> '' AND top IS NOT NULL THEN pg_notify($7, top || ':' ||
    CASE WHEN octet_length(head) + octet_length($3) <= {INLINE}
    THEN translate(encode(head || $3, 'base64'), E'\\n', '')
    ELSE translate(encode(head, 'base64'), E'\\n', '') || ':' || id || ':' || moment END) END
FROM {{source}}
"""

APPEND: Final = _APPEND.format(before="WITH", condition="", source="packet").encode()

#: The same with a key; for a repeated key, return a row without a number. $9: the key. $10: its
#: lifetime in seconds.
APPEND_WITH_KEY: Final = _APPEND.format(
    before=f"""
WITH known AS (
    SELECT FROM django_wsmux_stream
    WHERE id = $2::uuid AND incarnation = $1 AND layout <= {LAYOUT} FOR UPDATE
), key AS (
    INSERT INTO django_wsmux_key AS k (id, stream, expires)
    SELECT $9::uuid, $2, clock_timestamp() + make_interval(secs => $10::float8) FROM known
    ON CONFLICT (id) DO UPDATE SET expires = excluded.expires WHERE k.expires <= clock_timestamp()
    RETURNING id
),""",
    condition="AND EXISTS (SELECT FROM key)",
    source="known LEFT JOIN packet ON true",
).encode()

# $1: the stream. $2, $3, $4: messages, bytes and seconds to keep.
_IS_KEPT: Final = """m.stream = row.id AND m.moment = row.moment AND m.number > row.top - $2::bigint
        AND m.size - octet_length(m.data) >= row.size - $3::bigint
        AND m.sent > clock.moment - make_interval(secs => $4::float8)"""

_READ: Final = f"""
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS moment)
SELECT (extract(epoch FROM clock.moment) * 1000000)::bigint::text, row.incarnation,
    row.layout::text, row.epoch, row.top::text, row.is_forgotten::text,
    first.number::text, found.number::text, extract(epoch FROM found.sent)::text, found.data
FROM clock LEFT JOIN django_wsmux_stream row ON row.id = $1::uuid LEFT JOIN LATERAL (
    SELECT m.number FROM django_wsmux_message m WHERE {_IS_KEPT} ORDER BY m.number LIMIT 1
) AS first ON true LEFT JOIN LATERAL (
    SELECT * FROM (
        SELECT *, coalesce(sum(octet_length(data)) OVER (ORDER BY number {{order}}
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
        FROM (
            SELECT m.number, m.sent, m.data FROM django_wsmux_message m
            WHERE {_IS_KEPT} AND m.number > $5::bigint ORDER BY m.number {{order}} LIMIT $6::bigint
        ) AS limited
    ) AS summed WHERE before < $7::bigint
) AS found ON true
ORDER BY found.number
"""

#: The row of a stream, and messages. $5: the offset before the messages. $6: the most messages. $7:
#: the bytes after which no message follows.
READ: Final = _READ.format(order="ASC").encode()
READ_NEWEST: Final = _READ.format(order="DESC").encode()

_IS_NEW: Final = """xact >= pg_snapshot_xmin($2::pg_snapshot)::text::bigint
        AND NOT pg_visible_in_snapshot(xact::text::xid8, $2)"""

#: The present snapshot, and at most ``PAGE`` streams that changed after another one, by id; streams
#: of other namespaces have no name. $1: the namespace. $2: the other snapshot, or NULL for no
#: streams. $3: the id before the streams. OFFSET makes PostgreSQL look up each of these streams
#: instead of reading all streams.
CHANGED: Final = f"""
WITH changed AS (
    SELECT stream AS id FROM django_wsmux_message WHERE {_IS_NEW} AND stream > $3::uuid
    UNION SELECT id FROM django_wsmux_stream WHERE {_IS_NEW} AND id > $3
    ORDER BY id LIMIT {PAGE}
)
SELECT pg_current_snapshot()::text, changed.id::text, row.name, row.incarnation, row.epoch,
    row.top::text
FROM (VALUES (1)) AS one LEFT JOIN (changed LEFT JOIN LATERAL (
    SELECT * FROM django_wsmux_stream s WHERE s.id = changed.id AND s.namespace = $1 OFFSET 0
) AS row ON true) ON true
ORDER BY changed.id
""".encode()

# The sweep. Data that expires after its start is left to the next sweep.

#: Take or renew the lease of a namespace's sweep, which is a key of no stream; return the time, or
#: no row if another process has the lease. $1: the id. $2: the process.
LEASE: Final = f"""
INSERT INTO django_wsmux_key AS k (id, stream, expires)
VALUES ($1::uuid, $2::uuid, clock_timestamp() + make_interval(secs => {_LEASE}))
ON CONFLICT (id) DO UPDATE SET stream = excluded.stream, expires = excluded.expires
WHERE k.stream = excluded.stream OR k.expires <= clock_timestamp()
RETURNING clock_timestamp()::text
""".encode()

#: Let keys expire sooner. $1: the keys, as an array. $2: their remaining seconds.
RELEASE: Final = b"""
UPDATE django_wsmux_key SET expires = clock_timestamp() + make_interval(secs => $2::float8)
WHERE id = ANY($1::uuid[]) AND expires > clock_timestamp() + make_interval(secs => $2::float8)
"""

#: Delete expired keys. $1: the time.
EXPIRED_KEYS: Final = b"DELETE FROM django_wsmux_key WHERE expires <= $1::timestamptz"

#: Delete the oldest keys of streams that have too many.
EXTRA_KEYS: Final = f"""
DELETE FROM django_wsmux_key WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER (PARTITION BY stream ORDER BY expires DESC) AS number
        FROM django_wsmux_key WHERE stream IN (
            SELECT stream FROM django_wsmux_key GROUP BY stream HAVING count(*) > {MAX_KEYS})
    ) AS numbered WHERE number > {MAX_KEYS})
""".encode()

#: Places and transactions of a namespace's messages that have expired or belong to an earlier
#: epoch, and of messages without a stream. $1: the time. $2: the namespace.
EXPIRED: Final = f"""
SELECT m.ctid::text, m.xact::text FROM django_wsmux_message m
LEFT JOIN django_wsmux_stream s ON s.id = m.stream
WHERE (s.namespace = $2 AND (m.expires <= $1::timestamptz OR m.moment <> s.moment)) OR s.id IS NULL
LIMIT {MOST_FOUND}
""".encode()

#: The size of the messages of a namespace. $1: the namespace.
SIZE: Final = b"""
SELECT coalesce(sum(octet_length(m.data)), 0)::text
FROM django_wsmux_message m JOIN django_wsmux_stream s ON s.id = m.stream WHERE s.namespace = $1
"""

#: Places, transactions and sizes of the oldest messages of a namespace, with $2 bytes in total.
#: $1: the namespace.
OLDEST: Final = f"""
SELECT ctid::text, xact::text, size::text FROM (
    SELECT *, sum(size) OVER (ORDER BY xact ROWS UNBOUNDED PRECEDING) - size AS before FROM (
        SELECT m.ctid, m.xact, octet_length(m.data) AS size
        FROM django_wsmux_message m JOIN django_wsmux_stream s ON s.id = m.stream
        WHERE s.namespace = $1 ORDER BY m.xact LIMIT {MOST_FOUND}
    ) AS oldest
) AS summed WHERE before < $2::bigint
""".encode()

#: Delete messages; if the newest of a stream is among them, mark the stream for CHANGED. Locks the
#: rows of the streams first. $1, $2: places and transactions; a place may have another message now.
DELETE: Final = f"""
WITH old AS MATERIALIZED (
    SELECT ctid AS place, stream, moment, number FROM django_wsmux_message
    WHERE ctid = ANY ($1::tid[]) AND xact = ANY ($2::bigint[])
), marked AS (
    UPDATE django_wsmux_stream s SET xact = {_XACT} FROM old
    WHERE s.id = old.stream AND s.moment = old.moment AND s.top = old.number RETURNING 1
)
DELETE FROM django_wsmux_message WHERE ctid = ANY (
    ARRAY(SELECT place FROM old WHERE (SELECT count(*) FROM marked) >= 0))
""".encode()

#: Delete rows that have been idle, and that no message or key needs. $1: the time.
IDLE_ROWS: Final = f"""
DELETE FROM django_wsmux_stream s
WHERE sent <= $1::timestamptz - make_interval(secs => {IDLE_SECONDS})
    AND NOT EXISTS (SELECT FROM django_wsmux_message m WHERE m.stream = s.id)
    AND NOT EXISTS (SELECT FROM django_wsmux_key k WHERE k.stream = s.id)
""".encode()
