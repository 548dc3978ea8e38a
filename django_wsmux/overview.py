"""What there is in all processes that serve sockets: sockets, groups, counters.

Each process answers for itself when it is asked, over ``WEBSOCKET_BACKEND``, as for the members of
a group; nothing is stored, so nothing is stale. Answers are bounded: a process names some of its
sockets and its largest groups, and says how many there are. The question is JSON, so are answers.
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from heapq import nlargest
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any, Final

from .backends import BackendUnavailable
from .hooks import DjangoHooks
from .metrics import snapshot
from .relay import members, relay
from .server.connection import Connection
from .server.environ import wire_path
from .server.logs import get_logger
from .server.registry import open_sockets

__all__ = ["MOST", "OpenSocket", "Overview", "Process", "is_alone", "look", "serve"]

logger = get_logger("django_wsmux.overview")

#: Where every process that serves sockets answers questions about itself.
_CHANNEL: Final = "@processes"

#: Sockets, and groups, that a process names at most.
MOST: Final = 1000

#: Characters of a path that are shown.
_LONGEST_PATH: Final = 200


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """One open socket.

    Attributes:
        path: of the handshake, quoted, with ``SCRIPT_NAME``.
        user_id: primary key of the signed-in user, as a string; ``None`` for nobody.
        address: where the handshake came from; empty for a unix socket.
        age: seconds since it opened.
        messages_in, bytes_in, messages_out, bytes_out: see ``server.traffic.Traffic``.
        unread: messages that wait for the view.
        unsent: bytes that wait for the peer.
        latency: seconds that the last answered ping took, or ``None``.
        worker: the process, as in ``Process.name``.
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


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    Attributes:
        host: name of its machine.
        pid: its process id there.
        counters: see ``metrics.snapshot()``.
        found: how many sockets were asked for; ``sockets`` may be some of them.
        group_count: how many groups have members here, without those of users and sessions.
        groups: the largest of them: name and number of members.
        sockets: those that are open, in no order.
    """

    host: str
    pid: int
    counters: dict[str, float]
    found: int = 0
    group_count: int = 0
    groups: Sequence[Sequence[Any]] = ()
    sockets: Sequence[OpenSocket] = ()

    @property
    def name(self) -> str:
        """Host and process id."""
        return f"{self.host}:{self.pid}"


@dataclass(frozen=True, slots=True)
class Overview:
    """What all processes answered.

    Attributes:
        processes: by name.
        sockets: of all processes, the oldest first.
        found: how many sockets there are; those missing in ``sockets`` were left out.
        groups: name and number of members, the largest first.
        groups_left_out: how many groups were, at least.
        counters: those of all processes together.
        problem: why other processes could not be asked, or ``""``.
    """

    processes: Sequence[Process]
    sockets: Sequence[OpenSocket]
    found: int
    groups: Sequence[tuple[str, int]]
    groups_left_out: int
    counters: dict[str, float]
    problem: str

    @property
    def left_out(self) -> int:
        """How many sockets are not in ``sockets``."""
        return self.found - len(self.sockets)

    @property
    def rows(self) -> list[tuple[str, list[float]]]:
        """Each counter by name, with its values: one for each process, and that of all."""
        tables = [*(process.counters for process in self.processes), self.counters]
        return [
            (name, [round(table.get(name, 0), 3) for table in tables]) for name in self.counters
        ]


def serve() -> None:
    """Answer questions about this process from now on; called for every handshake."""
    relay.answer(_CHANNEL, _answer)


def is_alone() -> bool:
    """Say whether this process knows of no other, by ``WEBSOCKET_BACKEND``."""
    return relay.backend() is None


def look(limit: int = 0, group: str | None = None) -> Overview:
    """Ask every process that serves sockets; takes a second where one does not answer.

    Args:
        limit: sockets that each process names, and groups: 0 to 1000. 0 for counters only.
        group: the name of a group whose members are asked for, instead of all sockets.

    Returns:
        What they said, and this process if it serves sockets. Where ``problem`` says that others
        cannot be asked it is this process alone.

    Example::

        look(limit=10).sockets[0].path
    """
    question = json.dumps({"limit": limit, "group": group}).encode()
    answers = [_answer(question)] if relay.answers(_CHANNEL) else []
    problem = ""
    try:
        answers += relay.ask_all(_CHANNEL, question)
    except BackendUnavailable as error:
        problem = str(error)
    return _join(sorted(_parse(answers), key=attrgetter("host", "pid")), problem)


# Answering


def _answer(question: bytes) -> bytes:
    asked = json.loads(question)
    limit = min(max(int(asked["limit"]), 0), MOST)
    process = _describe_process(limit, asked["group"])
    return json.dumps(asdict(process)).encode()


def _describe_process(limit: int, group: str | None) -> Process:
    host, pid = socket.gethostname(), os.getpid()
    sockets = list(open_sockets)
    if group is not None:
        # A socket may have joined before its 101.
        sockets = [each for each in members.of(group) if each in open_sockets]
    # There may be a group for each socket: those of people are not shown.
    groups = members.sizes() if limit else []
    return Process(
        host,
        pid,
        snapshot(),
        found=len(sockets),
        group_count=len(groups),
        groups=nlargest(limit, groups, key=itemgetter(1)),
        sockets=[_describe(each, f"{host}:{pid}") for each in islice(sockets, limit)],
    )


def _describe(websocket: Connection, worker: str) -> OpenSocket:
    hooks, traffic = websocket.hooks, websocket.traffic
    assert isinstance(hooks, DjangoHooks)
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
    )


# Asking


def _parse(answers: Iterable[bytes]) -> Iterator[Process]:
    for answer in answers:
        try:
            fields = json.loads(answer)
            fields["sockets"] = [OpenSocket(**each) for each in fields["sockets"]]
            yield Process(**fields)
        except (KeyError, TypeError, ValueError) as error:
            # While a new version is being rolled out.
            logger.warning("a process of another version of this package is left out: %s", error)


def _join(processes: Sequence[Process], problem: str) -> Overview:
    sizes: Counter[str] = Counter()
    counters: dict[str, float] = {}
    for process in processes:
        sizes.update(dict(process.groups))  # type: ignore[arg-type]  # pairs, as lists
        for name, value in process.counters.items():
            so_far = counters.get(name, 0)
            counters[name] = max(so_far, value) if name.endswith("_max") else so_far + value
    sockets = [each for process in processes for each in process.sockets]
    return Overview(
        processes,
        sorted(sockets, key=attrgetter("age"), reverse=True),
        sum(process.found for process in processes),
        sizes.most_common(),
        sum(process.group_count - len(process.groups) for process in processes),
        counters,
        problem,
    )
