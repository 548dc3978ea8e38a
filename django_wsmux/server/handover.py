"""Takes open sockets from workers that leave.

A giver connects to the socket of an ``Offer`` (``giving.py``) and sends, after a greeting:

* ``ask``: before each batch; the ``answer`` says what the giver must have received first.
* ``batch``: the sockets, of which the giver keeps copies. The answer is ``ok``, with the sockets
  that are refused, or ``refused``, for the batch.

``ok`` decides. Before it the taker changes nothing: if it dies, the giver continues with its
copies. After it, the taker owns the sockets, whether the giver lives or not. A giver that has
waited too long for ``ok`` closes its copies and takes nothing back: a taker that was only stopped
would serve the sockets, too.
"""

from __future__ import annotations

import contextlib
import gc
import os
import struct
from typing import Any, Final

import gevent
from gevent import socket

from ..connection import registry
from ..connection.counters import counters
from ..connection.interfaces import Detached
from ..logs import get_logger
from . import forks, parcels
from .mover import Mover
from .offers import Offer, Worker
from .parcels import Damaged, Parcel, close_fd

__all__ = ["VERSION", "Taker", "entry", "is_own_user", "offer", "withdraw"]

logger = get_logger("django_wsmux.handover")

#: The version of the protocol. Processes of another version refuse.
VERSION: Final = 1


def entry(record: dict[str, Any], detached: Detached, start: int) -> dict[str, Any]:
    """Return the entry of one socket in a batch.

    Args:
        record: from ``Mover.pack()``.
        detached: the socket; its bytes follow those of the sockets before.
        start: where its bytes begin.
    """
    sizes = [len(detached.unread), len(detached.unsent)]
    return {"record": record, "codec": detached.codec_state, "start": start, "sizes": sizes}


def _detached(entry: Any, fd: int, raw: bytes) -> Detached:
    """Return the socket of an entry.

    Raises:
        Damaged: the entry is not one of ``entry()``.
    """
    try:
        start, (unread, unsent) = entry["start"], entry["sizes"]
        is_right = all(type(number) is int and number >= 0 for number in (start, unread, unsent))
        end = start + unread + unsent
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged("an entry lacks its sizes") from error
    if not is_right or end > len(raw):
        raise Damaged("an entry has bytes that are not there")
    if type(entry.get("codec")) is not dict or type(entry.get("record")) is not dict:
        raise Damaged("an entry lacks its state")
    middle = start + unread
    return Detached(fd, raw[start:middle], raw[middle:end], entry["codec"])


def is_own_user(sock: Any) -> bool:
    """Return whether the process at the other end runs as the same user."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(user == os.geteuid())


class Taker:
    """Takes the sockets of workers that leave.

    Args:
        mover: builds the sockets.
        offer: shows that this process takes sockets.

    Attributes:
        mover: the mover.
        directory: its directory.
        is_leaving: this process will leave soon itself, so others are to be preferred.
    """

    def __init__(self, mover: Mover, offer: Offer) -> None:
        self.mover = mover
        self.directory = mover.directory
        self._offer = offer
        self.is_leaving = False
        self._is_stopped = False
        self._givers = 0
        # Batches that are being taken; meanwhile the garbage collector waits.
        self._taking = 0
        self._is_collecting = False
        self._greenlet = gevent.spawn(self._accept)

    def stop(self) -> None:
        """Take no more sockets."""
        self._is_stopped = True
        self._greenlet.kill()
        self._offer.withdraw()

    def remove(self) -> None:
        """Remove the name of this process: it ends."""
        self.stop()
        self._offer.remove()

    def _accept(self) -> None:
        while True:
            try:
                giver, _ = self._offer.listener.accept()
            except OSError as error:
                logger.warning("A worker cannot hand over sockets now: %s", error)
                gevent.sleep(1.0)
            else:
                gevent.spawn(self._serve, giver)

    def _serve(self, giver: Any) -> None:
        """Take what one giver gives."""
        forks.listeners.add(giver)  # a forked child must not read what comes
        self._givers += 1
        try:
            if not is_own_user(giver):
                logger.warning("A process of another user has tried to hand over sockets")
            elif self._is_greeted(giver):
                while (parcel := parcels.receive(giver)) is not None:
                    self._handle(giver, parcel)
        except Damaged as error:
            logger.error("A worker has sent a message that cannot be used: %s", error)
            with contextlib.suppress(OSError):
                parcels.send(giver, Parcel("refused", {"reason": str(error)}))
        except OSError:
            pass  # the giver has ended, and what it has given is taken
        except Exception:
            logger.exception("Bug in django_wsmux: taking over sockets has failed")
        finally:
            giver.close()
            self._givers -= 1
            if not self._givers:
                self._finish()

    def _is_greeted(self, giver: Any) -> bool:
        """Exchange greetings; return whether both speak the same version."""
        parcel = parcels.receive(giver)
        if parcel is None:
            return False
        _close(parcel)
        version = parcel.body.get("version")
        if parcel.kind != "hello" or version != VERSION:
            reason = f"version {version!r} of the protocol is unknown here ({VERSION})"
            logger.warning("A worker cannot hand over its sockets: %s", reason)
            parcels.send(giver, Parcel("refused", {"reason": reason}))
            return False
        body = {"version": VERSION, "is_leaving": self.is_leaving, **_load()}
        parcels.send(giver, Parcel("hello", body))
        return True

    def _handle(self, giver: Any, parcel: Parcel) -> None:
        if self._is_stopped:
            _close(parcel)
            parcels.send(giver, Parcel("refused", {"reason": "it leaves, too"}))
            return
        if parcel.kind == "batch":
            self._take(giver, parcel)
            return
        _close(parcel)
        if parcel.kind == "ask":
            answer = self.mover.answer(parcel.body)
            parcels.send(giver, Parcel("answer", {"answer": answer}))
        # Another kind is of a later version that does not depend on it.

    def _take(self, giver: Any, parcel: Parcel) -> None:
        """Take a batch, or refuse it."""
        self._taking += 1
        if self._taking == 1:
            # A collection would look at every object of every socket, again and again.
            self._is_collecting = gc.isenabled()
            gc.disable()
        try:
            try:
                moved, built = self._build(parcel)
            except Exception as error:
                _close(parcel)
                if not isinstance(error, Damaged):
                    logger.exception("Bug in django_wsmux: a batch of sockets is refused")
                reason = str(error) or type(error).__name__
                parcels.send(giver, Parcel("refused", {"reason": reason}))
                return
            self._commit(giver, parcel, moved, built)
        finally:
            self._taking -= 1
            if not self._taking and self._is_collecting:
                gc.enable()

    def _build(self, parcel: Parcel) -> tuple[list[Detached], list[object]]:
        """Return the sockets of a batch, and what continues each of them, or why it is refused."""
        entries, batch = parcel.body.get("entries"), parcel.body.get("batch")
        if type(entries) is not list or type(batch) is not dict or len(entries) != len(parcel.fds):
            raise Damaged("entries and descriptors do not match")
        moved = [_detached(*each, parcel.raw) for each in zip(entries, parcel.fds, strict=True)]
        built = self.mover.build(batch, [each["record"] for each in entries])
        if len(built) != len(entries):
            raise RuntimeError("the mover has built another number of sockets")
        return moved, built

    def _commit(
        self, giver: Any, parcel: Parcel, moved: list[Detached], built: list[object]
    ) -> None:
        """Say that the batch is taken, and continue its sockets."""
        refused = {index: each for index, each in enumerate(built) if isinstance(each, str)}
        try:
            parcels.send(giver, Parcel("ok", {"refused": refused, **_load(len(built))}))
        except (BrokenPipeError, ConnectionResetError):
            # The giver has died, or waits no longer. In both cases its copies are closed.
            pass
        except BaseException:
            # It has not been told, so it takes the batch back as soon as this connection ends.
            _close(parcel)
            raise
        for index in refused:
            close_fd(moved[index].fd)
        adopted = [
            (each, detached)
            for index, (each, detached) in enumerate(zip(built, moved, strict=True))
            if index not in refused
        ]
        counters["handover_taken"] += len(adopted)
        self.mover.adopt(parcel.body["batch"], adopted)

    def _finish(self) -> None:
        try:
            self.mover.finished()
        except Exception:
            logger.exception("Bug in django_wsmux: ending a handover has failed")
        if self._is_collecting:
            # The objects of the sockets live long: later collections need not look at them.
            gc.freeze()
            self._is_collecting = False


def _load(more: int = 0) -> dict[str, int]:
    """Return how many sockets this process has, for givers to choose."""
    return {"sockets": len(registry.open_sockets) + more}


def _close(parcel: Parcel) -> None:
    for fd in parcel.fds:
        close_fd(fd)


#: The taker of this process.
_taker: Taker | None = None


def offer(mover: Mover, worker: Worker) -> Taker | None:
    """Take sockets from now on: the application is loaded.

    Args:
        mover: builds them.
        worker: this process.

    Returns:
        The taker, or ``None`` if the directory cannot be used, which is logged.
    """
    global _taker
    _taker = None
    try:
        _taker = Taker(mover, Offer(mover.directory, worker))
    except OSError as error:
        logger.warning("This worker can neither take nor hand over sockets: %s", error)
    return _taker


def withdraw() -> None:
    """Take no more sockets."""
    if _taker is not None:
        _taker.stop()
