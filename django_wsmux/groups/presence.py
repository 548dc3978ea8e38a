"""Presence: who is in a group, in all processes.

A socket that is present has a row in a store, which belongs to its process. The process shows signs
of life, and enters its rows again if the store has lost them; a process that shows none for a while
loses its rows. ``watching.py`` tells members what changes.

Rows are entered and removed in batches: calls that arrive while the store is busy with a group
share one call of it. If the store is away, the rows are entered and removed when it is back.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from .. import conf
from ..conf import NO_CONTROLS
from ..connection.registry import slices
from ..exceptions import BackendUnavailable
from ..logs import get_logger
from ..presence.store import LEAVING_SECONDS, Entry, Reading
from ..protocol.events import CannotMove
from ..protocol.v1 import CONNECTION
from . import presence_hooks
from .json_text import dump_json
from .members import Key, full_name, key_of_full_name, name_of
from .presence_jobs import jobs
from .pubsub import members, membership
from .results import Present
from .shared_calls import SharedCalls
from .watching import watching

if TYPE_CHECKING:
    from ..connection.connection import Connection

__all__ = ["Presence", "check_person", "presence"]

logger = get_logger("django_wsmux.presence")

_KEY: Final = re.compile(rf"{NO_CONTROLS}{{1,200}}")

#: The most bytes of the argument ``info``, as JSON.
_MOST_INFO: Final = 4096

#: The order of ``present()``: a store has those first whose ``info`` has not changed.
_SINCE: Final = attrgetter("since")

#: The most rows of one call of the store.
_MANY: Final = 1000

#: Seconds between two signs of life, and between two attempts while the store is away.
_SWEEP: Final = 5.0
_RETRY: Final = 1.0

#: Seconds for which ends of connections are collected.
_COLLECT: Final = 0.25

#: Seconds after a long pause of the process, during which it notes which sockets were closed.
_SETTLE: Final = 0.5


def check_person(key: Any, info: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """Return the arguments of ``Group.presence()`` as texts; ``None`` to watch only.

    Raises:
        TypeError: ``info`` is not a mapping, or cannot be encoded as JSON.
        ValueError: the key is not allowed, or ``info`` is too large.
    """
    if info is not None and not isinstance(info, Mapping):
        raise TypeError(f"info must be a mapping, not {type(info).__name__}")
    text = "null" if info is None else dump_json(info, separators=(",", ":"), allow_nan=False)
    size = len(text.encode())
    if size > _MOST_INFO:
        raise ValueError(
            f"info has {size} bytes as JSON: use at most {_MOST_INFO}, and let the page load the "
            f"rest by the key"
        )
    if key is None:
        return None
    if not _KEY.fullmatch(str(key)):
        raise ValueError(
            f"key {key!r}: use 1 to 200 characters, no control characters or lone surrogates"
        )
    return str(key), text


def _has_history(key: Key) -> bool:
    if not conf.has_history():
        return False
    from .numbered import stream_of

    return stream_of(key) is not None


class Presence:
    """The sockets of this process that are present; see the module.

    It is an observer of ``pubsub.membership``, and has the hooks of ``presence_hooks``.
    """

    def __init__(self) -> None:
        self._calls: SharedCalls[Key, None] = SharedCalls()
        self.opened = watching.opened
        self.missed = watching.missed
        self.hinted = watching.hinted
        self._begin()

    def _begin(self) -> None:
        jobs.begin()
        watching.begin()
        # Held for single steps only: it is also acquired on the hub.
        self._lock = threading.RLock()
        self._process = secrets.token_urlsafe(9)
        self._entered = 0
        # The entry of each socket that is present; those that are to be entered; and the
        # connections whose rows are to be removed, with the time from which on.
        self._own: dict[Key, dict[Connection, Entry]] = {}
        self._new: dict[Key, dict[str, Entry]] = {}
        self._gone: dict[Key, dict[str, float]] = {}
        # The connections that are being entered at this moment, and those that are to be entered
        # again: the ``info`` of another socket with the key may be newer.
        self._entering: set[str] = set()
        self._again: set[str] = set()
        # Groups whose rows are about to change; whether ends of connections will be looked at; and
        # whether the sweep runs.
        self._soon: set[Key] = set()
        self._is_waiting = False
        self._is_sweeping = False

    reset = _begin

    # What a project calls

    def enter(self, key: Key, member: Connection, person: tuple[str, str] | None) -> None:
        """Let a member of a group be present, and watch; see ``Group.presence()``.

        Args:
            key: the group's key.
            member: the socket.
            person: the result of ``check_person()``.

        Raises:
            ImproperlyConfigured: there is no store for the backend.
            ValueError: the group consists of one connection.
        """
        if name_of(key).startswith(CONNECTION):
            raise ValueError("a group of one connection has no presence: it has one member")
        with contextlib.suppress(BackendUnavailable):
            jobs.store()
        with self._lock:
            old = self._own.get(key, {}).get(member)
            if person is not None:
                connection = self._new_id() if old is None else old.connection
                self._add(key, member, Entry(connection, *person))
            elif old is not None:
                self._remove(key, member, time.monotonic())
        watching.watch(key, member)
        if not members.has(key, member):
            # With threads, it may have left meanwhile.
            self.left(key, member, is_last=False)
        self._start_sweeping()
        self._change(key)

    def present(self, key: Key) -> list[Present]:
        """Return who is present; see ``Group.present()``.

        Raises:
            BackendUnavailable: the store cannot be read.
        """
        self.keep_alive()
        if key in self._new or key in self._gone:
            self._change(key)
        people = jobs.store().read(full_name(key)).joined
        return [
            Present(each.key, json.loads(each.info), datetime.fromtimestamp(each.since, UTC))
            for each in sorted(people, key=_SINCE)
        ]

    # Own entries

    def _new_id(self) -> str:
        """Return an id for the row of a socket.

        Not that of its client: one that returns to another process is there before this one knows.
        """
        self._entered += 1
        return f"{self._process}.{self._entered}"

    def _add(self, key: Key, member: Connection, entry: Entry) -> None:
        """Note that a row is to be entered; the lock must be held."""
        found = self._own.setdefault(key, {})
        found.pop(member, None)  # the newest is the last
        found[member] = entry
        self._new.setdefault(key, {})[entry.connection] = entry
        self._again.discard(entry.connection)
        gone = self._gone.get(key, {})
        gone.pop(entry.connection, None)
        if not gone:
            self._gone.pop(key, None)

    def _remove(self, key: Key, member: Connection, due: float | None) -> None:
        """Note that a row is to be removed; the lock must be held.

        Args:
            key: the group's key.
            member: the socket.
            due: when, by ``time.monotonic()``; ``None`` if another process has the row.
        """
        found = self._own.get(key, {})
        entry = found.pop(member, None)
        if entry is None:
            return
        if not found:
            del self._own[key]
        entering = self._new.get(key, {})
        entering.pop(entry.connection, None)
        if not entering:
            self._new.pop(key, None)
        self._again.discard(entry.connection)
        if due is not None:
            self._gone.setdefault(key, {})[entry.connection] = due

    # pubsub.Observer

    def joined(self, key: Key, member: Connection, *, is_first: bool) -> None:
        """Do nothing: joining alone does not make a member present."""

    def left(self, key: Key, member: Connection, *, is_last: bool) -> None:
        """Let a socket leave: at once if it stays open, later if its connection has ended."""
        was_watcher = watching.forget(key, member)
        # Its client drops the list. In a group with a history, it is told anyway.
        if was_watcher and not (member.closed or member.has_moved or _has_history(key)):
            member.hooks.group_left(member, name_of(key))
        if member not in self._own.get(key, ()):
            return
        now = time.monotonic()
        due = None if member.has_moved else now + LEAVING_SECONDS if member.closed else now
        with self._lock:
            self._remove(key, member, due)
        if due == now:
            self._change_soon(key)
        elif due is not None:
            self._await_leaving(LEAVING_SECONDS)

    def _await_leaving(self, seconds: float) -> None:
        if presence_hooks.is_manual:
            return  # expire() is called instead
        with self._lock:
            if self._is_waiting:
                return
            self._is_waiting = True
        if not jobs.later(seconds, self._let_leave):
            self._is_waiting = False  # the sweep does it

    def _let_leave(self) -> None:
        """Remove the rows of connections that ended some time ago."""
        with self._lock:
            self._is_waiting = False
        for key in self._due():
            self._change(key)
        with self._lock:
            dues = [due for found in self._gone.values() for due in found.values()]
        if dues and not jobs.is_away:
            self._await_leaving(max(min(dues) - time.monotonic(), 0.0) + _COLLECT)

    def _due(self) -> list[Key]:
        """Return the groups with rows that are to be entered or removed now."""
        now = time.monotonic()
        with self._lock:
            gone = [key for key, found in self._gone.items() if min(found.values()) <= now]
            return [*dict.fromkeys([*self._new, *gone])]

    # The store

    def _change_soon(self, key: Key) -> None:
        """Do ``_change()`` soon; never waits."""
        with self._lock:
            if key in self._soon:
                return
            self._soon.add(key)
        if not jobs.later(0, partial(self._change_now, key)):
            self._soon.discard(key)  # the sweep does it

    def _change_now(self, key: Key) -> None:
        self._soon.discard(key)
        self._change(key)

    def _change(self, key: Key) -> None:
        """Enter and remove the rows of a group that are due, unless the store is away."""
        if not jobs.is_away:
            self._calls.call(key, partial(self._apply, key))

    def _change_late(self, key: Key) -> None:
        """Do ``_change()``; log what it raises, which must not hold up other groups."""
        try:
            self._change(key)
        except Exception:
            logger.exception("who is present in %r could not be stored", full_name(key))

    def _apply(self, key: Key) -> None:
        now, name = time.monotonic(), full_name(key)
        with self._lock:
            entering = [*self._new.pop(key, {}).values()]
            gone = self._gone.get(key, {})
            leaving = [connection for connection, due in gone.items() if due <= now]
            for connection in leaving:
                del gone[connection]
            if not gone:
                self._gone.pop(key, None)
            self._entering.update(each.connection for each in entering)
            again = self._again & {each.connection for each in entering}
            self._again -= again
        try:
            store, version = jobs.store(), ""
            if again:
                entering = self._with_newest_info(entering, again, store.read(name))
            for entries in slices(entering, _MANY):
                version = store.enter(name, entries, self._process) or version
            for connections in slices(leaving, _MANY):
                version = store.leave(name, connections, self._process) or version
        except BaseException as error:
            self._put_back(key, entering, leaving, again)
            if not isinstance(error, BackendUnavailable):
                raise  # the view was interrupted, perhaps: the sweep goes on
            jobs.note_failure(error)
        else:
            if entering or leaving:
                jobs.note_success()
            if version:
                watching.announce(key, version)
        finally:
            with self._lock:
                self._entering.difference_update(each.connection for each in entering)

    def _with_newest_info(
        self, entering: Sequence[Entry], again: Collection[str], reading: Reading
    ) -> list[Entry]:
        """Return entries, first those that are entered again, which change no ``info``."""
        infos = {each.key: each.info for each in reading.joined}
        found = [
            each._replace(info=infos.get(each.key, each.info))
            for each in entering
            if each.connection in again
        ]
        return found + [each for each in entering if each.connection not in again]

    def _put_back(
        self,
        key: Key,
        entering: Sequence[Entry],
        leaving: Sequence[str],
        again: Collection[str],
    ) -> None:
        """Note that rows are still to be entered and removed."""
        with self._lock:
            wanted = {each.connection for each in self._own.get(key, {}).values()}
            for entry in entering:
                if entry.connection in wanted and entry.connection not in self._new.get(key, ()):
                    self._new.setdefault(key, {})[entry.connection] = entry
                    self._again |= {entry.connection} & {*again}
            for connection in leaving:
                self._gone.setdefault(key, {}).setdefault(connection, 0.0)

    def _enter_all(self) -> None:
        """Note that all rows are to be entered again."""
        with self._lock:
            for key, found in self._own.items():
                entering = self._new.setdefault(key, {})
                for entry in found.values():
                    if entry.connection not in entering:
                        entering[entry.connection] = entry
                        self._again.add(entry.connection)

    # The sweep

    def _start_sweeping(self) -> None:
        if presence_hooks.is_manual:
            return
        with self._lock:
            if self._is_sweeping:
                return
            self._is_sweeping = True
        if not jobs.later(_SWEEP, self._sweep):
            self._is_sweeping = False  # the next call of presence() tries again

    def _sweep(self) -> None:
        """Show a sign of life, and look for changes; then again after a while."""
        try:
            self._look()
        except BackendUnavailable as error:
            jobs.note_failure(error)
        except Exception:
            logger.exception("the sweep of presence has failed")
        with self._lock:
            is_idle = not (self._own or self._new or self._gone) and watching.is_idle
            self._is_sweeping = not is_idle
        if not is_idle and not jobs.later(_RETRY if jobs.is_away else _SWEEP, self._sweep):
            self._is_sweeping = False

    def _look(self) -> None:
        store = jobs.store()
        # Rows of connections that have ended count until they are removed, too.
        if (self._own or self._gone) and not store.renew(self._process):
            # Sockets whose end was not noticed during a long pause are not entered.
            time.sleep(_SETTLE)
            self._enter_all()
        expired = store.expire()
        jobs.note_success()
        for key in self._due():
            self._change_late(key)
        for name, version in expired:
            watching.announce(key_of_full_name(name), version)
        watching.check(store)

    # Sockets that move

    def state_of(self, key: Key, member: Connection) -> list[Any] | None:
        """Return the presence of a member as values of JSON; ``None`` if it has none.

        Raises:
            CannotMove: its row is being entered.
        """
        entry, told = self._own.get(key, {}).get(member), watching.told(key, member)
        if entry is not None and entry.connection in self._entering:
            raise CannotMove("it is being entered as present in a group")
        if entry is None and told is None:
            return None
        return [None if entry is None else list(entry), told]

    def restore(self, key: Key, member: Connection, state: Sequence[Any]) -> None:
        """Continue the presence of a member from another process; never waits.

        Args:
            key: the group's key.
            member: the socket, which has joined the group.
            state: the result of ``state_of()``.
        """
        entry, told = state
        if entry is not None:
            with self._lock:
                self._add(key, member, Entry(*entry))
                self._again.add(entry[0])
        if told is not None:
            watching.restore(key, member, told)
        if not members.has(key, member):
            self.left(key, member, is_last=False)
        self._start_sweeping()
        if entry is not None:
            self._change_soon(key)

    # Tests

    def keep_alive(self) -> None:
        """Show a sign of life under a test's client, where no sweep does."""
        if not (presence_hooks.is_manual and (self._own or self._gone)):
            return
        try:
            is_known = jobs.store().renew(self._process)
        except BackendUnavailable as error:
            jobs.note_failure(error)
            return
        if not is_known:
            self._enter_all()
            for key in self._due():
                self._change(key)

    def take_turn(self) -> None:
        """Do what is due now, under a test's client."""
        self.keep_alive()
        jobs.run_waiting()

    def expire(self) -> None:
        """Let all connections that have ended leave now."""
        with self._lock:
            for found in self._gone.values():
                for connection in found:
                    found[connection] = 0.0
        for key in self._due():
            self._change(key)


#: The presence of this process. This module is imported when presence is first used.
presence: Final = Presence()
membership.append(presence)
presence_hooks.install(presence)

if hasattr(os, "register_at_fork"):
    # Windows has no fork.
    os.register_at_fork(after_in_child=presence.reset)
