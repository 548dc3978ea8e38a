"""``memory://``: the history of one process, which ends with it; for tests and one process."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Collection
from typing import Final, NamedTuple

from .. import conf
from ..backends import Backend
from ..protocol.positions import epoch_of
from .store import (
    IDLE_SECONDS,
    KEY_SECONDS,
    MAX_KEYS,
    Appended,
    Changed,
    Entry,
    Keep,
    Reading,
    Store,
    Stream,
)

__all__ = ["MemoryStore"]

_MICROSECONDS: Final = 1_000_000

#: Changes after which the store sweeps itself, because no thread does.
_SWEEP: Final = 1000


class _Kept(NamedTuple):
    number: int  # in the whole store
    offset: int
    sent: int
    expires: int
    message: bytes


class _Row:
    """A stream.

    Attributes:
        began: the moment of the epoch.
        used: when the last message was stored, or the epoch began.
        number: the store-wide number of the last change.
        keys: when each key expires.
    """

    def __init__(self, began: int, *, is_forgotten: bool) -> None:
        self.began = self.used = began
        self.is_forgotten = is_forgotten
        self.number = 0
        self.top = 0
        self.bytes = 0
        self.kept: deque[_Kept] = deque()
        self.keys: dict[str, int] = {}

    def drop(self) -> int:
        """Drop the oldest message; return its size."""
        size = len(self.kept.popleft().message)
        self.bytes -= size
        return size


class MemoryStore(Store):
    """A store in a dict; see the module.

    Args:
        url: ``memory://``.
        namespace, backend: as for other stores; not used.
    """

    is_private = True

    def __init__(
        self, url: str = "memory://", *, namespace: str = "", backend: Backend | None = None
    ) -> None:
        self._pid = 0
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._store = secrets.token_hex(4)
        # The dict is ordered by the last change.
        self._rows: dict[str, _Row] = {}
        self._number = 0

    def _enter(self) -> threading.Lock:
        if self._pid != os.getpid():
            self._begin()  # messages of the parent no longer arrive here
        return self._lock

    def append(
        self, stream: Stream, message: bytes, *, key: str = "", key_seconds: float = KEY_SECONDS
    ) -> Appended | None:
        """Number a message and keep it."""
        with self._enter():
            now = _now()
            row = self._rows.get(stream.name)
            if row is None:
                row = _Row(now, is_forgotten=False)
            if key:
                if row.keys.get(key, 0) > now:
                    return None
                row.keys.pop(key, None)
                row.keys[key] = now + int(key_seconds * _MICROSECONDS)
                if len(row.keys) > MAX_KEYS:
                    del row.keys[next(iter(row.keys))]
            self._note_change(stream.name, row)
            row.used = now
            row.top += 1
            expires = now + int(stream.keep.seconds * _MICROSECONDS)
            row.kept.append(_Kept(row.number, row.top, now, expires, message))
            row.bytes += len(message)
            while len(row.kept) > stream.keep.messages or row.bytes > stream.keep.bytes:
                row.drop()
            if not self._number % _SWEEP:
                self._sweep(now)
            return Appended(epoch_of(self._store, row.began), row.top, False)

    def release(self, stream: Stream, keys: Collection[str], seconds: float = KEY_SECONDS) -> None:
        """Let keys expire after at most some seconds."""
        with self._enter():
            row = self._rows.get(stream.name)
            until = _now() + int(seconds * _MICROSECONDS)
            if row is not None:
                for key in row.keys.keys() & set(keys):
                    row.keys[key] = min(row.keys[key], until)

    def read(
        self,
        stream: Stream,
        since: int | None = None,
        limit: int = 0,
        *,
        max_bytes: int = 2**62,
        newest: bool = False,
    ) -> Reading:
        """Return a consistent view of a stream's row and its messages."""
        with self._enter():
            now = _now()
            row = self._rows.get(stream.name)
            if row is None:
                return Reading(self._store, now)
            kept = _within(row, stream.keep, now)
            return Reading(
                self._store,
                now,
                epoch_of(self._store, row.began),
                row.top,
                kept[0].offset if kept else row.top + 1,
                row.is_forgotten,
                () if since is None else _pick(kept, since, limit, max_bytes, newest=newest),
            )

    def changed(self, seen: str) -> tuple[str, list[Changed]]:
        """Return the streams that have changed."""
        with self._enter():
            found = []
            store, _, number = seen.partition(".")
            if seen:
                if store != self._store:
                    return "", []
                for name, row in reversed(self._rows.items()):
                    if row.number <= int(number):
                        break
                    found.append(Changed(name, epoch_of(self._store, row.began), row.top))
            return f"{self._store}.{self._number}", found

    def forget(self, stream: Stream) -> str:
        """Delete the messages of a stream, begin a new epoch, and return it."""
        with self._enter():
            now = _now()
            old = self._rows.get(stream.name)
            row = _Row(now if old is None else max(now, old.began + 1), is_forgotten=True)
            if old is not None:
                row.keys = old.keys
            self._note_change(stream.name, row)
            return epoch_of(self._store, row.began)

    def sweep(self) -> None:
        """Delete expired, idle and excess data."""
        with self._enter():
            self._sweep(_now())

    def _sweep(self, now: int) -> None:
        for name, row in list(self._rows.items()):
            while row.kept and row.kept[0].expires <= now:
                row.drop()
            row.keys = {key: until for key, until in row.keys.items() if until > now}
            is_idle = row.used + IDLE_SECONDS * _MICROSECONDS <= now
            if is_idle and not row.kept and not row.keys:
                del self._rows[name]
        excess = sum(row.bytes for row in self._rows.values())
        excess -= conf.get("WEBSOCKET_HISTORY_BYTES")
        if excess > 0:
            for _, oldest in sorted(
                ((each.number, row) for row in self._rows.values() for each in row.kept),
                key=lambda pair: pair[0],
            ):
                excess -= oldest.drop()
                if excess <= 0:
                    break

    def close(self) -> None:
        """Do nothing: there are no files."""

    def _note_change(self, name: str, row: _Row) -> None:
        self._number += 1
        row.number = self._number
        self._rows.pop(name, None)
        self._rows[name] = row


def _now() -> int:
    return time.time_ns() // 1000


def _within(row: _Row, keep: Keep, now: int) -> list[_Kept]:
    """Return the messages within a reader's limits; the sender's limits may differ."""
    oldest = now - int(keep.seconds * _MICROSECONDS)
    found: list[_Kept] = []
    size = 0
    for each in reversed(row.kept):
        size += len(each.message)
        if len(found) == keep.messages or size > keep.bytes or each.sent <= oldest:
            break
        found.append(each)
    found.reverse()
    return found


def _pick(
    kept: list[_Kept], since: int, limit: int, max_bytes: int, *, newest: bool
) -> tuple[Entry, ...]:
    found: list[Entry] = []
    size = 0
    for each in reversed(kept) if newest else kept:
        if each.offset <= since:
            continue
        if len(found) >= limit or size >= max_bytes:
            break
        size += len(each.message)
        found.append(Entry(each.offset, each.sent / _MICROSECONDS, each.message))
    return tuple(reversed(found)) if newest else tuple(found)
