"""``redis://``: the store in Redis or Valkey: one server, a Sentinel's master, or a cluster.

Each call is one script, and so one round trip. If the server is the broker of
``WEBSOCKET_BACKEND``, the script that stores a message also publishes it. In a cluster, the keys of
a group and its channel are in one slot. The groups of users and sessions share one channel, so
their keys are in the slots of the groups' names, and the caller publishes.

When a server restarts or a replica takes over, the last messages may be missing. Every group then
begins a new epoch, and readers no longer see the earlier messages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

from .. import conf
from ..backends import from_url
from ..backends.redis import RedisBackend, Script
from ..protocol.positions import NUMBERED
from .redis_scripts import APPEND, CHANGED, FORGET, POLICY, READ, RELEASE, SWEEP
from .store import (
    IDLE_SECONDS,
    KEY_SECONDS,
    Appended,
    Changed,
    Entry,
    Reading,
    Store,
    Stream,
)

__all__ = ["RedisStore", "backend_for"]

# Names of users' groups contain primary keys, which may be any text.
_ERRORS: Final = "surrogatepass"

_NUMBERED: Final = bytes((NUMBERED,))

#: Milliseconds after the last sweep for which the keys of a whole project are kept.
_PROJECT_MILLISECONDS: Final = b"%d" % (1000 * (IDLE_SECONDS + 86_400))


def _number(value: float) -> bytes:
    return b"%d" % round(value)


class RedisStore(Store):
    """A store in Redis or Valkey; see the module.

    Args:
        url: as in ``WEBSOCKET_HISTORY_STORE``.
        namespace: names the project; not used with a backend, which has one.
        backend: the backend of this process, if the store is in its broker; then the store
            publishes each message over the same connection.
    """

    def __init__(self, url: str, *, namespace: str, backend: RedisBackend | None) -> None:
        self._publishes = backend is not None
        self._backend = backend_for(url, namespace) if backend is None else backend
        self._publish = b"SPUBLISH" if self._backend.is_sharded else b"PUBLISH"

    def append(
        self, stream: Stream, message: bytes, *, key: str = "", key_seconds: float = KEY_SECONDS
    ) -> Appended | None:
        """Number and keep a message; publish it if its channel is in the same slot."""
        channel, backend = stream.channel, self._backend
        prefix = self._prefix(stream)
        is_published = self._publishes and prefix == backend.prefix_of(channel)
        reply = self._run(
            APPEND,
            prefix,
            stream.name.encode("utf-8", _ERRORS),
            message,
            _number(stream.keep.messages),
            _number(stream.keep.bytes),
            _age(stream),
            _idle(stream),
            key.encode("utf-8", _ERRORS),
            _number(key_seconds * 1e6),
            self._publish if is_published else b"",
            backend.key_of(channel) if is_published else b"",
            backend.head(channel) + _NUMBERED if is_published else b"",
        )
        if reply is None:
            return None
        backend.counts.published += is_published
        return Appended(reply[0].decode(), reply[1], is_published)

    def release(self, stream: Stream, keys: Collection[str], seconds: float = KEY_SECONDS) -> None:
        """Let keys expire after at most some seconds."""
        self._run(
            RELEASE,
            self._prefix(stream),
            stream.name.encode("utf-8", _ERRORS),
            _number(seconds * 1e6),
            *(key.encode("utf-8", _ERRORS) for key in keys),
        )

    def read(
        self,
        stream: Stream,
        since: int | None = None,
        limit: int = 0,
        *,
        max_bytes: int = 2**62,
        newest: bool = False,
    ) -> Reading:
        """Return the row of a stream, and messages; see ``Store``."""
        store, now, epoch, top, first, is_forgotten, numbers, messages = self._run(
            READ,
            self._prefix(stream),
            stream.name.encode("utf-8", _ERRORS),
            b"" if since is None else _number(since),
            _number(limit),
            _number(max_bytes),
            b"newest" if newest else b"",
            _number(stream.keep.messages),
            _number(stream.keep.bytes),
            _age(stream),
        )
        entries = tuple(_split(numbers.split(), messages))
        is_forgotten = bool(is_forgotten)
        return Reading(store.decode(), now, epoch.decode(), top, first, is_forgotten, entries)

    def changed(self, seen: str) -> tuple[str, list[Changed]]:
        """Return the streams that have changed; see ``Store``."""
        prefixes = self._backend.prefixes
        marks = seen.split(",") if seen else [""] * len(prefixes)
        changes: list[Changed] = []
        is_known = True
        for index, prefix in enumerate(prefixes):
            marks[index], found = self._changes(prefix, marks[index])
            is_known &= found is not None
            changes += found or ()
        return ",".join(marks) if is_known or not seen else "", changes

    def _changes(self, prefix: bytes, mark: str) -> tuple[str, list[Changed] | None]:
        """Return the new mark of a part, and its changes; ``None`` if they are unknown."""
        changes: list[Changed] = []
        is_there_more = 1
        while is_there_more:
            store, _, number = mark.partition(":")
            reply = self._run(CHANGED, prefix, store.encode(), number.encode() or b"0")
            mark = f"{reply[0].decode()}:{reply[1]}"
            if len(reply) == 2:
                return mark, None
            is_there_more, *found = reply[2:]
            changes += (
                Changed(name.decode("utf-8", _ERRORS), epoch.decode(), top)
                for name, epoch, top in zip(found[::3], found[1::3], found[2::3], strict=True)
            )
        return mark, changes

    def forget(self, stream: Stream) -> str:
        """Delete the messages of a stream, begin a new epoch, and return it."""
        name = stream.name.encode("utf-8", _ERRORS)
        epoch: bytes = self._run(FORGET, self._prefix(stream), name, _age(stream), _idle(stream))
        return epoch.decode()

    def sweep(self) -> None:
        """Delete expired, idle and excess data; see ``Store``.

        In a cluster, each part of the store gives up the same share of its bytes.
        """
        prefixes = self._backend.prefixes
        kept = {prefix: self._sweep(prefix, b"") for prefix in prefixes}
        total, most = sum(kept.values()), conf.get("WEBSOCKET_HISTORY_BYTES")
        if total > most:
            for prefix, size in kept.items():
                self._sweep(prefix, b"%d" % (size * most // total))

    def _sweep(self, prefix: bytes, most: bytes) -> int:
        """Sweep a part of the store; return the bytes of the remaining messages."""
        is_there_more = 1
        size = 0
        while is_there_more:
            size, is_there_more = self._run(SWEEP, prefix, most, _PROJECT_MILLISECONDS)
        return size

    def eviction_policies(self) -> set[str]:
        """Return the ``maxmemory-policy`` of each server.

        Raises:
            BackendUnavailable: a server cannot be reached.
        """
        return {self._run(POLICY, prefix).decode() for prefix in self._backend.prefixes}

    def close(self) -> None:
        """Close the connection, unless it is the backend's."""
        if not self._publishes:
            self._backend.close()

    def _prefix(self, stream: Stream) -> bytes:
        # Channels that begin with "@" are shared by many groups, too many for one slot.
        is_shared = stream.channel.startswith("@")
        return self._backend.prefix_of(stream.name if is_shared else stream.channel)

    def _run(self, script: Script, prefix: bytes, *arguments: bytes) -> Any:
        return self._backend.run(script, prefix + b"history", *arguments)


def backend_for(url: str, namespace: str) -> RedisBackend:
    """Return a backend for a store that is not in the broker of this process's backend."""
    backend = from_url(url, namespace=namespace)
    assert isinstance(backend, RedisBackend)
    backend.advice = "check that the server runs and that WEBSOCKET_HISTORY_STORE names it"
    return backend


def _split(numbers: list[bytes], messages: bytes) -> Iterator[Entry]:
    """Yield the messages of a reply to ``READ``."""
    begin = 0
    for number, size in zip(numbers[::2], numbers[1::2], strict=True):
        offset, _, time = number.partition(b"-")
        end = begin + int(size)
        yield Entry(int(offset), int(time) / 1e6, messages[begin:end])
        begin = end


def _age(stream: Stream) -> bytes:
    """Return the lifetime of a stream's messages in microseconds."""
    return _number(stream.keep.seconds * 1e6)


def _idle(stream: Stream) -> bytes:
    """Return the lifetime of a stream's row after its last message in milliseconds."""
    return _number(1000 * max(IDLE_SECONDS, stream.keep.seconds))
