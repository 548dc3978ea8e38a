"""Groups: tell everybody at once, from anywhere.

A message is encoded once and the same bytes go to every member, straight to its socket; what
``WEBSOCKET_BACKEND`` names carries it to the other processes. Plain blocking calls, the same in a
view, a signal handler, a Celery task, a management command and the shell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django.db import transaction
from django.utils.crypto import salted_hmac

from .backends import BackendUnavailable
from .conf import NO_CONTROLS, group_prefix
from .json_text import dump_json
from .protocol.frames import CLOSE, CloseCode, close_payload, encode_message
from .protocol.prepared import Prepared
from .relay import describe, members, relay
from .server.counters import count
from .server.logs import get_logger
from .server.members import Key
from .server.refusals import LogLimit
from .server.websocket import WebSocket
from .shared_calls import SharedCalls

__all__ = ["Group", "Member", "MemberList"]

logger = get_logger("django_wsmux.groups")

_NAME: Final = re.compile(rf"(?!@){NO_CONTROLS}{{1,200}}")

#: What groups of sessions begin with.
_SESSION: Final = "@session:"

# For what is sent when a backend is away.
_untold: Final = LogLimit()


@dataclass(frozen=True, slots=True)
class Member:
    """A socket in a group, wherever it is.

    Attributes:
        user_id: primary key of the signed-in user, as a string; ``None`` without one.
        info: what was given to ``join()``.
    """

    user_id: str | None
    info: Any = None


class MemberList(list[Member]):
    """The members of a group, as far as they are known.

    Attributes:
        missing: how many processes did not answer within a second, so that their members are not
            in the list; ``None`` where that is unknown.

    Example::

        here = Group("room.lobby").members()
        if not here.complete:
            logger.warning("%s processes did not say who is there", here.missing)
    """

    def __init__(self, members: Iterable[Member] = (), *, missing: int | None = 0) -> None:
        super().__init__(members)
        self.missing = missing

    @property
    def complete(self) -> bool:
        """Whether every process has answered."""
        return self.missing == 0


class Group:
    """The sockets that joined under one name.

    A group need not be made or removed: it is there while it has members. A socket that closes
    leaves by itself.

    Args:
        name: 1 to 200 characters, of any language; no control characters, no lone surrogates, and
            no ``@`` at the beginning.

    Attributes:
        name: as given. Beside it a group may have a prefix, which belongs to the moment of use and
            not to this object: see ``WEBSOCKET_GROUP_PREFIX``.

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
                f"group name {name!r}: use 1 to 200 characters, no control characters or lone "
                f"surrogates, and no @ at the beginning"
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
        return cls._of_people(f"{_SESSION}{digest[:20]}")

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

    def key(self) -> Key:
        """Return what tells this group from others, here and now: for this package's own use.

        Raises:
            ImproperlyConfigured: ``WEBSOCKET_GROUP_PREFIX`` gives no prefix.
        """
        prefix = group_prefix()
        # The key of a session is unique by itself, and known before its tenant is.
        return (prefix, self.name) if prefix and not self.name.startswith(_SESSION) else self.name

    # Membership

    def join(self, websocket: WebSocket, info: Mapping[str, Any] | None = None) -> None:
        """Add a socket, unless it is closed.

        A member gets what is sent from then on, whichever process sends it. A member that joins
        again stays one member, and shows the new ``info``.

        Args:
            websocket: the socket.
            info: what ``members()`` is to show of it, in values that ``send_json()`` takes;
                ``None`` changes nothing.

        Raises:
            TypeError: it is not a socket, but a view, say; or ``info`` cannot be made JSON.
            BackendUnavailable: others can never be heard. Then it is not in the group.
        """
        self._join(websocket, info)

    def _join(self, websocket: WebSocket, info: Mapping[str, Any] | None) -> Key | None:
        _require_socket(websocket)
        if websocket.closed:
            return None
        if info is not None:
            # As other processes will see it.
            info = json.loads(dump_json(info))
        key = self.key()
        websocket.on_close(key, partial(relay.discard, key, websocket))
        relay.add(key, websocket, info)
        if websocket.closed:
            # Where threads serve it may have left before it was in.
            relay.discard(key, websocket)
        return key

    def leave(self, websocket: WebSocket) -> None:
        """Remove a socket; does nothing when it is not a member.

        It leaves the group that it joined, whatever the prefix is now. Only a socket that joined
        under several prefixes leaves that of the present one.
        """
        _require_socket(websocket)
        keys = websocket.close_keys(self._is_key)
        if len(keys) != 1:
            present = self.key()
            if present in keys or not keys:
                keys = [present]
        for key in keys:
            _leave(websocket, key)

    def _is_key(self, key: object) -> bool:
        return key == self.name or (isinstance(key, tuple) and key[1] == self.name)

    @contextmanager
    def joined(self, websocket: WebSocket, info: Mapping[str, Any] | None = None) -> Iterator[None]:
        """Be a member for the length of a ``with`` block."""
        key = self._join(websocket, info)
        try:
            yield
        finally:
            if key is not None:
                _leave(websocket, key)

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
                database for one that is not the default. The data is stored then, so a backend
                that is away is logged and counted, and raises nothing.
            fail_silently: log it when the backend is away, and go on.

        Raises:
            TypeError: the message is neither text nor bytes.
            BackendUnavailable: the members of this process have it, other processes do not.
        """
        opcode, payload = encode_message(message)
        excluded = (exclude,) if isinstance(exclude, WebSocket) else exclude
        if not hasattr(excluded, "__contains__"):
            _require_socket(excluded)
        key = self.key()

        def send(fail_silently: bool) -> None:
            count("group_publishes")
            members.deliver(key, Prepared(opcode, payload), excluded)
            self._publish(key, opcode, payload, fail_silently)

        _do(send, on_commit, fail_silently)

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
            value: anything that ``json.dumps`` takes with the encoder of
                ``WEBSOCKET_JSON_ENCODER``.
            exclude, on_commit, fail_silently: as for ``send()``.
            options: passed on to ``json.dumps``; ``cls`` is another encoder.
        """
        text = dump_json(value, **options)
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
        key = self.key()

        def close(fail_silently: bool) -> None:
            members.close(key, code, reason)
            self._publish(key, CLOSE, payload, fail_silently)

        _do(close, on_commit, fail_silently)

    def _publish(self, key: Key, opcode: int, payload: bytes, fail_silently: bool) -> None:
        try:
            relay.publish(key, opcode, payload)
        except BackendUnavailable as error:
            count("group_publish_failed")
            if not fail_silently:
                raise
            suffix = _untold.suffix()
            if suffix is not None:
                logger.error("%r: other processes cannot be reached: %s%s", self, error, suffix)

    # Asking

    def count(self) -> int:
        """Ask every process how many members there are. Nothing is stored that could be stale.

        Those of a process that does not answer are missing: ``members()`` says so.
        """
        return len(self.members())

    def members(self) -> MemberList:
        """Ask every process who is in the group.

        Callers that ask at the same moment in one process share one question, which is asked after
        each of them has called.

        Raises:
            BackendUnavailable: the others cannot be asked.
        """
        key = self.key()
        found, missing = _questions.call(key, partial(_ask, key))
        return MemberList(found, missing=missing)


_questions: Final[SharedCalls[Key, tuple[list[Member], int | None]]] = SharedCalls()


def _ask(key: Key) -> tuple[list[Member], int | None]:
    others, missing = relay.ask(key)
    # A newer version may say more of a member, an older one less.
    found = [Member(each.get("user_id"), each.get("info")) for each in (*describe(key), *others)]
    return found, missing


def _leave(websocket: WebSocket, key: Key) -> None:
    websocket.cancel_on_close(key)
    relay.discard(key, websocket)


def _require_socket(value: object) -> None:
    """Raise unless a value is a socket.

    Raises:
        TypeError: says what to write instead.
    """
    if not isinstance(value, WebSocket):
        has_one = isinstance(getattr(value, "websocket", None), WebSocket)
        advice = "pass its attribute websocket" if has_one else "pass the view's WebSocket"
        raise TypeError(f"{value!r} is not a WebSocket: {advice}")


def _do(act: Callable[[bool], None], on_commit: bool | str, fail_silently: bool) -> None:
    """Act now, or if and when the current transaction commits; see ``Group.send()``."""
    if on_commit:
        using = on_commit if isinstance(on_commit, str) else None
        # What was stored is stored: neither the view nor what else waits for the commit is to fail.
        transaction.on_commit(partial(act, True), using=using, robust=True)
    else:
        act(fail_silently)
