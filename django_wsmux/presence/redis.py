"""``redis://``: the store in Redis or Valkey: one server, a Sentinel's master, or a cluster.

Each call is one script, or several that are sent together: a script handles at most some hundred
rows, so that it does not block the server for long. In a cluster, each of the project's slots has a
separate store with its own processes, so one clock decides whether a process of a group is alive. A
process is renewed in the slots where it has entered rows.

Redis may lose its last changes when it restarts, or when a replica takes over. Then every group
begins a new epoch, and ``renew()`` returns False, so that processes enter all their rows again. The
rows that Redis still has count until ``LEAVING_SECONDS`` later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ..backends.redis import RedisBackend, Script
from ..exceptions import BackendUnavailable
from ..history.redis import backend_for
from .absence import Absence
from .lives import KnownLives
from .redis_life_scripts import EXPIRE, RENEW, RETURN
from .redis_scripts import CHANGED, ENTER, LEAVE, READ
from .store import NO_GROUP, Entry, Person, PresenceStore, Reading

__all__ = ["RedisPresence"]

# Names of groups and keys contain primary keys, which may be any text.
_ERRORS: Final = "surrogatepass"

#: The most entries, connections and groups that one script handles.
_ENTRIES: Final = 100
_CONNECTIONS: Final = 100
_GROUPS: Final = 1_000


class RedisPresence(PresenceStore):
    """A store in Redis or Valkey; see the module.

    Args:
        url: as in ``WEBSOCKET_HISTORY_STORE``.
        namespace: names the project; not used with a backend, which has one.
        backend: the backend of this process, if the store is in its broker; then the store uses
            its connections.
    """

    def __init__(self, url: str, *, namespace: str, backend: RedisBackend | None) -> None:
        self._is_own = backend is None
        self._backend = backend_for(url, namespace) if backend is None else backend
        self._lives = KnownLives()
        self._absences = {prefix: Absence() for prefix in self._backend.prefixes}

    def enter(self, group: str, entries: Collection[Entry], process: str) -> str:
        """Add the rows of connections; see ``PresenceStore``.

        In a cluster this is a sign of life for the groups in the same slot.
        """
        if not entries:
            self.renew(process)
            return ""
        values = [_encode(value) for entry in entries for value in entry]
        replies = self._run_in_steps(ENTER, group, process, values, 3 * _ENTRIES)
        for _, life in replies:
            self._lives.entered(process, life, self._backend.prefix_of(group))
        return _last(version for version, _ in replies)

    def leave(self, group: str, connections: Collection[str], process: str) -> str:
        """Remove rows; see ``PresenceStore``."""
        if not connections:
            return ""
        values = [_encode(connection) for connection in connections]
        return _last(self._run_in_steps(LEAVE, group, process, values, _CONNECTIONS))

    def _run_in_steps(
        self, script: Script, group: str, process: str, values: list[bytes], size: int
    ) -> list[Any]:
        prefix, head = self._backend.prefix_of(group), (_encode(group), _encode(process))
        parts = (values[begin : begin + size] for begin in range(0, len(values), size))
        return self._run(script, [(prefix, (*head, *part)) for part in parts])

    def read(self, group: str, since: str = "") -> Reading:
        """Return who is present, or what has changed; see ``PresenceStore``.

        A long list is read in pages, in the order of the changes. What changes meanwhile is on the
        last page.
        """
        known, _, base = since.partition(".")
        page = first = self._page(group, known, base or "0")
        if first is None:
            return Reading(NO_GROUP, since != NO_GROUP, ())
        if first.is_whole:
            base = str(first.number)
        # By key: the number of the last change, and the record.
        found: dict[bytes, tuple[int, bytes]] = {}
        while page is not None:
            for key, number, record in page.people:
                found.pop(key, None)
                found[key] = number, record
            if not page.last:
                break
            page = self._page(group, first.epoch, base, page.last, is_whole=first.is_whole)
        if page is None or page.epoch != first.epoch:
            return self.read(group)  # the row of the group is lost
        left = []
        for key, joined, number in page.left:
            if key in found and found[key][0] < number:
                del found[key]
            if key not in found and joined <= int(base) and not first.is_whole:
                left.append(_decode(key))
        people = tuple(_person(key, record) for key, (_, record) in found.items())
        return Reading(f"{page.epoch}.{page.number}", first.is_whole, people, tuple(left))

    def _page(
        self, group: str, epoch: str, base: str, after: str = "", *, is_whole: bool = False
    ) -> _Page | None:
        prefix = self._backend.prefix_of(group)
        arguments = (group, epoch, base, after, "1" if is_whole else "")
        (reply,) = self._run(READ, [(prefix, tuple(map(_encode, arguments)))])
        return _Page.parse(*reply) if reply else None

    def changed(self, seen: Mapping[str, str]) -> list[str]:
        """Return the groups that have another version; see ``PresenceStore``."""
        names: dict[bytes, list[str]] = {}
        for name in seen:
            names.setdefault(self._backend.prefix_of(name), []).append(name)
        parts = [
            (prefix, each[begin : begin + _GROUPS])
            for prefix, each in names.items()
            for begin in range(0, len(each), _GROUPS)
        ]
        replies = self._run(
            CHANGED,
            [
                (prefix, tuple(_encode(text) for name in part for text in (name, seen[name])))
                for prefix, part in parts
            ],
        )
        return [
            part[position]
            for (_, part), positions in zip(parts, replies, strict=True)
            for position in positions
        ]

    def renew(self, process: str) -> bool:
        """Note a sign of life of a process; see ``PresenceStore``."""
        known = self._lives.parts(process)
        runs = [(prefix, (_encode(process),)) for prefix in known or self._backend.prefixes]
        lives = self._run(RENEW, runs)
        return self._lives.renewed(process, is_alive=all(lives) if known else any(lives))

    def expire(self) -> list[tuple[str, str]]:
        """Remove what is no longer needed; see ``PresenceStore``."""
        found: dict[str, str] = {}
        left: Sequence[bytes] = self._backend.prefixes
        while left:
            replies = self._run(EXPIRE, [(prefix, ()) for prefix in left])
            left = [prefix for prefix, reply in zip(left, replies, strict=True) if reply[0]]
            for _, *changes in replies:
                for name, version in zip(changes[::2], changes[1::2], strict=True):
                    found[_decode(name)] = version.decode()
        return list(found.items())

    def close(self) -> None:
        """Close the connections, unless they are the backend's."""
        if self._is_own:
            self._backend.close()

    def _run(self, script: Script, runs: Sequence[tuple[bytes, tuple[bytes, ...]]]) -> list[Any]:
        """Run a script with each of several lists of arguments; return the replies.

        Args:
            script: the script.
            runs: the prefix of the keys, and the arguments.
        """
        away = [
            prefix
            for prefix in dict.fromkeys(prefix for prefix, _ in runs)
            if self._absences[prefix].is_to_tell(self.leaving_seconds)
        ]
        if away:
            self._send(RETURN, [(prefix, ()) for prefix in away])
            for prefix in away:
                self._absences[prefix].told()
        return self._send(script, runs)

    def _send(self, script: Script, runs: Sequence[tuple[bytes, tuple[bytes, ...]]]) -> list[Any]:
        times = (b"%d" % (1e6 * seconds) for seconds in (self.leaving_seconds, self.left_seconds))
        head = tuple(times)
        absences = [self._absences[prefix] for prefix, _ in runs]
        try:
            replies = self._backend.run_all(
                script, [(prefix + b"presence", head + arguments) for prefix, arguments in runs]
            )
        except BackendUnavailable:
            for absence in absences:
                absence.failed()
            raise
        for absence in absences:
            absence.succeeded()
        return replies


class _Page(NamedTuple):
    """A reply to ``READ``.

    Attributes:
        epoch, number: the version.
        is_whole: as in ``Reading``.
        last: the number after which the next page begins; ``""`` for the last page.
        people: key, number of the last change and record.
        left: key, number of joining and of leaving.
    """

    epoch: str
    number: int
    is_whole: bool
    last: str
    people: list[tuple[bytes, int, bytes]]
    left: list[tuple[bytes, int, int]]

    @classmethod
    def parse(
        cls,
        epoch: bytes,
        number: int,
        is_whole: int,
        last: bytes,
        keys: list[bytes],
        records: list[bytes],
        left: list[bytes],
    ) -> _Page:
        """Parse a reply."""
        people = zip(keys[::2], map(int, keys[1::2]), records, strict=True)
        gone = []
        for entry, leaving in zip(left[::2], left[1::2], strict=True):
            joined, _, key = entry.split(b" ", 2)
            gone.append((key, int(joined), int(leaving)))
        return cls(epoch.decode(), number, bool(is_whole), last.decode(), list(people), gone)


def _person(key: bytes, record: bytes) -> Person:
    _, since, _, info = record.split(b" ", 3)
    return Person(_decode(key), _decode(info), int(since) / 1e6)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", _ERRORS)


def _decode(text: bytes) -> str:
    return text.decode("utf-8", _ERRORS)


def _last(versions: Iterable[bytes]) -> str:
    """Return the last version; ``""`` if nothing has changed."""
    return next((version.decode() for version in reversed([*versions]) if version), "")
