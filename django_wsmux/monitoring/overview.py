"""An overview of the sockets, groups and counters of all processes that serve sockets.

Each process answers for itself when it is asked, over ``WEBSOCKET_BACKEND``, as for the members of
a group; nothing is stored, so nothing is stale. Answers are bounded: a process lists some of its
sockets and its largest groups, with the total numbers. Questions and answers are JSON.
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from heapq import nlargest
from itertools import islice
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeVar

from ..connection.connection import Connection
from ..connection.registry import open_sockets
from ..exceptions import BackendUnavailable
from ..groups.members import name_of, prefix_of
from ..groups.pubsub import members, pubsub
from ..logs import get_logger
from ..protocol.environ import wire_path
from ..server.processes import generation
from .metrics import snapshot

__all__ = [
    "MAX_LIMIT",
    "GroupSize",
    "OpenSocket",
    "Overview",
    "Process",
    "install",
    "is_alone",
]

logger = get_logger("django_wsmux.overview")

T = TypeVar("T")

#: Channel on which every process that serves sockets answers questions about itself.
_CHANNEL: Final = "@processes"

#: Sockets, and groups, that a process lists at most.
MAX_LIMIT: Final = 1000

#: Characters of a path to show at most.
_LONGEST_PATH: Final = 200


class GroupSize(NamedTuple):
    """A group.

    Attributes:
        name: its name.
        members: how many members it has.
        prefix: see ``WEBSOCKET_GROUP_PREFIX``; ``""`` for none.
    """

    name: str
    members: int
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """One open socket.

    Attributes:
        path: path of the handshake, quoted, with ``SCRIPT_NAME``.
        user_id: primary key of the signed-in user, as a string; ``None`` without one.
        address: address that the handshake came from; empty for a unix socket.
        age: seconds since it opened.
        messages_in, bytes_in, messages_out, bytes_out: see ``Traffic``.
        unread: messages queued for the view.
        unsent: bytes queued for the peer.
        latency: seconds that the last answered ping took, or ``None``.
        worker: the process, as in ``Process.name``.
        prefix: prefix of the user's group, see ``WEBSOCKET_GROUP_PREFIX``; ``""`` for none.
    """

    path: str
    user_id: str | None
    address: str
    age: float
    messages_in: int
    bytes_in: int
    messages_out: int
    bytes_out: int
    unread: int
    unsent: int
    latency: float | None
    worker: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    Attributes:
        host: name of its machine.
        pid: its process id there.
        counters: see ``metrics.snapshot()``.
        total: how many sockets match the question; ``sockets`` may list only some of them.
        group_count: how many groups have members here, without those of users and sessions.
        groups: the largest of them.
        sockets: open sockets, in no particular order.
        generation: how often gunicorn had loaded its configuration when it started the process, at
            its start and at each SIGHUP; ``None`` with other workers than ours.
    """

    host: str
    pid: int
    counters: dict[str, float]
    total: int = 0
    group_count: int = 0
    groups: Sequence[GroupSize] = ()
    sockets: Sequence[OpenSocket] = ()
    generation: int | None = None

    @property
    def name(self) -> str:
        """Host and process id."""
        return f"{self.host}:{self.pid}"


@dataclass(frozen=True, slots=True)
class Overview:
    """The answers of all processes.

    Attributes:
        processes: the processes, by name.
        sockets: sockets of all processes, the oldest first.
        total: how many sockets there are; ``sockets`` may list only some of them.
        groups: groups of all processes, the largest first.
        groups_omitted: how many groups are not in ``groups``, at least.
        counters: totals of all processes.
        problem: why other processes could not be asked, or ``""``.
        missing: how many processes did not answer in time; ``None`` if that is unknown.
    """

    processes: Sequence[Process]
    sockets: Sequence[OpenSocket]
    total: int
    groups: Sequence[GroupSize]
    groups_omitted: int
    counters: dict[str, float]
    problem: str
    missing: int | None = 0

    @property
    def omitted(self) -> int:
        """How many sockets are not in ``sockets``."""
        return self.total - len(self.sockets)

    @property
    def rows(self) -> list[tuple[str, list[float]]]:
        """Each counter by name, with its values: one for each process, then the total."""
        tables = [*(process.counters for process in self.processes), self.counters]
        return [
            (name, [round(table.get(name, 0), 3) for table in tables]) for name in self.counters
        ]


def install() -> None:
    """Have this process answer questions about itself, from its first handshake on."""
    pubsub.register(_CHANNEL, _answer)


def is_alone() -> bool:
    """Return whether ``WEBSOCKET_BACKEND`` connects this process to no other."""
    return pubsub.backend() is None


def collect(limit: int = 0, group: str | None = None, prefix: str | None = None) -> Overview:
    """Ask every process that serves sockets; takes a second if one does not answer.

    Args:
        limit: how many sockets and groups each process lists: 0 to 1000. 0 for counters only.
        group: name of a group, to list its members instead of all sockets.
        prefix: prefix of that group, see ``WEBSOCKET_GROUP_PREFIX``; ``None`` for every prefix.

    Returns:
        The answers, and this process if it serves sockets. If ``problem`` is set, other processes
        could not be asked and only this process is included.

    Example::

        collect(limit=10).sockets[0].path
    """
    question = json.dumps({"limit": limit, "group": group, "prefix": prefix}).encode()
    answers = [_answer(question)] if pubsub.answers(_CHANNEL) else []
    problem = ""
    missing: int | None = 0
    try:
        replies = pubsub.ask_all(_CHANNEL, question)
        answers += replies
        missing = replies.missing
    except BackendUnavailable as error:
        problem = str(error)
    return _join(sorted(_parse(answers), key=attrgetter("host", "pid")), problem, missing)


# Answering


def _answer(question: bytes) -> bytes:
    asked = json.loads(question)
    limit = min(max(int(asked["limit"]), 0), MAX_LIMIT)
    process = _describe_process(limit, asked.get("group"), asked.get("prefix"))
    return json.dumps(asdict(process)).encode()


def _describe_process(limit: int, group: str | None, prefix: str | None) -> Process:
    host, pid = socket.gethostname(), os.getpid()
    sockets = list(open_sockets)
    if group is not None:
        # A socket may have joined before its 101.
        keys = [key for key in members.called(group) if prefix in (None, prefix_of(key))]
        found = dict.fromkeys(each for key in keys for each in members.of(key))
        sockets = [each for each in found if each in open_sockets]
    # Groups of users and sessions are left out: there may be one for each socket.
    sizes = members.sizes() if limit else []
    groups = [GroupSize(name_of(key), size, prefix_of(key)) for key, size in sizes]
    return Process(
        host,
        pid,
        snapshot(),
        total=len(sockets),
        group_count=len(groups),
        groups=nlargest(limit, groups, key=attrgetter("members")),
        sockets=[_describe(each, f"{host}:{pid}") for each in islice(sockets, limit)],
        generation=generation(),
    )


def _describe(websocket: Connection, worker: str) -> OpenSocket:
    hooks: Any = websocket.hooks
    traffic = websocket.traffic
    return OpenSocket(
        wire_path(websocket.environ)[:_LONGEST_PATH],
        hooks.user_id,
        hooks.address,
        round(hooks.age, 3),
        *traffic,
        unread=websocket.unread,
        unsent=websocket.unsent,
        latency=websocket.latency,
        worker=worker,
        prefix=hooks.prefix,
    )


# Asking


def _parse(answers: Iterable[bytes]) -> Iterator[Process]:
    for answer in answers:
        try:
            found = json.loads(answer)
            found["sockets"] = [_read(OpenSocket, each) for each in found["sockets"]]
            found["groups"] = [GroupSize(*each[:3]) for each in found["groups"]]
            yield _read(Process, found)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # Happens while a new version is being rolled out.
            logger.warning("skipping a process that runs another version: %s", error)


def _read(kind: type[T], found: dict[str, Any]) -> T:
    """Return an object from another process's data, ignoring fields of a newer version."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    return kind(**{name: value for name, value in found.items() if name in names})


def _join(processes: Sequence[Process], problem: str, missing: int | None) -> Overview:
    sizes: Counter[tuple[str, str]] = Counter()
    counters: dict[str, float] = {}
    for process in processes:
        sizes.update({(each.prefix, each.name): each.members for each in process.groups})
        for name, value in process.counters.items():
            so_far = counters.get(name, 0)
            counters[name] = max(so_far, value) if name.endswith("_max") else so_far + value
    sockets = [each for process in processes for each in process.sockets]
    return Overview(
        processes,
        sorted(sockets, key=attrgetter("age"), reverse=True),
        sum(process.total for process in processes),
        [GroupSize(name, size, prefix) for (prefix, name), size in sizes.most_common()],
        sum(process.group_count - len(process.groups) for process in processes),
        counters,
        problem,
        missing,
    )
