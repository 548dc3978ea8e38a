"""``local://``: all processes of one user and one project on one machine; nothing to install.

Each listening process has a unix stream socket in a directory that only its user can enter. A
process that publishes connects to each of them once, and writes every packet to all.

Streams are used instead of datagrams, because on Linux only 11 datagrams of all senders together
may wait at a receiver (``net.unix.max_dgram_qlen``). With streams each sender has its own buffer
for some hundred packets. Measured with packets of 180 bytes, as fast as possible: 270,000 a second
instead of 20,000, and 1.0 microseconds for the receiver instead of 20. A stream also has no maximum
message size (2 KiB for datagrams on macOS), and both ends notice at once when the other dies.

The directory is in the temporary directory, not in ``$XDG_RUNTIME_DIR``: that is set in a login
shell but not in a service, and removed at logout, so it would separate a management command from
the workers. If the temporary directory is private to a service (systemd's ``PrivateTmp``), name a
shared one: ``local:///run/mysite``.

On macOS and the BSDs, a process that is stopped while 128 others connect to it looks dead to the
next one, which removes its socket. Within five seconds of continuing it makes a new one and reports
the gap. Linux distinguishes the two cases.
"""

from __future__ import annotations

import _socket
import base64
import contextlib
import glob
import os
import re
import secrets
import socket
import stat
import threading
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from ..logs import get_logger
from .base import Backend
from .numbers import wait_until
from .private_directory import PrivateDirectory
from .request_reply import Expected
from .selector import READ, WRITE, close
from .unix_stream import (
    MAX_PACKET,
    SCARCE,
    BrokenStream,
    Incoming,
    Link,
    StaleSocket,
    frame,
)

__all__ = ["LocalBackend"]

logger = get_logger("django_wsmux.backends")

#: Longest path of a socket in bytes: with a final NUL 104 on macOS and the BSDs, 108 on Linux.
_MAX_PATH: Final = 103

#: Seconds between two checks that the own socket still exists.
_TICK: Final = 5.0

#: Seconds until a connection is tried again if the peer's backlog was full.
_RETRY: Final = 0.1

#: Seconds for which close() continues to send queued packets.
_LINGER: Final = 1.0

#: Seconds for which no connection is accepted after descriptors have run out.
_PAUSE: Final = 1.0

#: Seconds after which a socket without its final name counts as left by a crash.
_LEFT_BEHIND: Final = 60.0

#: Queued bytes beyond which a publisher lets the owner run.
_YIELD: Final = 65_536

#: The name of a process's socket. The directory contains sockets of another kind, too.
_NAME: Final = re.compile(r"[\w-]{22}", re.ASCII)

#: Nanoseconds within which a later change may have the same mtime: clocks of file systems tick.
_CLOCK_TICK: Final = 2_000_000_000


class LocalBackend(Backend):
    """A backend with unix stream sockets in a private directory; see the module.

    Args:
        url: ``local://``; ``local:///directory`` puts the private directory there.
            ``?queue=bytes`` sets how much is queued for a slow process; the default is 8 MiB.
        namespace: see ``Backend``.
    """

    def __init__(self, url: str = "local://", *, namespace: str = "") -> None:
        super().__init__(url, namespace=namespace)
        self._limit = int(parse_qs(urlsplit(url).query).get("queue", ["8388608"])[0])
        self._private = PrivateDirectory(url, namespace)
        self.directory = self._private.path

    # The contract

    @property
    def place(self) -> str:
        """The directory."""
        return self.directory

    def hints(self) -> list[str]:
        """Return the directories of other users and other projects beside this one."""
        found = []
        for path in sorted(glob.glob(os.path.join(glob.escape(self._private.parent), "wsmux-*-*"))):
            user, _, key = os.path.basename(path).removeprefix("wsmux-").partition("-")
            if path == self.directory or not os.path.isdir(path):
                continue
            if key == self._private.key:
                found.append(f"{path} is of the same project and the user {_owner(path, user)}")
            elif user == str(os.geteuid()) and glob.glob(os.path.join(glob.escape(path), "*")):
                found.append(f"{path} is of another project or another release")
        return found

    def rehearse(self) -> None:
        """Make a socket in the directory and remove it."""
        name = _name(os.urandom(16))
        listener = self._listen_at(f".{name}")
        close(listener)
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.directory, f".{name}"))

    def prepare(self) -> None:
        """Make the state of one process."""
        # The user may have changed since the import: gunicorn --preload --user.
        self.directory = self._private.path
        self._mutex = threading.Lock()
        self._links: dict[str, Link] = {}
        # Links whose watchers the owner must update.
        self._changed: list[Link] = []
        self._listed: int | None = None
        # Why a process cannot be reached at the moment.
        self._problem: OSError | None = None
        self._name = _name(self.id)
        self._path = os.path.join(self.directory, self._name)
        self._listener = -1
        # While connections are not accepted: when to accept them again.
        self._accepts_at: float | None = None
        self._incoming: set[Incoming] = set()
        # Set once everything that has arrived was read.
        self._readings: list[threading.Event] = []

    def open(self) -> None:
        """Make this process visible to the others before start() returns."""
        self._bind()
        self.effective.set()

    def listen(self) -> None:
        """Accept connections, read, and flush queued packets."""
        if self._listener < 0:
            self._bind()
        self.waiter.register(self._listener, READ, self._accept)
        self._accepts_at = None
        with self._mutex:
            self._changed += self._links.values()
        waiter = self.waiter
        try:
            self.listening()
            self._serve()
        finally:
            # In a fork all of this belongs to the parent.
            waiter.require_same_process()
            self._let_go()

    def transmit(self, channel: str, packet: bytes) -> None:
        """Send to every listening process, which ignores channels to which it is not subscribed."""
        self._send(packet)

    def query(self, channel: str, packet: bytes) -> Expected:
        """Send to every listening process; return the ids of those reached."""
        return self._send(packet)

    def reply(self, asker: bytes, packet: bytes) -> None:
        """Send to one process."""
        self._send(packet, only=asker)

    def mark(self, process: bytes, timeout: float) -> dict[str, Any]:
        """Have all processes send a mark, on their streams to that process.

        What they publish later arrives here, too, because they know this process by then.
        """
        mark = secrets.token_bytes(8)
        replies = self.ask("", process + mark, timeout)
        if replies.missing != 0:
            return {}
        self.send_mark(process, mark)
        senders = [each.hex() for each in (self.id, *replies) if each != process]
        return {"mark": mark.hex(), "senders": senders}

    def await_mark(self, mark: Mapping[str, Any], timeout: float) -> bool:
        """Wait for the marks, and until everything that has arrived by now is read.

        The latter is for processes that only publish, or have ended: they are not asked.
        """
        deadline = time.monotonic() + timeout
        is_read = threading.Event()
        self._readings.append(is_read)
        self.waiter.wake()
        return super().await_mark(mark, timeout) and wait_until(
            is_read.is_set, deadline - time.monotonic()
        )

    def release(self) -> None:
        """Remove the own socket, and close everything."""
        if self._listener >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        self.forget()

    def forget(self) -> None:
        """Close all descriptors."""
        for link in (*self._links.values(), *self._changed):
            link.close()
        for incoming in self._incoming:
            incoming.close()
        self._incoming.clear()
        if self._listener >= 0:
            close(self._listener)
            self._listener = -1

    # Sending

    def _send(self, packet: bytes, only: bytes | None = None) -> set[bytes]:
        if len(packet) > MAX_PACKET:
            raise self.unavailable(f"packet of {len(packet)} bytes, limit {MAX_PACKET}")
        data = frame(packet)
        reached = set()
        longest = 0
        with self._mutex:
            for link in self._peers():
                if only is not None and link.peer != only:
                    continue
                if link.send(data):
                    reached.add(link.peer)
                else:
                    self.counts.dropped += not link.is_dead
                if link.is_dead or (link.backlog and not link.watched_for & WRITE):
                    self._changed.append(link)
                longest = max(longest, link.backlog)
            is_work = bool(self._changed)
            if is_work and self._owner is None and not longest:
                self._bury_dead()
                is_work = False
        if is_work:
            # Outside the lock, because starting a thread waits for it.
            self._start_owner()
            self.waiter.wake()
        if longest > _YIELD:
            time.sleep(0)
        if self._problem is not None:
            raise self.unavailable(f"not all processes were reached: {self._problem}")
        return reached

    def _bury_dead(self) -> None:
        """Remove dead links if no owner runs; it checks all others when it starts."""
        for link in self._changed:
            if link.is_dead:
                self._remove(link)
        self._changed.clear()

    def _peers(self) -> Iterable[Link]:
        try:
            changed = os.stat(self.directory).st_mtime_ns
        except FileNotFoundError:
            return ()
        if changed != self._listed:
            self._private.require_private()
            # A file made within the same tick of the clock would be missed, so list again later.
            is_settled = time.time_ns() - changed > _CLOCK_TICK
            self._listed = None
            self._refresh()
            if is_settled and self._problem is None:
                self._listed = changed
        return tuple(self._links.values())

    def _refresh(self) -> None:
        self._problem = None
        try:
            names = {name for name in os.listdir(self.directory) if _NAME.fullmatch(name)}
        except OSError as error:  # listing needs a descriptor
            self._problem = error
            return
        for name in self._links.keys() - names:
            link = self._links.pop(name)
            link.is_dead = True
            self._changed.append(link)
        for name in names - self._links.keys() - {self._name}:
            path = os.path.join(self.directory, name)
            try:
                link = Link(path, base64.urlsafe_b64decode(name + "=="), self.id, self._limit)
            except StaleSocket:
                # A socket gets its name only once its process listens, so this process is dead.
                with contextlib.suppress(OSError):
                    os.unlink(path)
            except OSError as error:
                self._problem = error
            else:
                self._links[name] = link
                self._changed.append(link)

    # Listening

    def _bind(self) -> None:
        # Under a hidden name first, so that no process finds a socket that does not listen yet.
        hidden = f".{self._name}"
        listener = self._listen_at(hidden)
        path = os.path.join(self.directory, hidden)
        try:
            os.rename(path, self._path)
        except OSError as error:
            close(listener)
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise self._private.unusable(error) from error
        self._listener = listener
        self._sweep()

    def _listen_at(self, name: str) -> int:
        """Return a descriptor that listens under a name in the directory; make it if needed.

        Raises:
            BackendMisconfigured: this can never work.
            BackendUnavailable: this does not work now.
        """
        path = os.path.join(self.directory, name)
        if len(os.fsencode(path)) > _MAX_PATH:
            raise self.misconfigured(
                f"{self.directory} is too long for the path of a unix socket",
                "use a shorter directory: local:///run/mysite",
            )
        self._private.make()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.setblocking(False)
                sock.bind(path)
                sock.listen(1024)
                return sock.detach()
        except OSError as error:
            raise self._private.unusable(error) from error

    def _sweep(self) -> None:
        """Remove sockets of processes that died before their socket got its final name."""
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.directory):
                status = entry.stat(follow_symlinks=False)
                is_hidden = entry.name.startswith(".") and stat.S_ISSOCK(status.st_mode)
                if is_hidden and time.time() - status.st_mtime > _LEFT_BEHIND:
                    os.unlink(entry.path)

    def _serve(self) -> None:
        waiter = self.waiter
        last_look = time.monotonic()
        leave_at = float("inf")
        while True:
            has_unconnected = self._update()
            if self._readings:
                self._read_all()
            now = time.monotonic()
            if self.stopping:
                leave_at = min(leave_at, now + _LINGER)
                if now >= leave_at or not any(link.backlog for link in self._links.values()):
                    return
            elif now - last_look >= _TICK:
                last_look = now
                if not os.path.exists(self._path):
                    raise self.unavailable(f"{self._path} has been removed")
            if self._accepts_at is not None and now >= self._accepts_at:
                self._accepts_at = None
                self.waiter.register(self._listener, READ, self._accept)
            is_soon = has_unconnected or self.stopping or self._accepts_at is not None
            for handle, events in waiter.wait(_RETRY if is_soon else _TICK):
                handle(events)

    def _accept(self, events: int) -> None:
        # The C class needs no further descriptor and does not change this one.
        listener = _socket.socket(fileno=self._listener)
        try:
            listener.setblocking(False)
            while True:
                fd, _ = listener._accept()  # type: ignore[attr-defined]  # as socket.py does
                incoming = Incoming(fd)
                self._incoming.add(incoming)
                self.waiter.register(incoming.fd, READ, partial(self._read, incoming))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in SCARCE:
                raise
            self._pause(error)
        finally:
            listener.detach()

    def _pause(self, error: OSError) -> None:
        """Stop accepting for a moment; otherwise the listener would stay ready in a busy loop.

        Existing connections stay open, and waiting ones lose nothing.
        """
        self.waiter.unregister(self._listener)
        self._accepts_at = time.monotonic() + _PAUSE
        self.counts.accept_paused += 1
        suffix = self.log_suffix("accept")
        if suffix is not None:
            logger.warning(
                "%s: other processes have to wait before they can connect: %s%s",
                self.name,
                error.strerror,
                suffix,
            )

    def _read(self, incoming: Incoming, events: int) -> None:
        try:
            packets = incoming.read()
        except BrokenStream as error:
            self.unreadable(error)
            packets = None
        if packets is None:
            self.waiter.unregister(incoming.fd)
            self._incoming.discard(incoming)
            incoming.close()
        else:
            self.deliver(packets)

    def _read_all(self) -> None:
        """Read what has arrived: one reading takes all that the system keeps of a stream."""
        readings, self._readings = self._readings, []
        if self._accepts_at is None:
            self._accept(READ)
        for incoming in list(self._incoming):
            self._read(incoming, READ)
        for is_read in readings:
            is_read.set()

    def _handle_link(self, link: Link, events: int) -> None:
        with self._mutex:
            if events & READ:
                link.is_dead = True  # a peer sends nothing here: this is the end of the stream
            else:
                link.flush()
            self._changed.append(link)

    def _update(self) -> bool:
        """Update the watchers; return whether a link is not connected yet."""
        with self._mutex:
            changed, self._changed = self._changed, []
            for link in dict.fromkeys(changed):
                if link.fd < 0 and not link.is_dead:
                    link.flush()
                if link.is_dead:
                    self._remove(link)
                elif link.fd >= 0:
                    self._watch(link, READ | WRITE if link.backlog else READ)
                else:
                    self._changed.append(link)
            return bool(self._changed)

    def _watch(self, link: Link, events: int) -> None:
        if link.watched_for == events:
            return
        if link.watched_for:
            self.waiter.unregister(link.fd)
        if events:
            self.waiter.register(link.fd, events, partial(self._handle_link, link))
        link.watched_for = events

    def _remove(self, link: Link) -> None:
        if link.fd >= 0:
            self._watch(link, 0)
        link.close()
        for name in [name for name, other in self._links.items() if other is link]:
            del self._links[name]
            self._listed = None  # its file may still exist
        self.lost_peer(link.peer)

    def _let_go(self) -> None:
        """Stop watching everything, so that it can be closed or watched again."""
        if self._accepts_at is None:
            self.waiter.unregister(self._listener)
        for incoming in self._incoming:
            self.waiter.unregister(incoming.fd)
            incoming.close()
        self._incoming.clear()
        with self._mutex:
            for link in (*self._links.values(), *self._changed):
                self._watch(link, 0)
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        close(self._listener)
        self._listener = -1


def _owner(path: str, number: str) -> str:
    """Return the name of the owner of a directory, or the number if it has no name."""
    try:
        return Path(path).owner()
    except (KeyError, NotImplementedError, OSError):
        return number


def _name(process: bytes) -> str:
    """Return the name of the socket of a process."""
    return base64.urlsafe_b64encode(process).decode().rstrip("=")
