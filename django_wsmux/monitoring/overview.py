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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from heapq import nlargest
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple, TypeVar

from ..connection.connection import Connection
from ..connection.registry import open_sockets, slices
from ..exceptions import BackendUnavailable
from ..groups.members import name_of, prefix_of
from ..groups.pubsub import members, pubsub
from ..logs import get_logger
from ..protocol.environ import wire_path
from ..server.processes import generation
from .filters import ORDERS, Filter, Page, Position, id_of, opened_of, position_of, take_page
from .metrics import snapshot

__all__ = [
    "MAX_LIMIT",
    "GroupSize",
    "OpenSocket",
    "Overview",
    "Process",
    "collect",
    "install",
    "is_alone",
    "position",
    "survey",
]

logger = get_logger("django_wsmux.overview")

T = TypeVar("T")

#: Channel on which every process that serves sockets answers questions about itself.
_CHANNEL: Final = "@processes"

#: Sockets, and groups, that a process lists at most.
MAX_LIMIT: Final = 1000

#: Characters of a path to show at most.
_LONGEST_PATH: Final = 200

#: Groups of one socket to show at most.
_MOST_GROUPS: Final = 10

#: Rows to make before others have their turn.
_SLICE: Final = 50


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
        id: what ``collect(ids=...)`` finds it by, as long as it is open in this process.
        opened: when it opened, in seconds since 1970.
        groups: names of groups that it is in, without those of user and session; ten at most.
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
    id: str = ""
    opened: float = 0.0
    groups: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    Attributes:
        host: name of its machine.
        pid: its process id there.
        counters: see ``metrics.snapshot()``.
        total: how many sockets match the question; ``sockets`` may list only some of them.
        preceding: how many of them come before ``sockets`` in the order.
        group_count: how many groups have members here, without those of users and sessions.
        groups: the largest of them.
        sockets: the first of the sockets that match, in the order of the question.
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
    preceding: int = 0

    @property
    def name(self) -> str:
        """Host and process id."""
        return f"{self.host}:{self.pid}"


@dataclass(frozen=True, slots=True)
class Overview:
    """The answers of all processes.

    Attributes:
        processes: the processes, by name.
        sockets: sockets of all processes, the oldest first, or as ``order`` says.
        total: how many sockets there are; ``sockets`` may list only some of them.
        groups: groups of all processes, the largest first.
        groups_omitted: how many groups are not in ``groups``, at least.
        counters: totals of all processes.
        problem: why other processes could not be asked, or ``""``.
        missing: how many processes did not answer in time; ``None`` if that is unknown.
        preceding: how many sockets come before ``sockets``, with ``after`` or ``before``.
    """

    processes: Sequence[Process]
    sockets: Sequence[OpenSocket]
    total: int
    groups: Sequence[GroupSize]
    groups_omitted: int
    counters: dict[str, float]
    problem: str
    missing: int | None = 0
    preceding: int = 0

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


def collect(
    limit: int = 0,
    group: str | None = None,
    prefix: str | None = None,
    *,
    order: str = "-age",
    after: Position | None = None,
    before: Position | None = None,
    **conditions: Any,
) -> Overview:
    """Ask every process that serves sockets; takes a second if one does not answer.

    Args:
        limit: how many sockets and groups each process lists: 0 to 1000. 0 for counters only.
        group: list only the members of this group: its name, or a pattern as in
            ``WEBSOCKET_HISTORY``, such as ``"room.*"``.
        prefix: prefix of that group, or of the user's, see ``WEBSOCKET_GROUP_PREFIX``; ``None`` for
            every prefix.
        order: the order of the sockets, by which each process selects those that it lists:
            ``"age"``, ``"messages_in"``, ``"messages_out"``, ``"bytes_in"``, ``"bytes_out"``,
            ``"unread"``, ``"unsent"``, the lowest first; with a minus before it, the highest first.
        after, before: list the sockets behind, or directly before, this position in the order; see
            ``position()``.
        conditions: list only sockets to which all of them apply: ``user_id``, primary key of the
            user, as a string; ``text``, a part of the path or of the address, in any case;
            ``older_than`` and ``younger_than``, in seconds; ``ids``, see ``OpenSocket``.

    Returns:
        The answers, and this process if it serves sockets. If ``problem`` is set, other processes
        could not be asked and only this process is included.

    Raises:
        TypeError: there is no such condition.
        KeyError: there is no such order.

    Example::

        collect(limit=10).sockets[0].path
        collect(10, "room.*", older_than=3600, order="-unsent").total
    """
    found = Filter(group, prefix, **conditions)
    return survey(found, limit, order=order, after=after, before=before)


def survey(
    wanted: Filter,
    limit: int = 0,
    *,
    order: str = "-age",
    after: Position | None = None,
    before: Position | None = None,
) -> Overview:
    """Do what ``collect()`` does, with the conditions in one object."""
    _ = ORDERS[order.removeprefix("-")]
    asked = {"limit": limit, "filter": wanted.as_json()}
    question = json.dumps({**asked, "order": order, "after": after, "before": before}).encode()
    answers = [_answer(question)] if pubsub.answers(_CHANNEL) else []
    problem = ""
    missing: int | None = 0
    try:
        replies = pubsub.ask_all(_CHANNEL, question)
        answers += replies
        missing = replies.missing
    except BackendUnavailable as error:
        problem = str(error)
    processes = sorted(_parse(answers), key=attrgetter("host", "pid"))
    return _join(processes, problem, missing, order)


def position(socket: OpenSocket, order: str = "-age") -> Position:
    """Return the position of a socket in an order, for ``collect(after=...)``.

    Args:
        socket: the socket.
        order: see ``collect()``.
    """
    name = order.removeprefix("-")
    value = -socket.opened if name == "age" else getattr(socket, name)
    return position_of(order, value, socket.opened, socket.id)


# Answering


def _answer(question: bytes) -> bytes:
    return json.dumps(_describe_process(json.loads(question))).encode()


def _describe_process(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a ``Process``."""
    host, pid = socket.gethostname(), os.getpid()
    limit = min(max(int(asked["limit"]), 0), MAX_LIMIT)
    after, before = (found and tuple(found) for found in (asked["after"], asked["before"]))
    wanted = Filter(**asked["filter"])
    if limit or wanted != Filter():
        page = take_page(wanted.matching(), limit, asked["order"], after, before)
    else:
        page = Page(len(open_sockets), 0, [])  # Prometheus asks often
    rows = [
        _describe(websocket, f"{host}:{pid}")
        for some in slices(page.sockets, _SLICE)
        for websocket in some
    ]
    # Groups of users and sessions are left out: there may be one for each socket.
    sizes = members.sizes() if limit else []
    return {
        "host": host,
        "pid": pid,
        "counters": snapshot(),
        "total": page.total,
        "preceding": page.preceding,
        "group_count": len(sizes),
        "groups": [
            GroupSize(name_of(key), size, prefix_of(key))
            for key, size in nlargest(limit, sizes, key=itemgetter(1))
        ],
        "sockets": rows,
        "generation": generation(),
    }


def _describe(websocket: Connection, worker: str) -> dict[str, Any]:
    """Return the fields of an ``OpenSocket``."""
    hooks: Any = websocket.hooks
    return {
        "path": wire_path(websocket.environ)[:_LONGEST_PATH],
        "user_id": hooks.user_id,
        "address": hooks.address,
        "age": round(hooks.age, 3),
        **websocket.traffic._asdict(),
        "unread": websocket.unread,
        "unsent": websocket.unsent,
        "latency": websocket.latency,
        "worker": worker,
        "prefix": hooks.prefix,
        "id": id_of(websocket),
        "opened": opened_of(websocket),
        "groups": _groups_of(websocket),
    }


def _groups_of(websocket: Connection) -> list[str]:
    keys = websocket.close_keys(lambda key: isinstance(key, (str, tuple)))
    return [name_of(key) for key in keys if name_of(key)[0] != "@"][:_MOST_GROUPS]


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


def _join(processes: Sequence[Process], problem: str, missing: int | None, order: str) -> Overview:
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
        sorted(sockets, key=lambda each: position(each, order)),
        sum(process.total for process in processes),
        [GroupSize(name, size, prefix) for (prefix, name), size in sizes.most_common()],
        sum(process.group_count - len(process.groups) for process in processes),
        counters,
        problem,
        missing,
        sum(process.preceding for process in processes),
    )
