"""Groups beyond this process: what is published to the others, and what they publish.

The backend of ``WEBSOCKET_BACKEND`` is made when it is first needed. Groups of people, of which
there may be as many as sockets, share one channel.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from threading import Event, Lock, RLock
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.utils.crypto import salted_hmac

from . import conf
from .backends import Backend, BackendUnavailable, Gap, from_url
from .protocol.frames import BINARY, CLOSE, TEXT
from .protocol.prepared import Prepared
from .server.logs import get_logger
from .server.members import Members
from .signals import backend_gap

if TYPE_CHECKING:
    from .server.connection import Connection

__all__ = ["Relay", "describe", "members", "relay"]

logger = get_logger("django_wsmux.groups")

#: The setting's value for groups that end with the process: for tests.
ALONE: Final = "memory://"

#: Where all groups of people are; no group of one's own may be called so.
_PEOPLE: Final = "@people"

#: Seconds that a join waits for the broker, and a question for its answers.
_PATIENCE: Final = 1.0

#: The members of this process.
members: Final = Members()


def _channel(name: str) -> str:
    return _PEOPLE if name.startswith("@") else name


def namespace() -> str:
    """Return what tells this project from others on the same machine, or with the same broker."""
    # A second copy of a project has the same key; it is in another directory.
    where = str(getattr(settings, "BASE_DIR", "")) if _url().startswith("local:") else ""
    value = f"{settings.ROOT_URLCONF}|{where}"
    return salted_hmac("django_wsmux.groups", value, algorithm="sha256").hexdigest()[:16]


def _url() -> str:
    url: str = conf.get("WEBSOCKET_BACKEND")
    return url


def describe(name: str) -> list[dict[str, Any]]:
    """Return what a group's members in this process show of themselves: ``groups.Member``."""
    return [
        {"user_id": each.hooks.user_id, "info": members.info(name, each)}
        for each in members.of(name)
    ]


class Relay:
    """The way to the other processes."""

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self._made_for: str | None = None
        # How many groups with members a channel has here, and channels that have none any more.
        self._watched: dict[str, int] = {}
        self._deserted: set[str] = set()
        # Who answers questions about the process itself, by channel.
        self._answers: dict[str, Callable[[bytes], bytes]] = {}
        # Set once what closes groups of people is heard; None until a handshake asks for it.
        self._hears_people: Event | None = None
        # Held while these change: under runserver sockets come and go in threads. Nothing waits
        # with it, as it is asked for on the hub.
        self._lock = RLock()
        self._making = Lock()

    def backend(self) -> Backend | None:
        """Return the backend of the settings, ``None`` for a process that is alone."""
        url = _url()
        if url != self._made_for:
            with self._making:
                self._make(url)
        return self._backend

    def _make(self, url: str) -> None:
        if url != self._made_for:
            if self._backend is not None:
                self._backend.close()
            self._answers.clear()
            if self._hears_people is not None:
                self._hears_people = None
                self._count(_PEOPLE, -1)
            # Windows has no unix sockets: there one process serves alone.
            is_alone = url == ALONE or (url.startswith("local:") and not hasattr(socket, "AF_UNIX"))
            self._backend = None if is_alone else from_url(url, namespace=namespace())
            self._made_for = url

    def disown(self) -> None:
        """Begin again in a forked child: what it sends goes to the parent as to any process."""
        members.disown()
        self._watched.clear()
        self._deserted.clear()
        self._answers.clear()
        # Copies of locks that nothing in this process would release.
        self._lock = RLock()
        self._making = Lock()

    def publish(self, name: str, opcode: int, data: bytes) -> None:
        """Tell the other processes.

        Args:
            name: of the group.
            opcode: TEXT or BINARY for a message, CLOSE to close the members.
            data: the message, or the body of a close frame.

        Raises:
            BackendUnavailable: the broker is away.
        """
        backend = self.backend()
        if backend is not None:
            encoded = name.encode()
            backend.publish(_channel(name), bytes((opcode, len(encoded))) + encoded + data)

    def add(self, name: str, member: Connection, info: Any = None) -> None:
        """Put a socket into a group; what others publish for it is heard when this returns.

        Args:
            name: of the group.
            member: the socket.
            info: what it shows of itself.

        Raises:
            BackendUnavailable: others can never be heard. Then it is not in the group.
        """
        if members.add(name, member, info):
            try:
                self._watch(name)
            except BaseException:
                # The next one is to be the first again, who sees to it that others are heard.
                self.discard(name, member)
                raise

    def discard(self, name: str, member: Connection) -> None:
        """Take a socket out of a group; never waits."""
        if members.discard(name, member):
            self._unwatch(name)

    def hear_people(self) -> None:
        """Hear what others publish for groups of people, although they have no member here yet.

        Every handshake calls it, before session and user are read. When the broker is away it
        returns at once: a signed-in socket meets the error when it joins its groups.
        """
        backend = self.backend()
        if backend is None:
            return
        event = self._hears_people
        if event is None:
            try:
                backend.start(self._receive, self._report_gap, self._answer)
                event = backend.subscribe(_PEOPLE)
            except (BackendUnavailable, OSError):
                return
            with self._lock:
                if self._hears_people is None:
                    self._hears_people = event
                    # Never deserted from now on.
                    self._count(_PEOPLE, 1)
        if not event.is_set() and backend.effective.is_set():
            event.wait(_PATIENCE)

    def _watch(self, name: str) -> None:
        """A group has its first member here: hear what others publish for it."""
        channel = _channel(name)
        backend = self.backend()
        if self._count(channel, 1) != 1 or backend is None:
            return
        backend.start(self._receive, self._report_gap, self._answer)
        event = backend.subscribe(channel)
        with self._lock:
            deserted = self._deserted - self._watched.keys()
            self._deserted.clear()
        for other in deserted:
            backend.unsubscribe(other)
            if other in self._watched:  # by another thread, since
                backend.subscribe(other)
        if backend.effective.is_set():
            # Whoever has joined hears what is sent from now on, unless the broker is slow.
            event.wait(_PATIENCE)

    def _unwatch(self, name: str) -> None:
        """A group has lost its last member here.

        Sockets close on the hub, where nothing may wait: unsubscribing is left to the next
        ``add()``. What is published until then finds nobody.
        """
        channel = _channel(name)
        with self._lock:
            if not self._count(channel, -1):
                self._deserted.add(channel)

    def _count(self, channel: str, change: int) -> int:
        """Count a channel's groups; among threads the last may leave before it has come."""
        with self._lock:
            groups = self._watched[channel] = self._watched.get(channel, 0) + change
            if not groups:
                del self._watched[channel]
            return groups

    def answer(self, channel: str, function: Callable[[bytes], bytes]) -> None:
        """Have other processes' questions answered, if they are not yet; called often.

        Args:
            channel: of our own: it begins with ``@``.
            function: gives the answer to a question; called by the backend's owner, so it must
                not wait for anything.
        """
        backend = self.backend()
        if channel in self._answers:
            return
        self._answers[channel] = function
        if backend is not None:
            try:
                backend.start(self._receive, self._report_gap, self._answer)
                backend.subscribe(channel)
            except (BackendUnavailable, OSError):
                # Nobody who connects is to suffer from it.
                logger.exception("this process cannot be asked about its sockets")

    def answers(self, channel: str) -> bool:
        """Say whether this process answers questions on a channel."""
        return channel in self._answers

    def ask_all(self, channel: str, question: bytes) -> list[bytes]:
        """Return the answers of the other processes.

        Raises:
            BackendUnavailable: they cannot be asked.
        """
        backend = self.backend()
        return [] if backend is None else backend.ask(channel, question, _PATIENCE)

    def ask(self, name: str) -> list[dict[str, Any]]:
        """Return what the members in other processes show of themselves."""
        backend = self.backend()
        if backend is None:
            return []
        answers = backend.ask(_channel(name), name.encode(), _PATIENCE)
        return [member for answer in answers for member in json.loads(answer)]

    # Called by the backend's owner

    def _receive(self, channel: str, payload: bytes) -> None:
        opcode, length = payload[0], payload[1]
        name, data = payload[2 : 2 + length].decode(), payload[2 + length :]
        if opcode in (TEXT, BINARY):
            members.deliver(name, Prepared(opcode, data))
        elif opcode == CLOSE:
            members.close(name, int.from_bytes(data[:2], "big"), data[2:].decode())
        else:
            # A newer version of this package in another process.
            logger.warning("%r: not understood: opcode %d", name, opcode)

    def _answer(self, channel: str, question: bytes) -> bytes:
        if channel in self._answers:
            return self._answers[channel](question)
        return json.dumps(describe(question.decode())).encode()

    def _report_gap(self, gap: Gap) -> None:
        backend_gap.send_robust(
            type(self._backend), reason=gap.reason, seconds=gap.seconds, missed=gap.missed
        )


#: The one of this process.
relay: Final = Relay()

if hasattr(os, "register_at_fork"):
    # Windows has no fork.
    os.register_at_fork(after_in_child=relay.disown)
