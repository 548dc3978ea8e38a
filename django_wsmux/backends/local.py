"""``local://``: all processes of one user and one project on one machine; nothing to install.

Each process that listens has a unix stream socket in a directory that only its user can enter; who
publishes connects to each of them once and writes every packet to all.

Streams and not datagrams, because Linux lets only 11 datagrams wait at a receiver, all senders
together (``net.unix.max_dgram_qlen``); of streams each sender has a buffer of its own, for some
hundred packets. Measured with 180 bytes, blasting: 270,000 against 20,000 a second, with 1.0
against 20 microseconds for the receiver. A stream also has no largest message (datagrams end at 2
KiB on macOS), and both ends learn at once when the other dies.

The directory lies in the temporary directory, not in ``$XDG_RUNTIME_DIR``: that is set in a login
shell and not in a service, and removed at logout, so it would part a management command from the
workers. Where the temporary directory is private to a service (systemd's ``PrivateTmp``), name one
that all share: ``local:///run/mysite``.

On macOS and the BSDs a process that is stopped while 128 others connect to it looks dead to the
next one, which removes its socket; it makes a new one within five seconds of going on, and reports
the gap. Linux tells the two apart.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import Final
from urllib.parse import parse_qs, urlsplit

from .asking import Expected
from .base import Backend
from .links import Incoming, Link, StaleSocket, frame
from .waiting import READ, WRITE, close

__all__ = ["LocalBackend"]

#: Bytes that a socket's path may have: 104 on macOS and the BSDs, 108 on Linux, with a final NUL.
_MAX_PATH: Final = 103

#: Seconds between two looks whether the own socket is still there.
_TICK: Final = 5.0

#: Seconds until a connection is tried again where the peer's backlog was full.
_RETRY: Final = 0.1

#: Seconds for which close() goes on sending what is queued.
_LINGER: Final = 1.0

#: Bytes queued from which on a publisher lets the owner run.
_YIELD: Final = 65_536

#: Nanoseconds for which a listing may be older than what happened since: file systems' clocks tick.
_CLOCK_TICK: Final = 2_000_000_000


class LocalBackend(Backend):
    """Unix stream sockets in a private directory; see the module.

    Args:
        url: ``local://``; ``local:///directory`` puts the private directory there.
            ``?queue=bytes`` sets how much is queued for a process that does not take it: 8 MiB.
        namespace: see ``Backend``.
    """

    def __init__(self, url: str = "local://", *, namespace: str = "") -> None:
        super().__init__(url, namespace=namespace)
        parts = urlsplit(url)
        self._limit = int(parse_qs(parts.query).get("queue", ["8388608"])[0])
        key = hashlib.blake2b(namespace.encode(), digest_size=5).hexdigest()
        parent = parts.path if parts.path.strip("/") else tempfile.gettempdir()
        self.directory = os.path.join(parent, f"wsmux-{os.geteuid()}-{key}")

    # The contract

    def prepare(self) -> None:
        """Make what belongs to one process."""
        self._mutex = threading.Lock()
        self._links: dict[str, Link] = {}
        # Links whose watchers the owner has yet to bring up to date.
        self._changed: list[Link] = []
        self._listed: int | None = None
        self._name = base64.urlsafe_b64encode(self.id).decode().rstrip("=")
        self._path = os.path.join(self.directory, self._name)
        self._listener = -1
        self._incoming: set[Incoming] = set()

    def open(self) -> None:
        """Be found by the others, from before start() returns."""
        self._bind()
        self.effective.set()

    def listen(self) -> None:
        """Accept, read, and flush what peers did not take at once."""
        if self._listener < 0:
            self._bind()
        self.waiter.register(self._listener, READ, self._accept)
        with self._mutex:
            self._changed += self._links.values()
        waiter = self.waiter
        try:
            self.listening()
            self._serve()
        finally:
            # In a fork nothing here is this process's own.
            waiter.require_same_process()
            self._let_go()

    def transmit(self, channel: str, packet: bytes) -> None:
        """Send to every process that listens; it looks itself whether it is subscribed."""
        self._send(packet)

    def query(self, channel: str, packet: bytes) -> Expected:
        """The directory says who there is."""
        return self._send(packet)

    def reply(self, asker: bytes, packet: bytes) -> None:
        """Send to one process."""
        self._send(packet, only=asker)

    def release(self) -> None:
        """Remove the own socket; close what is open."""
        if self._listener >= 0:
            with contextlib.suppress(FileNotFoundError):
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
            # Outside the lock: to start a thread is to wait for it.
            self._start_owner()
            self.waiter.wake()
        if longest > _YIELD:
            time.sleep(0)
        return reached

    def _bury_dead(self) -> None:
        """Where no owner runs: nothing is watched, and it looks at all links when it begins."""
        for link in self._changed:
            if link.is_dead:
                self._bury(link)
        self._changed.clear()

    def _peers(self) -> Iterable[Link]:
        try:
            changed = os.stat(self.directory).st_mtime_ns
        except FileNotFoundError:
            return ()
        if changed != self._listed:
            self._require_private()
            # A file made within the same tick of the clock would not show: then list again.
            is_settled = time.time_ns() - changed > _CLOCK_TICK
            self._refresh()
            self._listed = changed if is_settled else None
        return tuple(self._links.values())

    def _refresh(self) -> None:
        names = {name for name in os.listdir(self.directory) if not name.startswith(".")}
        for name in self._links.keys() - names:
            link = self._links.pop(name)
            link.is_dead = True
            self._changed.append(link)
        for name in names - self._links.keys() - {self._name}:
            path = os.path.join(self.directory, name)
            try:
                link = Link(path, base64.urlsafe_b64decode(name + "=="), self.id, self._limit)
            except StaleSocket:
                # Only its process makes a name appear, and only when it listens already.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            else:
                self._links[name] = link
                self._changed.append(link)

    # Listening

    def _bind(self) -> None:
        try:
            os.mkdir(self.directory, 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise self.unavailable(error, "the directory must exist and be writable") from None
        self._require_private()
        # Under a hidden name first, so that nobody finds a socket that does not listen yet.
        hidden = os.path.join(self.directory, "." + self._name)
        if len(os.fsencode(hidden)) > _MAX_PATH:
            raise self.unavailable(
                f"{self.directory} is too long for the path of a unix socket",
                "name a shorter one: local:///run/mysite",
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.bind(hidden)
            sock.listen(1024)
            os.rename(hidden, self._path)
            self._listener = sock.detach()

    def _require_private(self) -> None:
        status = os.lstat(self.directory)
        if (
            not stat.S_ISDIR(status.st_mode)
            or status.st_uid != os.geteuid()
            or stat.S_IMODE(status.st_mode) & 0o077
        ):
            raise self.unavailable(
                f"{self.directory} is not a directory that only this user can enter",
                "find out who made it, then remove it, or name another: local:///run/mysite",
            )

    def _serve(self) -> None:
        waiter = self.waiter
        last_look = time.monotonic()
        leave_at = float("inf")
        while True:
            has_unconnected = self._update()
            now = time.monotonic()
            if self.stopping:
                leave_at = min(leave_at, now + _LINGER)
                if now >= leave_at or not any(link.backlog for link in self._links.values()):
                    return
            elif now - last_look >= _TICK:
                last_look = now
                if not os.path.exists(self._path):
                    raise self.unavailable(f"{self._path} has been removed")
            is_soon = has_unconnected or self.stopping
            for handle, events in waiter.wait(_RETRY if is_soon else _TICK):
                handle(events)

    def _accept(self, events: int) -> None:
        listener = socket.socket(fileno=os.dup(self._listener))
        with listener:
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    incoming = Incoming(listener.accept()[0].detach())
                    self._incoming.add(incoming)
                    self.waiter.register(incoming.fd, READ, partial(self._read, incoming))

    def _read(self, incoming: Incoming, events: int) -> None:
        packets = incoming.read()
        if packets is None:
            self.waiter.unregister(incoming.fd)
            self._incoming.discard(incoming)
            incoming.close()
        else:
            self.deliver(packets)

    def _handle_link(self, link: Link, events: int) -> None:
        with self._mutex:
            if events & READ:
                link.is_dead = True  # a peer says nothing here: this is the end of the stream
            else:
                link.flush()
            self._changed.append(link)

    def _update(self) -> bool:
        """Bring the watchers up to date; return whether a link is not connected yet."""
        with self._mutex:
            changed, self._changed = self._changed, []
            for link in dict.fromkeys(changed):
                if link.fd < 0 and not link.is_dead:
                    link.flush()
                if link.is_dead:
                    self._bury(link)
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

    def _bury(self, link: Link) -> None:
        if link.fd >= 0:
            self._watch(link, 0)
        link.close()
        for name in [name for name, other in self._links.items() if other is link]:
            del self._links[name]
            self._listed = None  # its file may be left
        self.lost_peer(link.peer)

    def _let_go(self) -> None:
        """Watch nothing any more, so that everything can be closed or watched again."""
        self.waiter.unregister(self._listener)
        for incoming in self._incoming:
            self.waiter.unregister(incoming.fd)
            incoming.close()
        self._incoming.clear()
        for link in self._links.values():
            self._watch(link, 0)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        close(self._listener)
        self._listener = -1
