"""Delivers the messages of groups with a history: each once, and in the order of the store.

``history.sequence`` decides what to do with each message. If one is missing, a thread (a greenlet
under gevent) reads the store and delivers in order, while other groups continue. The store is
polled for changes every few seconds, so that the last message of a group is not lost either.
"""

from __future__ import annotations

import _thread
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from .. import conf
from ..backends import Gap
from ..connection import fanout, hub_thread
from ..connection.counters import count
from ..exceptions import BackendUnavailable
from ..history import stores
from ..history.sequence import DELIVER, DROP, HOLE, News
from ..history.store import KEY_SECONDS, Changed, Reading, Store, Stream
from ..history.window import Windows
from ..logs import LogLimit, get_logger
from ..protocol import positions
from ..protocol.positions import Position
from ..protocol.prepared import KINDS, PreparedMessage
from . import envelope
from .envelope import FORGET, Envelope
from .members import Key, key_of_full_name, name_of, prefix_of
from .namespace import namespace
from .numbered import NumberedMessage, is_of, most_of, source_of, stream_of
from .pubsub import Sequencer, members, membership, pubsub
from .tracked import Tracked

if TYPE_CHECKING:
    from ..connection.connection import Connection

__all__ = ["NumberedSequencer", "limit", "sequencer"]

logger = get_logger("django_wsmux.history")

#: Seconds that a group waits for a missing message before it reads the store.
_GRACE: Final = 0.01

#: Seconds between two polls of the store for changes, and between two sweeps.
POLL: Final = 5.0
SWEEP: Final = 30.0

#: Seconds after which a store that failed is read again.
_RETRY: Final = 1.0

#: The most threads that read the store for groups with missing messages.
_MAX_READERS: Final = 4

#: The most messages of one reading.
_CHUNK: Final = 500


class _Turn:
    """Lets one thread at a time read the store for a group.

    Attributes:
        lock: held by that thread.
        users: the threads that hold it or wait for it.
    """

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0


class NumberedSequencer(Sequencer):
    """Passes numbered messages to the members in order; see the module."""

    def __init__(self) -> None:
        super().__init__(pubsub.deliver)
        self._begin()

    def _begin(self) -> None:
        # Held while messages are delivered: under runserver, they arrive in several threads.
        self.lock = threading.RLock()
        self._tracked: dict[Key, Tracked] = {}
        self._windows: Windows[NumberedMessage] = Windows(emptied=self._emptied)
        self._turns: dict[Key, _Turn] = {}
        # Groups for which the store is to be read, in the order of the moments when it is to be
        # read, by the clock of ``time.monotonic()``; and their readers.
        self._queue: OrderedDict[Key, float] = OrderedDict()
        self._readers = 0
        self._has_poller = False
        self._store: tuple[object, str, Store] | None = None
        self._failed = LogLimit()
        self._unnumbered = LogLimit()

    def disown(self) -> None:
        """Start over in a forked child."""
        self._begin()

    reset = disown

    def store(self) -> Store:
        """Return the store of the settings.

        Raises:
            BackendUnavailable: it cannot be used.
        """
        backend, url = pubsub.backend(), conf.get("WEBSOCKET_HISTORY_STORE")
        found = self._store
        if found is None or found[0] is not backend or found[1] != url:
            found = self._store = backend, url, stores.store(backend, namespace())
        return found[2]

    def tracked(self, key: Key) -> Tracked | None:
        """Return the state of a group; ``None`` if it has no history or no members here."""
        return self._tracked.get(key)

    def is_over(self, tracked: Tracked) -> bool:
        """Return whether all of a group's members in this process have left."""
        return self._tracked.get(tracked.key) is not tracked

    @contextmanager
    def turn(self, tracked: Tracked) -> Iterator[None]:
        """Wait until no other thread reads the store for a group; keep others waiting."""
        key = tracked.key
        with self.lock:
            turn = self._turns.get(key)
            if turn is None:
                turn = self._turns[key] = _Turn()
            turn.users += 1
        try:
            with turn.lock:
                yield
        finally:
            with self.lock:
                turn.users -= 1
                if not turn.users:
                    self._turns.pop(key, None)

    # Sending

    def send(
        self,
        key: Key,
        kind: int,
        payload: bytes,
        ids: tuple[str, ...] = (),
        *,
        once: str = "",
        seconds: float = KEY_SECONDS,
        traceparent: str = "",
    ) -> bool:
        """Store a message, deliver it here in its turn, and publish it.

        Args:
            key: the key of a group with a history.
            kind: the kind of the message.
            payload: the message.
            ids: the clients that do not get it.
            once: a second message with this key is not sent; ``""`` for no key.
            seconds: how long that key is remembered.
            traceparent: the trace context of the sender; ``""`` if there is none.

        Returns:
            False if a message with this key was sent earlier.

        Raises:
            BackendUnavailable: nothing was stored or sent.
        """
        stream = stream_of(key)
        assert stream is not None
        name, fields = name_of(key), envelope.excluding(ids)
        if traceparent:
            fields = envelope.traced(fields, traceparent)
        body = envelope.pack(kind, name, payload, prefix_of(key), fields)
        appended = self.store().append(stream, body, key=once, key_seconds=seconds)
        if appended is None:
            return False
        position = Position(appended.epoch, appended.offset)
        where = str(position)
        self._take(key, position, Envelope(kind, name, payload, fields, where))
        if not appended.is_published:
            self._publish(stream, envelope.numbered(where, body))
        self._read_here(key)
        return True

    def _read_here(self, key: Key) -> None:
        """Read the row of a group if it is in doubt, as after the group's first message.

        A sender, or a test, then need not wait for a thread.
        """
        tracked = self._tracked.get(key)
        if tracked is not None and tracked.is_stale and not hub_thread.is_foreign():
            self._read_for(tracked)

    def _publish(self, stream: Stream, payload: bytes) -> None:
        """Publish a stored message; processes that miss it read it from the store."""
        try:
            pubsub.transmit(stream.channel, payload)
        except BackendUnavailable as error:
            count("group_publish_failed")
            self._report("publishing failed, so other processes read the store", error)

    def forget(self, key: Key) -> None:
        """Delete the messages of a group, and begin a new epoch.

        Raises:
            BackendUnavailable: nothing was deleted.
        """
        stream = stream_of(key)
        assert stream is not None
        self.store().forget(stream)
        self._forgotten(key)
        self._publish(stream, envelope.pack(FORGET, name_of(key), b"", prefix_of(key)))
        self._read_here(key)

    # Sequencer

    def accept(self, key: Key, envelope: Envelope) -> None:
        """Accept a publication from another process."""
        if envelope.position:
            position = positions.parse(envelope.position)
            if position is not None:
                self._take(key, position, envelope)
        elif envelope.kind == FORGET:
            self._forgotten(key)
        else:
            self._deliver(key, envelope)
            if envelope.kind in KINDS and key in self._tracked:
                self._note_unnumbered(key)

    def lose(self, gap: Gap) -> None:
        """Read the rows of all groups before anything else is delivered."""
        self.read_all()

    def read_all(self) -> None:
        """Read the store for all groups before anything else is delivered to them."""
        with self.lock:
            for tracked in list(self._tracked.values()):
                tracked.doubt()
                self._read_soon(tracked)

    # Membership

    def joined(self, key: Key, member: Connection, *, is_first: bool) -> None:
        """Track a group when its first member joins."""
        # Only atomic steps, without the lock: its holder may close members, which needs another
        # lock that the caller of this method holds.
        if is_first and stream_of(key) is not None:
            self._tracked[key] = Tracked(key)

    def left(self, key: Key, member: Connection, *, is_last: bool) -> None:
        """Forget a member; if it was the last one, also the group."""
        tracked = self._tracked.get(key)
        if tracked is None:
            return
        tracked.end_waiting(member)
        tracked.end_behind(member)
        if is_last:
            del self._tracked[key]
            self._windows.discard(key)

    # Delivering

    def _take(self, key: Key, position: Position, envelope: Envelope) -> None:
        """Deliver a message if it is next; otherwise note that messages are missing."""
        if hub_thread.is_foreign():
            hub_thread.hand_over(self._take, key, position, envelope)
            return
        with self.lock:
            tracked = self._tracked.get(key)
            if tracked is None:
                if stream_of(key) is None:
                    # Another process has different settings.
                    self._deliver(key, envelope)
                return
            message = NumberedMessage(key, position, envelope, time.time())
            verdict = tracked.accept(position.epoch, position.offset, message)
            if verdict is DELIVER:
                self._pass_on(tracked, message)
                self._pass_early(tracked)
            elif verdict is not DROP:
                self._read_soon(tracked, _GRACE if verdict is HOLE else 0.0)

    def _pass_early(self, tracked: Tracked) -> None:
        while (message := tracked.early()) is not None:
            self._pass_on(tracked, message)

    def _pass_on(self, tracked: Tracked, message: NumberedMessage) -> None:
        """Send the next message to the members."""
        if message.kind not in KINDS:
            self._report("ignoring a message of a newer version", name_of(tracked.key))
            return
        excluded: Collection[Connection] = tracked.waiting
        admit = partial(self._admits, tracked, Position(message.epoch, message.offset - 1))
        if tracked.behind:
            for member in list(tracked.behind):
                fanout.settle(member)
                admit(member)
            excluded = {*tracked.waiting, *tracked.behind}
        members.deliver(tracked.key, message, excluded, message.excluded, admit)
        tracked.window.append(message, most_of(tracked.key))
        if not self.is_over(tracked):
            self._windows.use(tracked.key, tracked.window)

    def _admits(self, tracked: Tracked, position: Position, member: Connection) -> bool:
        """Return whether a member gets the message after a position; not if it is slow, and behind.

        A slow member is told of its gap once its backlog is at most half of its limit.
        """
        with self.lock:
            if member not in tracked.behind:
                return True
            # Held messages would reach the client after the gap.
            if member.is_held or not member.has_room_for_replay():
                return False
            tracked.end_behind(member)
            self._tell(tracked, member, position)
            return True

    def _tell(self, tracked: Tracked, member: Connection, position: Position) -> None:
        count("history_gaps")
        member.hooks.group_gap(member, name_of(tracked.key), str(position))

    def note_dropped(self, member: Connection, message: PreparedMessage) -> None:
        """Note that a slow member did not get a message; the next one follows a gap."""
        source = source_of(message)
        tracked = None if source is None else self._tracked.get(source.key)
        if source is not None and tracked is not None:
            # One step: a message that was put off comes without the lock.
            tracked.note_behind(member, Position(source.epoch, source.offset - 1))

    def _tell_gap(self, tracked: Tracked) -> None:
        """Tell the members that messages are missing."""
        for member in members.of(tracked.key):
            if member not in tracked.waiting:
                self._tell(tracked, member, tracked.position)

    def _note_unnumbered(self, key: Key) -> None:
        suffix = self._unnumbered.suffix()
        if suffix is not None:
            logger.warning(
                "%r: got a message without a number; does another process run with a different "
                "WEBSOCKET_HISTORY?%s",
                name_of(key),
                suffix,
            )
        with self.lock:
            tracked = self._tracked.get(key)
            if tracked is not None and not tracked.is_value:
                # Held messages are below the position of the gap.
                self._discard_held(tracked)
                self._tell_gap(tracked)

    def _forgotten(self, key: Key) -> None:
        """Discard the messages of a group in this process, and read its new epoch."""
        if hub_thread.is_foreign():
            hub_thread.hand_over(self._forgotten, key)
            return
        with self.lock:
            tracked = self._tracked.get(key)
            if tracked is None:
                return
            tracked.doubt(is_forgotten=True)
            tracked.clear_window()
            self._discard_held(tracked)
            self._read_soon(tracked)

    def _discard_held(self, tracked: Tracked) -> None:
        """Discard messages that members have not got yet; they are told of a later position."""
        for member in members.of(tracked.key):
            member.discard_held(partial(is_of, tracked.key))

    # Reading the store

    def catch_up(self, tracked: Tracked) -> None:
        """Read the store until the group is up to date, and deliver; ``turn`` must be held.

        Raises:
            BackendUnavailable: the store cannot be read.
        """
        while True:
            news = tracked.news
            since = tracked.offset if tracked.has_begun else None
            reading = self.store().read(tracked.stream, since, _CHUNK)
            self.apply(tracked, reading, news)
            if not tracked.is_behind or self.is_over(tracked):
                return

    def apply(self, tracked: Tracked, reading: Reading, news: News) -> None:
        """Deliver the messages of a reading that were not delivered yet.

        Args:
            tracked: the group.
            reading: its row, and messages.
            news: ``Sequence.news`` from before the reading.
        """
        self._start_polling()
        with self.lock:
            if self.is_over(tracked):
                return
            if tracked.is_void(news):
                return
            epoch = tracked.epoch
            has_gap = tracked.advance(reading, news)
            if tracked.epoch != epoch or has_gap:
                tracked.clear_window()
            if has_gap:
                self._discard_held(tracked)
                if not tracked.is_value:
                    self._tell_gap(tracked)
            for entry in reading.entries:
                if entry.offset == tracked.offset + 1:
                    message = tracked.message(entry)
                    tracked.delivered(entry.offset)
                    count("history_repaired")
                    if message is None:
                        self._report(
                            "ignoring a stored message that is damaged", name_of(tracked.key)
                        )
                    else:
                        self._pass_on(tracked, message)
            self._pass_early(tracked)

    def use(self, tracked: Tracked) -> None:
        """Note that the window of a group was used; the lock must be held."""
        if not self.is_over(tracked):
            # A message may have closed the last member, because it was too slow.
            self._windows.use(tracked.key, tracked.window)
            tracked.drop_window()

    def _emptied(self, key: Key) -> None:
        tracked = self._tracked.get(key)
        if tracked is not None:
            tracked.drop_window()

    def read_later(self, tracked: Tracked) -> None:
        """Read the store for a group as soon as it can be read."""
        with self.lock:
            self._read_soon(tracked, _RETRY)

    def _read_soon(self, tracked: Tracked, delay: float = 0.0) -> None:
        """Schedule a reading of the store for a group; the lock must be held."""
        if tracked.key in self._queue:
            return
        self._queue[tracked.key] = time.monotonic() + delay
        if not delay:
            self._queue.move_to_end(tracked.key, last=False)
        if self._readers < _MAX_READERS:
            self._readers += 1
            if not _start(self._read):
                self._readers -= 1

    def _read(self) -> None:
        """Read the store for the groups in the queue."""
        pid = os.getpid()
        while os.getpid() == pid:
            with self.lock:
                if not self._queue:
                    # At once: the next entry of the queue needs another reader.
                    self._readers -= 1
                    return
                key, due = self._queue.popitem(last=False)
                tracked = self._tracked.get(key)
            if tracked is not None:
                time.sleep(max(due - time.monotonic(), 0.0))
                self._read_for(tracked)

    def _read_for(self, tracked: Tracked) -> None:
        try:
            with self.turn(tracked):
                if tracked.is_behind:
                    self.catch_up(tracked)
            for member, admit in list(tracked.waiting.items()):
                self._admit(tracked, member, admit)
        except BackendUnavailable as error:
            self._report("the store cannot be read", error)
            self.read_later(tracked)
        except Exception:
            logger.exception("reading the history of %r failed", name_of(tracked.key))

    def _admit(self, tracked: Tracked, member: Connection, admit: Callable[[], None]) -> None:
        """Admit a member that waited; an error must not keep the others waiting."""
        try:
            admit()
        except BackendUnavailable:
            raise
        except Exception:
            logger.exception("%r: joining %r failed", member, name_of(tracked.key))
            tracked.end_waiting(member)

    def _report(self, what: str, about: object) -> None:
        count("history_failed")
        suffix = self._failed.suffix()
        if suffix is not None:
            logger.error("history: %s: %s%s", what, about, suffix)

    # Polling

    def _start_polling(self) -> None:
        if not self._has_poller and not self.store().is_private:
            self._has_poller = _start(self._poll)

    def _poll(self) -> None:
        """Poll the store for changes, and sweep it, at intervals."""
        pid, seen = os.getpid(), ""
        next_sweep = time.monotonic() + SWEEP
        while os.getpid() == pid:
            try:
                is_first = not seen
                seen, changed = self.store().changed(seen)
                if is_first:
                    # Messages from before this moment are not among the changes.
                    self.read_all()
                self._compare(changed)
                if time.monotonic() >= next_sweep:
                    next_sweep = time.monotonic() + SWEEP
                    self.store().sweep()
            except BackendUnavailable as error:
                self._report("the store cannot be read", error)
            except Exception:
                logger.exception("polling the store for changes failed")
            time.sleep(POLL)

    def _compare(self, changed: Iterable[Changed]) -> None:
        """Read the store for groups with messages that this process lacks."""
        with self.lock:
            for each in changed:
                tracked = self._tracked.get(key_of_full_name(each.name))
                if tracked is not None and tracked.note(each.epoch, each.top):
                    self._read_soon(tracked, _GRACE)


def _start(target: Callable[[], None]) -> bool:
    """Start a thread; return False if there are too many. The next attempt may succeed.

    Unlike ``threading.Thread``, it does not wait until the thread runs: the lock may be held, and
    the caller may be the hub.
    """
    try:
        _thread.start_new_thread(target, ())
    except RuntimeError:
        return False
    return True


def limit() -> int:
    """Return ``WEBSOCKET_HISTORY_LIMIT``."""
    most: int = conf.get("WEBSOCKET_HISTORY_LIMIT")
    return most


#: The sequencer of this process. This module is imported when a group with a history is first used.
sequencer: Final = NumberedSequencer()
pubsub.sequencer = sequencer
membership.append(sequencer)

if hasattr(os, "register_at_fork"):
    # Windows has no fork.
    os.register_at_fork(after_in_child=sequencer.disown)
