"""Hands the open sockets of a worker that leaves over to workers that stay.

See ``handover.py`` for the protocol.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import gevent

from ..connection import guard, registry
from ..connection.counters import counters
from ..connection.interfaces import Detached
from ..logs import get_logger
from ..protocol.events import CannotMove
from . import offers, parcels
from .handover import VERSION, entry, is_own_user
from .mover import Mover
from .offers import Worker
from .parcels import Parcel, close_fd

__all__ = ["Giver", "Plan", "Report"]

logger = get_logger("django_wsmux.handover")

#: The most sockets and, unless a single one has more, bytes of a batch.
_BATCH: Final = 64
_BYTES: Final = 2**24

#: Seconds that a taker has to greet, to answer and to take a batch.
PATIENCE: Final = 10.0

#: Seconds to wait for what the taker's answer names.
_SETTLE: Final = 2.0

#: Seconds to wait for other takers once the first is ready: it would get everything.
_SIBLINGS: Final = 2.0

#: Seconds between looks at what has changed, and the most if nothing changes.
_TICK: Final = 0.02
_LONGEST_PAUSE: Final = 0.5

#: Looks after which no taker is coming. One is not enough: a taker that becomes ready between the
#: two halves of a look is in neither.
_MISSES: Final = 3

#: Seconds that sockets which cannot move now have to become idle, after the last one has moved. The
#: others that stay are closed only then.
_BUSY: Final = 5.0

#: Seconds for requests under way to open their sockets, once all others have moved.
_LATE: Final = 1.0


@dataclass
class Report:
    """What has become of the sockets of this process.

    Attributes:
        given: how many each process got, by its number.
        taken_back: how often a socket was taken back.
        stay: how many sockets stay, by reason.
        seconds: how long it took.
    """

    given: Counter[int] = field(default_factory=Counter)
    taken_back: int = 0
    stay: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def __str__(self) -> str:
        given = ", ".join(f"{count} to {pid}" for pid, count in self.given.items())
        stay = ", ".join(f"{count}: {reason}" for reason, count in self.stay.most_common())
        return (
            f"{self.given.total()} sockets in {self.seconds:.2f} s"
            f"{f' ({given})' if given else ''}; {self.stay.total()} stay"
            f"{f' ({stay})' if stay else ''}"
            f"{f'; {self.taken_back} were taken back' if self.taken_back else ''}"
        )


@dataclass
class Plan:
    """When and to whom a worker gives; the server decides.

    Attributes:
        may_take: whether a worker may get sockets.
        is_coming: whether one that may will be ready soon, so that waiting makes sense.
        more_coming: whether there will be more of them soon than there are.
        on_ready: called once, when the first is ready and giving begins.
        is_answering: whether requests are under way, which may open sockets.
    """

    may_take: Callable[[Worker], bool]
    is_coming: Callable[[], bool] = lambda: False
    more_coming: Callable[[], bool] = lambda: False
    on_ready: Callable[[], None] = lambda: None
    is_answering: Callable[[], bool] = lambda: False


class _Lost(Exception):
    """A taker has ended, or does not answer."""


class _Link:
    """A connection to a taker."""

    def __init__(self, worker: Worker, directory: str) -> None:
        self.worker = worker
        self.sockets = 0
        self.is_leaving = False
        self.problem = ""
        self._sock: Any = None
        self.greeting = gevent.spawn(self._greet, directory)

    @property
    def is_ready(self) -> bool:
        """Whether it takes sockets."""
        return self._sock is not None

    @property
    def is_lost(self) -> bool:
        """Whether it takes none."""
        return self._sock is None and bool(self.greeting.dead)

    def close(self) -> None:
        """End the connection."""
        self.greeting.kill()
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def _greet(self, directory: str) -> None:
        sock = None
        try:
            sock = offers.connect(directory, self.worker)
            sock.settimeout(PATIENCE)
            if not is_own_user(sock):
                raise _Lost("it belongs to another user")
            parcels.send(sock, Parcel("hello", {"version": VERSION}))
            parcel = parcels.receive(sock)
            if parcel is None:
                raise _Lost("it has ended")
            if parcel.kind != "hello" or parcel.body.get("version") != VERSION:
                raise _Lost(f"it refuses: {parcel.body.get('reason')}")
        except (OSError, parcels.Damaged, _Lost) as error:
            self.problem = str(error) or type(error).__name__
            if sock is not None:
                sock.close()
            return
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        self.is_leaving = bool(parcel.body.get("is_leaving"))
        self._note(parcel)
        self._sock = sock

    def _note(self, parcel: Parcel) -> None:
        sockets = parcel.body.get("sockets")
        if type(sockets) is int:
            self.sockets = sockets

    def send(self, parcel: Parcel) -> None:
        """Send a message; if it raises, nothing was sent."""
        parcels.send(self._sock, parcel)

    def receive(self, seconds: float) -> Parcel | None:
        """Wait for a message; return ``None`` if the taker has ended without one.

        Raises:
            TimeoutError: it has not come in time.
        """
        self._sock.settimeout(seconds)
        parcel = parcels.receive(self._sock)
        if parcel is not None:
            self._note(parcel)
        return parcel


class _Moving:
    """A socket that is detached here and not taken yet."""

    __slots__ = ("detached", "record", "websocket")

    def __init__(self, websocket: Any, record: dict[str, Any], detached: Detached) -> None:
        self.websocket = websocket
        self.record = record
        self.detached = detached


class Giver:
    """Gives the sockets of this process, in batches, while it serves them.

    Args:
        mover: packs them.
        me: this process.
        deadline: when to stop at the latest, as of ``time.monotonic()``.
        plan: when and to whom.
    """

    def __init__(self, mover: Mover, me: Worker, deadline: float, plan: Plan) -> None:
        self._mover = mover
        self._me = me
        self._deadline = deadline
        self._plan = plan
        self._directory = ""
        self._links: dict[int, _Link] = {}
        # Why sockets stay for good, and why others cannot move now.
        self._stays: dict[Any, str] = {}
        self._reasons: dict[Any, str] = {}
        self.report = Report()

    def run(self) -> Report:
        """Give all that can move; return when that is done, or no one is there to take it."""
        began = time.monotonic()
        is_collecting = gc.isenabled()
        try:
            self._directory = self._mover.directory
            if self._is_awaited():
                self._plan.on_ready()
                # A collection would look at every object of every socket.
                gc.disable()
                self._give_all()
        except Exception:
            logger.exception("Bug in django_wsmux: handing over sockets has failed")
        finally:
            if is_collecting:
                gc.enable()
            for link in self._links.values():
                link.close()
            guard.call(self._mover.gave_all)
            self._sum_up()
            self.report.seconds = time.monotonic() - began
        return self.report

    def is_over(self) -> bool:
        """Return whether there is no time left."""
        return self._left() <= 0

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    # Takers

    def _look(self) -> list[_Link]:
        """Return the takers that are ready now."""
        for found in offers.look(self._directory, self._me):
            worker = found.worker
            if found.is_ready and worker.pid not in self._links and self._plan.may_take(worker):
                self._links[worker.pid] = _Link(worker, self._directory)
        ready = [link for link in self._links.values() if link.is_ready]
        return [link for link in ready if not link.is_leaving] or ready

    def _is_awaited(self) -> bool:
        """Wait for takers; return whether there is one."""
        first_at = None
        misses = 0
        while self._left() > 0:
            ready = self._look()
            now = time.monotonic()
            is_greeting = any(not (each.is_ready or each.is_lost) for each in self._links.values())
            if ready:
                first_at = first_at or now
                is_more = is_greeting or self._plan.more_coming()
                if not is_more or now > first_at + _SIBLINGS:
                    return True
            elif is_greeting or self._plan.is_coming():
                misses = 0
            else:
                misses += 1
                if misses == _MISSES:
                    return False
            gevent.sleep(_TICK)
        return False

    # Sockets

    def _candidates(self) -> list[Any]:
        return [
            websocket
            for websocket in list(registry.open_sockets)
            if not websocket.closed
            and websocket not in self._stays
            and self._wants_to_move(websocket)
        ]

    def _wants_to_move(self, websocket: Any) -> bool:
        if self._mover.wants_to_move(websocket):
            return True
        self._stays[websocket] = "it does not move"
        return False

    def _give_all(self) -> None:
        done_at = None
        pause, moved_at = _TICK, time.monotonic()
        while self._left() > 0:
            candidates = self._candidates()
            if not candidates:
                # Requests under way may open more.
                done_at = done_at or time.monotonic()
                if not self._plan.is_answering() or time.monotonic() > done_at + _LATE:
                    return
                gevent.sleep(_TICK)
                continue
            done_at = None
            links = self._look()
            if not links:
                if not self._is_awaited():
                    return
                continue
            share = -(-len(candidates) // len(links))
            if self._give_some(links, candidates, min(share, _BATCH)):
                pause, moved_at = _TICK, time.monotonic()
            elif time.monotonic() > moved_at + _BUSY:
                return
            else:
                # They are busy: a message is being handled, or is incomplete.
                gevent.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _give_some(self, links: list[_Link], candidates: list[Any], most: int) -> bool:
        """Give batches of these sockets, each to the taker with the fewest; return whether any."""
        has_moved = False
        for start in range(0, len(candidates), most):
            usable = [link for link in links if link.is_ready]
            if not usable or self._left() <= 0:
                break
            link = min(usable, key=lambda each: each.sockets)
            try:
                has_moved |= self._give(link, candidates[start : start + most])
            except _Lost as error:
                logger.warning("Worker %d takes no more sockets: %s", link.worker.pid, error)
                link.problem = str(error)
                link.close()
            gevent.sleep(0)
        return has_moved

    def _give(self, link: _Link, websockets: list[Any]) -> bool:
        """Give one batch to a taker; return whether any socket has moved.

        Raises:
            _Lost: the taker cannot be used any more. No socket is lost.
        """
        is_complete = self._is_prepared(link, websockets)
        # From here until the batch is sent, no other greenlet runs.
        moving = list(self._detach(websockets))
        if not moving:
            return False
        batch: dict[str, Any] = {}
        try:
            batch = self._mover.seal([each.record for each in moving], is_complete)
            link.send(_parcel(batch, moving))
        except (OSError, ValueError) as error:
            self._take_back(moving, batch)
            raise _Lost(str(error)) from error
        except BaseException:
            self._take_back(moving, batch)
            raise
        return self._conclude(link, moving, batch)

    def _is_prepared(self, link: _Link, websockets: list[Any]) -> bool:
        """Have the taker listen to the groups of sockets; return whether no message is missed."""
        try:
            link.send(Parcel("ask", self._mover.ask(websockets)))
            parcel = link.receive(self._patience())
        except (OSError, parcels.Damaged) as error:
            raise _Lost(str(error) or "it does not answer") from error
        if parcel is None:
            raise _Lost("it has ended")
        if parcel.kind == "refused":
            raise _Lost(f"it refuses: {parcel.body.get('reason')}")
        answer = parcel.body.get("answer")
        if parcel.kind != "answer" or type(answer) is not dict:
            raise _Lost("its answer is not understood")
        return self._mover.wait_for(answer, min(_SETTLE, max(self._left(), 0.0)))

    def _patience(self) -> float:
        return max(1.0, min(PATIENCE, self._left()))

    def _detach(self, websockets: list[Any]) -> Iterator[_Moving]:
        size = 0
        for websocket in websockets:
            if websocket.closed or size > _BYTES:
                continue
            try:
                record = self._mover.pack(websocket)
                detached = websocket.detach()
            except CannotMove as error:
                reasons = self._stays if error.is_final else self._reasons
                reasons[websocket] = str(error)
            except Exception:
                logger.exception("%r stays in this process", websocket)
                self._stays[websocket] = "its state cannot be read"
            else:
                size += len(detached.unread) + len(detached.unsent)
                yield _Moving(websocket, record, detached)

    def _conclude(self, link: _Link, moving: list[_Moving], batch: dict[str, Any]) -> bool:
        """Wait until the batch is taken; return whether any of it is.

        Whatever happens except an answer, or the end of the taker without one, the taker may have
        the sockets: then the copies are closed here, and not used again.
        """
        kept: list[_Moving] | None = None
        try:
            parcel = link.receive(self._patience())
            if parcel is None:
                kept = []
                self._take_back(moving, batch)
                raise _Lost("it has ended")
            if parcel.kind == "refused":
                kept = []
                self._take_back(moving, batch)
                raise _Lost(f"it refuses: {parcel.body.get('reason')}")
            refused = {int(index): str(why) for index, why in parcel.body["refused"].items()}
            kept = [each for index, each in enumerate(moving) if index not in refused]
            for index, why in refused.items():
                self._refuse(self._take_back([moving[index]], batch), why)
            return bool(kept)
        except (OSError, parcels.Damaged, KeyError, ValueError) as error:
            raise _Lost(f"it has not confirmed a batch, and keeps it: {error}") from error
        finally:
            self._let_go(link, moving if kept is None else kept)

    def _let_go(self, link: _Link, moving: list[_Moving]) -> None:
        """Close the copies of sockets that another process has."""
        if not moving:
            return
        counters["handover_given"] += len(moving)
        self.report.given[link.worker.pid] += len(moving)
        for each in moving:
            close_fd(each.detached.fd)
        try:
            self._mover.given([each.websocket for each in moving])
        except Exception:
            logger.exception("Bug in django_wsmux: noting that sockets have moved has failed")

    def _take_back(self, moving: list[_Moving], batch: dict[str, Any]) -> list[Any]:
        """Continue sockets here; return the new ones."""
        returned = []
        for each in moving:
            counters["handover_taken_back"] += 1
            self.report.taken_back += 1
            try:
                websocket = self._mover.take_back(each.websocket, each.record, each.detached, batch)
            except Exception:
                logger.exception("%r is lost: it could not be taken back", each.websocket)
            else:
                returned.append(websocket)
        return returned

    def _refuse(self, websockets: list[Any], reason: str) -> None:
        counters["handover_refused"] += len(websockets)
        self._stays.update(dict.fromkeys(websockets, f"refused: {reason}"))

    def _sum_up(self) -> None:
        problems = {link.problem for link in self._links.values() if link.problem}
        unused = f"no worker has taken it: {', '.join(sorted(problems)) or 'none was ready'}"
        for websocket in registry.open_sockets:
            if websocket.closed:
                continue
            reason = self._stays.get(websocket) or self._reasons.get(websocket, unused)
            self.report.stay[reason] += 1


def _parcel(batch: dict[str, Any], moving: list[_Moving]) -> Parcel:
    """Return the message that carries a batch."""
    entries, parts, start = [], [], 0
    for each in moving:
        entries.append(entry(each.record, each.detached, start))
        parts += [each.detached.unread, each.detached.unsent]
        start += len(parts[-2]) + len(parts[-1])
    body = {"batch": batch, "entries": entries}
    return Parcel("batch", body, b"".join(parts), [each.detached.fd for each in moving])
