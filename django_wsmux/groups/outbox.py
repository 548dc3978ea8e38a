"""The outbox: messages that are written in the sender's transaction and sent after its commit.

``Group.send(..., on_commit=True, stored=True)`` inserts a row into ``django_wsmux_outbox``, in the
database of the transaction. After the commit the process locks the rows of the transaction's
groups, sends them in the order of their ids, deletes them, and looks for more. If the broker is
down, or the process dies, ``sweep()`` in any process sends the rows.

Nothing waits for a lock (``NOWAIT``): a process that finds a locked row leaves its groups to the
process that holds the lock. The holder looks for rows again after it has released the lock, and
sees these rows, because they were committed before. The holder looks only at its own groups, so the
first process tries each of its groups separately. Locks are taken in the order of ids, so two
processes never leave a group to each other.

A message is sent with a key, which the store of the history remembers, so it is stored once, even
if the row could not be deleted. Some databases, such as SQLite, have no row locks: several
processes may send the rows of a group at the same time. Each of them sends all rows in order, so
the process that stores a message first has stored the earlier ones.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from random import SystemRandom
from typing import Final

from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, transaction

from ..connection import guard
from ..connection.counters import count
from ..exceptions import BackendUnavailable
from ..history.store import IDLE_SECONDS
from ..logs import LogLimit, get_logger
from ..protocol.prepared import prepare
from . import outbox_table as table
from .envelope import Envelope, UnreadableEnvelope, excluding, pack, traced, unpack
from .members import Key, full_name, name_of, prefix_of
from .numbered import stream_of
from .pubsub import members, pubsub
from .sequencer import sequencer

__all__ = ["discard", "install", "put", "sweep"]

_random: Final = SystemRandom()

logger = get_logger("django_wsmux.outbox")

#: Seconds after which a process leaves the remaining rows to others, so that no request is delayed
#: for long.
_TURN: Final = 1.0

#: Number of keys after which a process releases them. A process that sweeps does so in each sweep.
_MANY: Final = 500

#: Seconds between two sweeps of a process, on average.
_INTERVAL: Final = 5.0

# For rows that are left to the sweep, and for databases that cannot be swept.
_left: Final = LogLimit()
_failed: Final = LogLimit()
_damaged: Final = LogLimit()


class _Pause:
    """The moment until which messages are left to the sweep, because the backend is unavailable.

    Otherwise each request would wait for it.
    """

    until = 0.0


_pause: Final = _Pause()


class _Locked(Exception):
    """Another process holds rows of the group, and will look for rows again."""


def put(
    key: Key,
    kind: int,
    payload: bytes,
    ids: tuple[str, ...] = (),
    *,
    once: str = "",
    using: str | None = None,
    traceparent: str = "",
) -> None:
    """Write a message to the outbox, and send it after the commit.

    Args:
        key: the group's key.
        kind: the kind of the message.
        payload: the message.
        ids: the clients that do not get it.
        once: a second message with this key is not sent; ``""`` for no key.
        using: alias of the database; ``None`` for the default.
        traceparent: the trace context of the sender; ``""`` if there is none.

    Raises:
        DatabaseError: the row could not be written.
    """
    alias = using or DEFAULT_DB_ALIAS
    fields = excluding(ids)
    if traceparent:
        fields = traced(fields, traceparent)
    envelope = pack(kind, name_of(key), payload, prefix_of(key), fields)
    group = _group_id(key)
    table.insert(alias, group, once or secrets.token_urlsafe(16), envelope)
    batch = _batch(alias)
    batch.groups.add(group)
    # Each message has its own callback: a savepoint that is rolled back drops its callbacks.
    transaction.on_commit(batch.send, using=alias, robust=True)


def discard(key: Key, once: str, *, using: str) -> None:
    """Delete a message that the current transaction has written to the outbox.

    Args:
        key: the group's key.
        once: the key of the message.
        using: alias of the database.
    """
    table.discard(using, _group_id(key), once)


def _group_id(key: Key) -> int:
    text = full_name(key).encode("utf-8", "surrogatepass")
    found = int.from_bytes(blake2b(text, digest_size=8).digest(), "big", signed=True)
    return found or 1  # 0 is ``table.ASIDE``


class _Batch:
    """The messages of one transaction.

    Attributes:
        groups: the ids of their groups.
        is_sent: whether the transaction has committed.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self.groups: set[int] = set()
        self.is_sent = False

    def send(self) -> None:
        """Send all messages; called after the commit, for each of them."""
        if self.is_sent:
            return
        self.is_sent = True
        if time.monotonic() < _pause.until:
            return
        try:
            _drain(self._alias, sorted(self.groups))
        except BackendUnavailable as error:
            _report_left(error)


def _report_left(error: BackendUnavailable) -> None:
    _pause.until = time.monotonic() + _INTERVAL
    suffix = _left.suffix()
    if suffix is not None:
        logger.error("messages wait in the outbox: %s%s", error, suffix)


def _batch(alias: str) -> _Batch:
    """Return the batch of the current transaction."""
    for _, function, *_ in reversed(connections[alias].run_on_commit):
        found = getattr(function, "__self__", None)
        if isinstance(found, _Batch) and not found.is_sent:
            return found
    return _Batch(alias)


def _drain(alias: str, groups: Collection[int]) -> None:
    """Send the rows of some groups, except those that another process will send.

    Raises:
        BackendUnavailable: the remaining rows are left to the sweep.
    """
    try:
        _send_all(alias, groups)
    except _Locked:
        if len(groups) > 1:
            for group in groups:
                with suppress(_Locked):
                    _send_all(alias, (group,))


def _send_all(alias: str, groups: Collection[int]) -> None:
    """Send the rows of some groups.

    Raises:
        _Locked: another process holds some of the rows, and will look for rows again.
        BackendUnavailable: the remaining rows are left to the sweep.
    """
    has_locks = table.has_locks(alias)
    deadline = time.monotonic() + _TURN
    while True:
        if table.can_take(alias):
            has_more = _send_taken(alias, groups)
        elif has_locks:
            number = _send_locked(alias, groups)
            has_more = number == table.MAX_ROWS or table.exist(alias, groups)
        else:
            # Other processes leave no rows to this one.
            has_more = _send_rows(alias, table.select(alias, groups)) == table.MAX_ROWS
        if not has_more or time.monotonic() > deadline:
            return


def _send_taken(alias: str, groups: Collection[int]) -> bool:
    """Send rows in a transaction that has deleted them; return whether there are more.

    Raises:
        BackendUnavailable: the earlier rows have been sent and deleted.
    """
    sent: list[tuple[table.Row, Key]] = []
    try:
        for row in table.take(alias, groups):
            sent.append((row, _send(row)))
        has_more = table.commit(alias, groups)
    except BaseException as error:
        table.roll_back(alias)
        if sent:
            table.delete(alias, [row for row, _ in sent])
            _note_deleted(sent)
        if isinstance(error, UnreadableEnvelope):
            # With a lock, such a row can be set aside.
            return _send_locked(alias, groups) > 0
        if isinstance(error, DatabaseError) and table.is_locked(error):
            raise _Locked from error
        raise
    _note_deleted(sent)
    return has_more


def _note_deleted(sent: list[tuple[table.Row, Key]]) -> None:
    for row, key in sent:
        _deleted.setdefault(key, []).append(row.key)
    if sum(map(len, _deleted.values())) >= _MANY:
        _release()


def _send_locked(alias: str, groups: Collection[int]) -> int:
    with transaction.atomic(using=alias):
        try:
            rows = table.lock(alias, groups)
        except DatabaseError as error:
            if table.is_locked(error):
                raise _Locked from error
            raise
        try:
            return _send_rows(alias, rows)
        except BackendUnavailable as error:
            problem = error  # commit the deletion of the sent rows
    raise problem


def _send_rows(alias: str, rows: list[table.Row]) -> int:
    """Send rows in order, and delete them; return their number.

    Raises:
        BackendUnavailable: the earlier rows have been sent and deleted.
    """
    sent: list[tuple[table.Row, Key]] = []
    damaged: list[table.Row] = []
    try:
        for row in rows:
            try:
                sent.append((row, _send(row)))  # rows before an error count
            except UnreadableEnvelope as error:
                damaged.append(row)
                _report_damaged(row, error)
    finally:
        if damaged:
            table.set_aside(alias, damaged)
        if sent:
            table.delete(alias, [row for row, _ in sent])
            _note_deleted(sent)
    return len(sent) + len(damaged)


def _report_damaged(row: table.Row, error: UnreadableEnvelope) -> None:
    count("outbox_damaged")
    suffix = _damaged.suffix()
    if suffix is not None:
        logger.error(
            "row %s of the outbox cannot be read, and is set aside: %s%s", row.id, error, suffix
        )


def _send(row: table.Row) -> Key:
    """Send a row; return the key of its group."""
    found = unpack(row.envelope)
    key = (found.prefix, found.name) if found.prefix else found.name
    count("group_publishes")
    if stream_of(key) is None:
        _send_unnumbered(key, found)
    else:
        sequencer.send(
            key,
            found.kind,
            found.data,
            found.excluded,
            once=row.key,
            seconds=IDLE_SECONDS,
            traceparent=found.traceparent,
        )
    return key


def _send_unnumbered(key: Key, found: Envelope) -> None:
    """Send a message to a group whose history was removed from the settings meanwhile."""
    message = prepare(found.kind, found.data, found.name, found.traceparent)
    fields = excluding(found.excluded)
    if found.traceparent:
        fields = traced(fields, found.traceparent)
    act = partial(members.deliver, key, message, ids=found.excluded)
    pubsub.publish(key, found.kind, found.data, fields, act)


# Keys of rows that are deleted, by group.
_deleted: dict[Key, list[str]] = {}


def _release() -> None:
    """Let the store forget the keys of deleted rows soon.

    It does not forget them at once: without row locks, another process may still send the rows.
    """
    global _deleted
    found, _deleted = _deleted, {}
    for key, keys in found.items():
        stream = stream_of(key)
        if stream is not None:
            with suppress(BackendUnavailable):  # they expire anyway
                sequencer.store().release(stream, keys)


# The sweep

_pid = 0


def install() -> None:
    """Have this process sweep the outbox once it serves sockets."""
    if _start not in pubsub.starters:
        pubsub.starters.append(_start)


def _start() -> None:
    global _pid
    # Without a backend this process is the only one, and may be a test.
    if _pid == os.getpid() or pubsub.backend() is None:
        return
    _pid = os.getpid()
    threading.Thread(target=_run, name="django_wsmux outbox", daemon=True).start()


def _run() -> None:
    pid = os.getpid()
    while True:
        # Processes that a server starts together sweep at different times.
        time.sleep(_random.uniform(0.5, 1.5) * _INTERVAL)
        if os.getpid() != pid:
            return  # a copy of the greenlet in a forked child
        guard.call(sweep)
        guard.call(_release)
        guard.call(connections.close_all)


def sweep() -> None:
    """Send the rows that remain in the outboxes of all databases."""
    for alias in connections:
        if table.is_migrated(alias):
            try:
                _sweep(alias)
            except BackendUnavailable as error:
                _report_left(error)
                return  # the next sweep tries again
            except DatabaseError as error:
                _report_failure(alias, error)


def _report_failure(alias: str, error: Exception) -> None:
    if isinstance(error, DatabaseError) and table.is_locked(error):
        return  # SQLite; the next sweep tries again
    suffix = _failed.suffix()
    if suffix is not None:
        logger.error("sweeping the outbox of %r failed%s", alias, suffix, exc_info=error)


def _sweep(alias: str) -> None:
    connection = connections[alias]
    if connection.vendor == "sqlite":
        # SQLite would wait where gevent cannot see it. The next sweep tries again.
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout = 0")
    for group in table.groups_of(alias):
        try:
            _send_all(alias, (group,))
        except _Locked:
            pass
        except BackendUnavailable:
            raise
        except Exception as error:
            _report_failure(alias, error)  # other groups may succeed
