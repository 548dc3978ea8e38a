"""Groups: send a message to many sockets, from anywhere.

A message is encoded once and the same bytes go straight to the socket of every member; the backend
of ``WEBSOCKET_BACKEND`` carries it to the other processes. All calls are blocking and work alike in
views, signal handlers, Celery tasks, management commands and the shell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from django.db import transaction

from ..conf import NO_CONTROLS, group_prefix
from ..connection import tracing
from ..connection.counters import count
from ..connection.websocket import WebSocket
from ..exceptions import BackendUnavailable
from ..logs import LogLimit, get_logger
from ..protocol.frames import CLOSE, CloseCode, close_payload, encode_message
from ..protocol.prepared import JSON, PreparedMessage
from .envelope import NO_FIELDS, excluding
from .excluding import Exclude, exclusion, require_socket
from .json_text import dump_json
from .members import Key
from .pubsub import describe, key_of, members, pubsub, session_group, user_group
from .shared_calls import SharedCalls

__all__ = ["Group", "Member", "MemberList"]

logger = get_logger("django_wsmux.groups")

_NAME: Final = re.compile(rf"(?!@){NO_CONTROLS}{{1,200}}")

# For what is sent when a backend is away.
_unreported: Final = LogLimit()


@dataclass(frozen=True, slots=True)
class Member:
    """A socket in a group, in any process.

    Attributes:
        user_id: primary key of the signed-in user, as a string; ``None`` without one.
        info: the argument ``info`` of ``join()``.
    """

    user_id: str | None
    info: Any = None


class MemberList(list[Member]):
    """The members of a group in all processes that answered.

    Attributes:
        missing: how many processes did not answer within a second; their members are not in the
            list. ``None`` if that is unknown.

    Example::

        here = Group("room.lobby").members()
        if not here.complete:
            logger.warning("%s processes did not answer", here.missing)
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

    A group need not be created or deleted: it exists while it has members. A socket leaves its
    groups when it closes.

    Args:
        name: 1 to 200 characters of any language, without control characters, lone surrogates and
            a leading ``@``.

    Attributes:
        name: as given. A group may also have a prefix, which is determined on each use and not
            stored in this object: see ``WEBSOCKET_GROUP_PREFIX``.

    Raises:
        ValueError: the name is not allowed.

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
        """Return the group of a user's sockets, which signed-in sockets join automatically.

        Args:
            user: a user, or a user's primary key.

        Example::

            Group.for_user(order.customer).send_json({"type": "shipped"})
        """
        return cls._automatic(user_group(getattr(user, "pk", user)))

    @classmethod
    def for_session(cls, session_key: str) -> Group:
        """Return the group of a session's sockets: the windows of one browser.

        Args:
            session_key: ``request.session.session_key`` of a signed-in user.
        """
        return cls._automatic(session_group(session_key))

    @classmethod
    def _automatic(cls, name: str) -> Group:
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
        """Return what identifies this group with its current prefix; for internal use.

        Raises:
            ImproperlyConfigured: ``WEBSOCKET_GROUP_PREFIX`` returns no valid prefix.
        """
        return key_of(self.name, group_prefix())

    # Membership

    def join(self, websocket: WebSocket, info: Mapping[str, Any] | None = None) -> None:
        """Add a socket, unless it is closed.

        A member gets every message sent from then on, by any process. A socket that joins again
        stays one member, with the new ``info``.

        Args:
            websocket: the socket.
            info: what ``members()`` shows for it, in values that ``send_json()`` accepts; ``None``
                changes nothing.

        Raises:
            TypeError: it is not a socket but a view, say; or ``info`` cannot be encoded as JSON.
            BackendUnavailable: this process can never receive from others. The socket did not join.
        """
        self._join(websocket, info)

    def _join(self, websocket: WebSocket, info: Mapping[str, Any] | None) -> Key | None:
        require_socket(websocket)
        if websocket.closed:
            return None
        if info is not None:
            # In the form in which other processes receive it.
            info = json.loads(dump_json(info))
        key = self.key()
        websocket.on_close(key, partial(pubsub.discard, key, websocket))
        pubsub.add(key, websocket, info)
        if websocket.closed:
            # With threads, it may have closed before it was added.
            pubsub.discard(key, websocket)
        return key

    def leave(self, websocket: WebSocket) -> None:
        """Remove a socket; does nothing if it is not a member.

        It leaves the group that it joined, even if the prefix has changed since. A socket that
        joined under several prefixes leaves only the group with the current prefix.
        """
        require_socket(websocket)
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
        """Add a socket for the length of a ``with`` block."""
        key = self._join(websocket, info)
        try:
            yield
        finally:
            if key is not None:
                _leave(websocket, key)

    # Sending

    def send(
        self,
        message: str | bytes,
        *,
        exclude: Exclude = (),
        on_commit: bool | str = False,
        fail_silently: bool = False,
    ) -> None:
        """Send one message to every member in every process, without waiting for any of them.

        A member that is too slow is closed with 1013 (``WEBSOCKET_SLOW_CLIENT``); this does not
        affect the others. The members of this process get the message first.

        Args:
            message: ``str`` is sent as text, ``bytes`` as binary.
            exclude: a socket of this process or the id of a client (``WebSocket.client_id``,
                ``request.websocket_client``) that does not get the message: the sender, say; or
                several. At most eight ids.
            on_commit: send only if and when the current transaction commits; pass an alias for a
                database other than the default. The data is stored by then, so a backend that is
                away does not raise but is logged and counted.
            fail_silently: log an error instead of raising it when the backend is away.

        Raises:
            TypeError: the message is neither text nor bytes.
            ValueError: ``exclude`` has too many ids, or a text that is not one.
            BackendUnavailable: the members of this process got the message, other processes did
                not.
        """
        kind, payload = encode_message(message)
        self._send(kind, payload, exclude, on_commit, fail_silently)

    def _send(
        self,
        kind: int,
        payload: bytes,
        exclude: Exclude,
        on_commit: bool | str,
        fail_silently: bool,
    ) -> None:
        """Send a message of any kind; see ``send()``."""
        excluded, ids = exclusion(exclude, by_id=False)
        key = self.key()

        def send(fail_silently: bool) -> None:
            count("group_publishes")
            members.deliver(key, PreparedMessage(kind, payload, self.name), excluded, ids)
            self._publish(key, kind, payload, fail_silently, ids)

        if tracing.tracer is None:
            _do(send, on_commit, fail_silently)
        else:
            _do(partial(tracing.tracer.publish, self.name, send), on_commit, fail_silently)

    def send_json(
        self,
        value: Any,
        *,
        exclude: Exclude = (),
        on_commit: bool | str = False,
        fail_silently: bool = False,
        **options: Any,
    ) -> None:
        """Send a value as JSON text; see ``send()``.

        Args:
            value: anything that ``json.dumps`` accepts with the encoder of
                ``WEBSOCKET_JSON_ENCODER``.
            exclude, on_commit, fail_silently: as for ``send()``.
            options: passed on to ``json.dumps``; ``cls`` is another encoder.
        """
        payload = dump_json(value, **options).encode()
        self._send(JSON, payload, exclude, on_commit, fail_silently)

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
            BackendUnavailable: the sockets of this process are closed, the others are not.
        """
        payload = close_payload(code, reason)
        key = self.key()

        def close(fail_silently: bool) -> None:
            members.close(key, code, reason)
            self._publish(key, CLOSE, payload, fail_silently)

        _do(close, on_commit, fail_silently)

    def _publish(
        self,
        key: Key,
        kind: int,
        payload: bytes,
        fail_silently: bool,
        ids: tuple[str, ...] = (),
    ) -> None:
        try:
            pubsub.publish(key, kind, payload, excluding(ids) if ids else NO_FIELDS)
        except BackendUnavailable as error:
            count("group_publish_failed")
            if not fail_silently:
                raise
            suffix = _unreported.suffix()
            if suffix is not None:
                logger.error("%r: other processes cannot be reached: %s%s", self, error, suffix)

    # Asking

    def count(self) -> int:
        """Return the number of members, asking every process.

        Members of a process that does not answer are not counted; see ``members()``. Nothing is
        stored that could be stale.
        """
        return len(self.members())

    def members(self) -> MemberList:
        """Return the members, asking every process.

        Calls at the same moment in one process share one question, which is sent after each of
        them has begun.

        Raises:
            BackendUnavailable: other processes cannot be asked.
        """
        key = self.key()
        found, missing = _questions.call(key, partial(_ask, key))
        return MemberList(found, missing=missing)


_questions: Final[SharedCalls[Key, tuple[list[Member], int | None]]] = SharedCalls()


def _ask(key: Key) -> tuple[list[Member], int | None]:
    others, missing = pubsub.ask(key)
    # A newer version may send more fields of a member, an older one fewer.
    found = [Member(each.get("user_id"), each.get("info")) for each in (*describe(key), *others)]
    return found, missing


def _leave(websocket: WebSocket, key: Key) -> None:
    websocket.cancel_on_close(key)
    pubsub.discard(key, websocket)


def _do(act: Callable[[bool], None], on_commit: bool | str, fail_silently: bool) -> None:
    """Act now, or if and when the current transaction commits; see ``Group.send()``."""
    if on_commit:
        using = on_commit if isinstance(on_commit, str) else None
        # The data is stored, so neither the view nor other callbacks of the commit may fail.
        transaction.on_commit(partial(act, True), using=using, robust=True)
    else:
        act(fail_silently)
