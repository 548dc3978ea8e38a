"""Groups: tell everybody at once, from anywhere.

A message is encoded once and the same bytes go to every member, straight to its socket; what
``WEBSOCKET_BACKEND`` names carries it to the other processes. Plain blocking calls, the same in a
view, a signal handler, a Celery task, a management command and the shell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django.db import transaction
from django.utils.crypto import salted_hmac

from .backends import BackendUnavailable
from .protocol.frames import CLOSE, CloseCode, close_payload, encode_message
from .protocol.prepared import Prepared
from .relay import describe, members, relay
from .server.counters import count
from .server.logs import get_logger
from .server.websocket import WebSocket

__all__ = ["Group", "Member"]

logger = get_logger("django_wsmux.groups")

_NAME: Final = re.compile(r"[A-Za-z0-9_.:-][A-Za-z0-9_.:@-]{0,199}")


@dataclass(frozen=True, slots=True)
class Member:
    """A socket in a group, wherever it is.

    Attributes:
        user_id: primary key of the signed-in user, as a string; ``None`` for nobody.
        info: what was given to ``join()``.
    """

    user_id: str | None
    info: Any = None


class Group:
    """The sockets that joined under one name.

    A group need not be made or removed: it is there while it has members. A socket that closes
    leaves by itself.

    Args:
        name: 1 to 200 of ASCII letters, digits and ``_ . : @ -``, not beginning with ``@``.

    Raises:
        ValueError: the name is not like that.

    Example::

        @websocket
        def chat(request, websocket, room):
            group = Group(f"room.{room}")
            with group.joined(websocket):
                for message in websocket:
                    group.send(message)
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"group name {name!r}: use 1 to 200 of ASCII letters, digits and _ . : @ -, and do "
                f"not begin with @"
            )
        self.name = name

    @classmethod
    def for_user(cls, user: Any) -> Group:
        """Return the group of a user's sockets, which signed-in sockets join by themselves.

        Args:
            user: a user, or the primary key of one.

        Example::

            Group.for_user(order.customer).send_json({"type": "shipped"})
        """
        return cls._of_people(f"@user:{getattr(user, 'pk', user)}")

    @classmethod
    def for_session(cls, session_key: str) -> Group:
        """Return the group of a session's sockets: the windows of one browser.

        Args:
            session_key: ``request.session.session_key`` of a signed-in user.
        """
        # The key is as good as a password: it goes into no log and no broker.
        digest = salted_hmac("django_wsmux.session", session_key, algorithm="sha256").hexdigest()
        return cls._of_people(f"@session:{digest[:20]}")

    @classmethod
    def _of_people(cls, name: str) -> Group:
        group = cls.__new__(cls)
        group.name = name
        return group

    def __repr__(self) -> str:
        return f"<Group {self.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Group) and other.name == self.name

    def __hash__(self) -> int:
        return hash((Group, self.name))

    # Membership

    def join(self, websocket: WebSocket, info: Mapping[str, Any] | None = None) -> None:
        """Add a socket, unless it is closed.

        Whoever has joined gets what is sent from then on, whichever process sends it. A member
        that joins again stays the one member that it is, and shows the new ``info``.

        Args:
            websocket: the socket.
            info: what ``members()`` is to show of it, in values that JSON knows; ``None`` changes
                nothing.
        """
        if websocket.closed:
            return
        websocket.on_close(self, partial(relay.discard, self.name, websocket))
        relay.add(self.name, websocket, info)
        if websocket.closed:
            # Where threads serve it may have left before it was in.
            relay.discard(self.name, websocket)

    def leave(self, websocket: WebSocket) -> None:
        """Remove a socket; does nothing when it is not a member."""
        websocket.cancel_on_close(self)
        relay.discard(self.name, websocket)

    @contextmanager
    def joined(self, websocket: WebSocket, info: Mapping[str, Any] | None = None) -> Iterator[None]:
        """Be a member for the length of a ``with`` block."""
        self.join(websocket, info)
        try:
            yield
        finally:
            self.leave(websocket)

    # Telling

    def send(
        self,
        message: str | bytes,
        *,
        exclude: WebSocket | Container[WebSocket] = (),
        on_commit: bool | str = False,
        fail_silently: bool = False,
    ) -> None:
        """Send one message to every member in every process; waits for none of them.

        A member too slow to take it is closed with 1013 (``WEBSOCKET_SLOW_CLIENT``); the others do
        not notice. Those of this process get it before anything else.

        Args:
            message: ``str`` goes out as text, ``bytes`` as binary.
            exclude: a socket of this process, or several, not to send to: the sender, say.
            on_commit: send it if and only if the current transaction commits; the alias of a
                database for one that is not the default.
            fail_silently: log it when the backend is away, and go on.

        Raises:
            TypeError: the message is neither text nor bytes.
            BackendUnavailable: the members of this process have it, other processes do not.
        """
        opcode, payload = encode_message(message)
        excluded = (exclude,) if isinstance(exclude, WebSocket) else exclude

        def send() -> None:
            count("group_publishes")
            members.deliver(self.name, Prepared(opcode, payload), excluded)
            self._publish(opcode, payload, fail_silently)

        _do(send, on_commit)

    def send_json(
        self,
        value: Any,
        *,
        exclude: WebSocket | Container[WebSocket] = (),
        on_commit: bool | str = False,
        fail_silently: bool = False,
        **options: Any,
    ) -> None:
        """Send a value as JSON text; see ``send()``.

        Args:
            value: anything that ``json.dumps`` takes.
            exclude, on_commit, fail_silently: as for ``send()``.
            options: passed on to ``json.dumps``.
        """
        text = json.dumps(value, **options)
        self.send(text, exclude=exclude, on_commit=on_commit, fail_silently=fail_silently)

    def close(
        self,
        code: int = CloseCode.NORMAL,
        reason: str = "",
        *,
        on_commit: bool | str = False,
        fail_silently: bool = False,
    ) -> None:
        """Close the sockets of all members in every process; see ``WebSocket.close()``.

        Raises:
            ValueError: code or reason may not be sent.
            BackendUnavailable: those of this process are closed, others are not.
        """
        payload = close_payload(code, reason)

        def close() -> None:
            members.close(self.name, code, reason)
            self._publish(CLOSE, payload, fail_silently)

        _do(close, on_commit)

    def _publish(self, opcode: int, payload: bytes, fail_silently: bool) -> None:
        try:
            relay.publish(self.name, opcode, payload)
        except BackendUnavailable:
            if not fail_silently:
                raise
            logger.exception("%r: other processes were not told", self)

    # Asking

    def count(self) -> int:
        """Ask every process how many members there are. Nothing is stored that could be stale."""
        return len(self.members())

    def members(self) -> list[Member]:
        """Ask every process who is in the group.

        Raises:
            BackendUnavailable: the others cannot be asked.
        """
        return [Member(**each) for each in (*describe(self.name), *relay.ask(self.name))]


def _do(act: Callable[[], None], on_commit: bool | str) -> None:
    """Act now, or if and when the current transaction commits; see ``Group.send()``."""
    if on_commit:
        transaction.on_commit(act, using=on_commit if isinstance(on_commit, str) else None)
    else:
        act()
