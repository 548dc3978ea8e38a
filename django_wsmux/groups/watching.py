"""Tells members who is present in their groups.

The store is the truth: a publication between processes is only a hint that a group has a new
version. A *tick* of a group follows shortly after a hint, or after a new watcher. It reads what has
changed since the version that each watcher was told, and encodes it once for all watchers with the
same version. No list is kept in this process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..connection import fanout, hub_thread
from ..connection.counters import count
from ..exceptions import BackendUnavailable
from ..presence.store import PresenceStore, Reading
from ..protocol import v1
from ..protocol.handshake import V1
from ..protocol.prepared import BARE, PreparedMessage
from .envelope import PRESENCE
from .members import Key, full_name, key_of_full_name, name_of
from .presence_jobs import jobs
from .pubsub import pubsub, report_unreachable

if TYPE_CHECKING:
    from ..connection.connection import Connection

__all__ = ["Watching", "watching"]

#: Seconds for which changes are collected.
_TICK: Final = 0.25

# States of a tick.
_WAITING: Final = 0
_RUNNING: Final = 1
_AGAIN: Final = 2

# Stands for the version of a socket that does not watch.
_ABSENT: Final = object()


class Watching:
    """The watchers of this process; see the module."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start over, in a forked child or in another test."""
        # Held for single steps only: it is also acquired on the hub.
        self._lock = threading.RLock()
        # The version that each watcher was told; ``None`` if it needs the whole list.
        self._watchers: dict[Key, dict[Connection, str | None]] = {}
        # The newest version that was read, by group.
        self._latest: dict[Key, str] = {}
        # The bytes of the newest whole list that was sent, by group.
        self._sizes: dict[Key, int] = {}
        # Groups that may have a newer version.
        self._stale: set[Key] = set()
        self._ticks: dict[Key, int] = {}
        # Groups whose tick has failed, or could not start.
        self._late: set[Key] = set()
        # Groups that were announced to other processes a moment ago, and the newer version.
        self._announced: dict[Key, str] = {}
        self._is_checking = False

    @property
    def is_idle(self) -> bool:
        """Whether there are no watchers."""
        return not self._watchers

    # Watchers

    def watch(self, key: Key, member: Connection) -> None:
        """Send a member the whole list, and changes from then on, if it speaks ``wsmux.v1``."""
        with self._lock:
            self._watchers.setdefault(key, {})[member] = None
        if not member.connecting:
            self._cause(key)

    def forget(self, key: Key, member: Connection) -> bool:
        """Send a member nothing any more; return whether it was a watcher."""
        with self._lock:
            found = self._watchers.get(key)
            if found is None:
                return False
            was_watcher = found.pop(member, _ABSENT) is not _ABSENT
            if not found:
                del self._watchers[key]
                self._latest.pop(key, None)
                self._sizes.pop(key, None)
                self._stale.discard(key)
            return was_watcher

    def told(self, key: Key, member: Connection) -> str | None:
        """Return the version that a member was told; ``""`` for none, ``None`` without watching."""
        version: Any = self._watchers.get(key, {}).get(member, _ABSENT)
        return None if version is _ABSENT else version or ""

    def restore(self, key: Key, member: Connection, told: str) -> None:
        """Continue a member of another process, which has ``told()`` it this version."""
        with self._lock:
            self._watchers.setdefault(key, {})[member] = told or None
            latest = self._latest.setdefault(key, told) if told else None
        if latest != told or not told:
            self._cause(key)
        elif not self._is_checking:
            self._is_checking = jobs.later(_TICK, self._check_arrivals)

    def _check_arrivals(self) -> None:
        self._is_checking = False
        try:
            self.check(jobs.store())
        except BackendUnavailable as error:
            jobs.note_failure(error)

    def opened(self, member: Connection) -> None:
        """Note that a socket has been sent its welcome."""
        for key in self._keys_of(member):
            self._cause(key)

    def missed(self, member: Connection, name: str) -> None:
        """Send the whole list to a member that missed something of a group."""
        for key in self._keys_of(member):
            if name_of(key) == name:
                with self._lock:
                    found = self._watchers.get(key, {})
                    if member in found:
                        found[member] = None
                self._cause(key)

    def _keys_of(self, member: Connection) -> Iterator[Key]:
        joined = member.close_keys(lambda key: isinstance(key, (str, tuple)))
        for key in (*joined, *getattr(member.hooks, "groups", ())):
            if member in self._watchers.get(key, ()):
                yield key

    # Hints

    def announce(self, key: Key, version: str) -> None:
        """Tell the watchers of all processes of a new version."""
        self.hinted(key, version)
        if pubsub.backend() is None:
            return
        with self._lock:
            if key in self._announced:
                self._announced[key] = version
                return
            self._announced[key] = ""
        # First, since a view that publishes may be interrupted.
        if not jobs.later(_TICK, partial(self._announce_rest, key)):
            del self._announced[key]
        self._publish(key, version)

    def _announce_rest(self, key: Key) -> None:
        with self._lock:
            version = self._announced.pop(key, "")
        if version:
            self.announce(key, version)

    def _publish(self, key: Key, version: str) -> None:
        try:
            pubsub.publish(key, PRESENCE, version.encode())
        except BackendUnavailable as error:
            # The others find the new version at their next check.
            count("group_publish_failed")
            report_unreachable(self, error)

    def hinted(self, key: Key, version: str) -> None:
        """Note that a group may have a new version."""
        if self._latest.get(key) != version:
            self._doubt(key)

    def _doubt(self, key: Key) -> None:
        with self._lock:
            if key not in self._watchers:
                return
            self._stale.add(key)
        self._cause(key)

    def check(self, store: PresenceStore) -> None:
        """Look for new versions of all groups with watchers.

        Raises:
            BackendUnavailable: the store cannot be read.
        """
        with self._lock:
            late, self._late = self._late, set()
            seen = {full_name(key): version for key, version in self._latest.items()}
        for key in late:
            self._cause(key)
        for name in store.changed(seen) if seen else ():
            self._doubt(key_of_full_name(name))

    # Ticks

    def _cause(self, key: Key, delay: float = _TICK) -> None:
        """Let a tick of a group follow."""
        with self._lock:
            if key in self._ticks:
                if self._ticks[key] == _RUNNING:
                    self._ticks[key] = _AGAIN
                return
            self._ticks[key] = _WAITING
        if not jobs.later(delay, partial(self._tick, key)):
            with self._lock:
                del self._ticks[key]
                self._late.add(key)

    def _tick(self, key: Key) -> None:
        """Tell the watchers of a group what has changed."""
        with self._lock:
            self._ticks[key] = _RUNNING
            is_stale = key in self._stale
            self._stale.discard(key)
        delay, has_failed = None, True
        try:
            if not jobs.is_away:
                delay = self._serve(key, is_stale=is_stale)
                jobs.note_success()
                has_failed = False
        except BackendUnavailable as error:
            jobs.note_failure(error)
        finally:
            with self._lock:
                is_again = self._ticks.pop(key) == _AGAIN
                if has_failed and key in self._watchers:
                    self._late.add(key)
                    if is_stale:
                        self._stale.add(key)
        if is_again:
            delay = _TICK
        if delay is not None:
            self._cause(key, delay)

    def _serve(self, key: Key, *, is_stale: bool) -> float | None:
        """Read the store, and tell the watchers; return in how many seconds to do it again.

        Raises:
            BackendUnavailable: the store cannot be read.
        """
        store, name = jobs.store(), full_name(key)
        groups, is_slow = self._sort(key, is_stale=is_stale)
        for since, watchers in groups.items():
            reading = store.read(name, since)
            with self._lock:
                if key in self._watchers:
                    self._latest[key] = reading.version
            self._tell(key, since, watchers, reading)
        with self._lock:
            # Something has changed between two readings.
            is_behind = {*self._watchers.get(key, {}).values()} - {None, self._latest.get(key)}
        return _TICK if is_behind or is_slow else None

    def _sort(self, key: Key, *, is_stale: bool) -> tuple[dict[str, list[Connection]], bool]:
        """Return the watchers that may have to be told, by the version that they were told.

        Those who are too slow are told later, with what changes until then: they are not closed
        because of presence, as they would be sent the whole list when they return.

        Returns:
            The watchers, under ``""`` if they need the whole list; and whether there are others who
            are too slow.
        """
        groups: dict[str, list[Connection]] = {}
        is_slow = False
        with self._lock:
            latest = None if is_stale else self._latest.get(key)
            size = self._sizes.get(key, 0)
            for member, told in list(self._watchers.get(key, {}).items()):
                if member.connecting or (told is not None and told == latest):
                    continue
                if member.subprotocol != V1:
                    self.forget(key, member)
                elif self._is_slow(member, size if told is None else 0):
                    is_slow = True
                else:
                    groups.setdefault(told or "", []).append(member)
        return groups, is_slow

    def _is_slow(self, member: Connection, size: int) -> bool:
        """Return whether a member has no room for a frame of this size, or for one of any size."""
        unsent, most = member.unsent, member.options.max_unsent_bytes
        return unsent > 0 and unsent + max(size, most // 2) > most

    def _tell(self, key: Key, since: str, watchers: list[Any], reading: Reading) -> None:
        """Send a reading to the watchers that are still at the version that it continues."""
        if hub_thread.is_foreign():
            hub_thread.hand_over(self._tell, key, since, watchers, reading)
            return
        with self._lock:
            found = self._watchers.get(key, {})
            watchers = [each for each in watchers if found.get(each, _ABSENT) == (since or None)]
            for each in watchers:
                found[each] = reading.version
        if not (reading.is_whole or reading.joined or reading.left):
            return
        name = name_of(key)
        by_name: dict[str, list[Any]] = {}
        for each in watchers:
            by_name.setdefault(each.name_of_group(name), []).append(each)

        for shown, members in by_name.items():
            people = [(each.key, each.info) for each in reading.joined]
            text = v1.presence(shown, people, reading.left, is_whole=reading.is_whole)
            message = PreparedMessage(BARE, text.encode(), name)
            if reading.is_whole and key in self._watchers:
                self._sizes[key] = len(message.plain)
            fanout.deliver(members, message)


#: The watchers of this process.
watching: Final = Watching()
