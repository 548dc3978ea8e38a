"""Groups: send a message to many sockets, from anywhere.

A message is encoded once and the same bytes go straight to the socket of every member; the backend
of ``WEBSOCKET_BACKEND`` carries it to the other processes. All calls are blocking and work alike in
views, signal handlers, Celery tasks, management commands and the shell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from .. import conf
from ..conf import NO_CONTROLS, group_prefix
from ..connection import tracing
from ..connection.counters import count
from ..connection.websocket import WebSocket
from ..exceptions import BackendUnavailable
from ..logs import LogLimit, get_logger
from ..protocol.frames import CLOSE, CloseCode, close_payload, encode_message
from ..protocol.prepared import CONTENT, JSON, PreparedMessage, TracedMessage
from .envelope import ERRORS, REMOVE, excluding, traced
from .excluding import EXCLUDE_NONE, Exclude, exclusion, is_id, require_socket
from .json_text import dump_json
from .members import Key
from .pubsub import (
    connection_group,
    describe,
    key_of,
    members,
    pubsub,
    report_unreachable,
    session_group,
    user_group,
)
from .results import NOT_ASKED, History, Present, Recovery
from .shared_calls import SharedCalls

if TYPE_CHECKING:
    from .sequencer import NumberedSequencer

__all__ = ["Group", "Member", "MemberList"]

logger = get_logger("django_wsmux.groups")

_NAME: Final = re.compile(rf"(?!@){NO_CONTROLS}{{1,200}}")

#: The most characters of the argument ``key`` of ``send()``.
_MAX_KEY: Final = 200

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
        return cls.named(user_group(getattr(user, "pk", user)))

    @classmethod
    def for_session(cls, session_key: str) -> Group:
        """Return the group of a session's sockets: the windows of one browser.

        Args:
            session_key: ``request.session.session_key`` of a signed-in user.
        """
        return cls.named(session_group(session_key))

    @classmethod
    def for_connection(cls, client_id: str) -> Group:
        """Return the group of one connection, to answer one window from anywhere.

        The group consists of the socket with this id as long as it is open, in whichever process.
        After a lost connection a client with ``wsmux.v1`` has the same id. If pages share the
        socket, all of them get the message.

        Args:
            client_id: ``websocket.client_id``, or ``request.websocket_client``.

        Raises:
            ValueError: this is not the id of a client.

        Example::

            @shared_task
            def make_report(client_id):
                Group.for_connection(client_id).send_json({"type": "report", "url": report().url})

            def start(request):
                make_report.delay(request.websocket_client)
        """
        if not isinstance(client_id, str) or not is_id(client_id):
            raise ValueError(
                f"{client_id!r} is not the id of a client: use websocket.client_id, or "
                f"request.websocket_client if it is not None"
            )
        return cls.named(connection_group(client_id))

    @classmethod
    def named(cls, name: str) -> Group:
        """Return a group by its name, which may be that of a user or session; for internal use."""
        group = cls.__new__(cls)
        group.name = name
        return group

    def pinned(self, prefix: str | None = None) -> Group:
        """Return this group, always with the same prefix; for internal use.

        Args:
            prefix: the prefix; ``None`` for the current one.

        Raises:
            ImproperlyConfigured: ``WEBSOCKET_GROUP_PREFIX`` returns no valid prefix.
        """
        key = self.key() if prefix is None else key_of(self.name, prefix)
        return _PinnedGroup(self.name, key)

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

    def join(
        self,
        websocket: WebSocket,
        info: Mapping[str, Any] | None = None,
        since: str | None = None,
        alias: str | None = None,
    ) -> Recovery:
        """Add a socket, unless it is closed.

        A member gets every message sent from then on, by any process. A socket that joins again
        stays one member, with the new ``info``. If the group has a history (``WEBSOCKET_HISTORY``),
        a client that returns first gets the messages that it missed.

        Args:
            websocket: the socket.
            info: what ``members()`` shows for it, in values that ``send_json()`` accepts; ``None``
                changes nothing.
            since: the position of the last message that the client has; ``None`` for the position
                that the client sent.
            alias: the name of the group that the client sees; ``None`` for its own name. If the
                socket is a member, this changes the name.

        Returns:
            Whether the client gets all messages that it missed.

        Raises:
            TypeError: it is not a socket but a view, say; or ``info`` cannot be encoded as JSON.
            ValueError: ``since`` is not a position.
            ImproperlyConfigured: ``since`` is given, but the group has no history.
            BackendUnavailable: this process can never receive from others. The socket did not join.
        """
        return self._join(websocket, info, since, alias)[1]

    def _join(
        self,
        websocket: WebSocket,
        info: Mapping[str, Any] | None,
        since: str | None = None,
        alias: str | None = None,
    ) -> tuple[Key | None, Recovery]:
        require_socket(websocket)
        if websocket.closed:
            return None, NOT_ASKED
        if info is not None:
            # In the form in which other processes receive it.
            info = json.loads(dump_json(info))
        key = self.key()
        websocket.on_close(key, partial(pubsub.discard, key, websocket))
        recovery = NOT_ASKED
        if since is not None or self.has_history:
            from . import history, joining

            history.require_stream(key)
            recovery = joining.join(key, websocket, info, history.parse(since), alias)
        else:
            if alias is not None:
                websocket.name_group(self.name, alias)  # messages may arrive during add()
            pubsub.add(key, websocket, info)
            if alias is not None:
                websocket.hooks.group_joined(websocket, self.name, alias, "", None)
        if websocket.closed:
            # With threads, it may have closed before it was added.
            pubsub.discard(key, websocket)
        return key, recovery

    @property
    def has_history(self) -> bool:
        """Whether messages are kept: a pattern of ``WEBSOCKET_HISTORY`` matches the name."""
        return conf.has_history() and _keep_of()(self.name) is not None

    # History

    def position(self) -> str:
        """Return the position of the newest message.

        Before the first message, the position contains the moment of this call. Nothing is written.

        Raises:
            ImproperlyConfigured: the group has no history.
            BackendUnavailable: the store cannot be read.

        Example::

            at = Group("room.lobby").position()  # "k3v9q2mx.h8s1c0a2w4-42"
            lines = list(Line.objects.filter(room="lobby"))
        """
        from . import history

        return history.position(self.key())

    def history(self, since: str | None = None, limit: int | None = None) -> History:
        """Return the messages that are kept.

        Args:
            since: return only messages after this position; ``None`` for all.
            limit: return at most this many messages, the newest; ``None`` for all.

        Raises:
            ImproperlyConfigured: the group has no history.
            ValueError: ``since`` is not a position, or ``limit`` is below 1.
            BackendUnavailable: the store cannot be read.

        Example::

            for message in Group("room.lobby").history(limit=20).messages:
                print(message.sent, message.data)
        """
        from . import history

        return history.history(self.key(), since, limit)

    def forget(self) -> None:
        """Delete the messages that are kept, and begin a new epoch.

        Clients with ``wsmux.v1`` are told of a gap. Use it when a person was removed from the group
        and must not read earlier messages, or when a user is deleted.

        Raises:
            ImproperlyConfigured: the group has no history.
            BackendUnavailable: nothing was deleted.
        """
        from . import history

        history.forget(self.key())

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
            pubsub.leave(key, websocket)

    def _is_key(self, key: object) -> bool:
        return key == self.name or (isinstance(key, tuple) and key[1] == self.name)

    @contextmanager
    def joined(self, websocket: WebSocket, info: Mapping[str, Any] | None = None) -> Iterator[None]:
        """Add a socket for the length of a ``with`` block."""
        key, _ = self._join(websocket, info)
        try:
            yield
        finally:
            if key is not None:
                pubsub.leave(key, websocket)

    def remove(
        self, *, user: Any, on_commit: bool | str = False, fail_silently: bool = False
    ) -> None:
        """Remove the sockets of a user from this group, in every process. They stay open.

        A client with ``wsmux.v1`` is told that it left if the group has a history. A view that
        decides who may join must look after the join, as ``connect()`` does with ``get_groups()``:
        otherwise a handshake that began before the removal could join after it.

        Args:
            user: a user, or a user's primary key.
            on_commit: remove only if and when the current transaction commits; pass an alias for a
                database other than the default.
            fail_silently: log an error instead of raising it when the backend is away.

        Raises:
            BackendUnavailable: the sockets of this process are removed, the others are not.

        Example::

            room.people.remove(user)
            Group(f"room.{room.pk}").remove(user=user, on_commit=True)
        """
        user_id = str(getattr(user, "pk", user))
        key = self.key()

        def remove(fail_silently: bool) -> None:
            act = partial(pubsub.remove, key, user_id)
            self._publish(key, REMOVE, user_id.encode(errors=ERRORS), (), fail_silently, act)

        _do(remove, on_commit, fail_silently)

    # Presence

    def presence(
        self, websocket: WebSocket, key: Any = None, info: Mapping[str, Any] | None = None
    ) -> None:
        """Let a socket be present in this group, and tell it who is; does nothing if it is closed.

        Who is present is stored, for all processes. Someone with several sockets is present once,
        from the first of them until the last one has left: at once by ``leave()`` or ``remove()``,
        15 seconds after the end of a connection, so that a page that is loaded again changes
        nothing. If a process is killed, its sockets leave after 15 to 20 seconds.

        Clients with ``wsmux.v1`` are sent the whole list, then each change. A socket that is not a
        member joins the group.

        Args:
            websocket: the socket.
            key: who it is, such as the primary key of the user; ``str(key)`` has 1 to 200
                characters, without control characters and lone surrogates. ``None``, the key of
                an anonymous user, for a socket that is only told who is present.
            info: what others see, such as a name, in values that ``send_json()`` accepts; at most
                4,096 bytes as JSON. Another call changes it, for all sockets with this key.

        Raises:
            TypeError: it is not a socket; or ``info`` is not a mapping, or cannot be encoded.
            ValueError: the key is not allowed, or ``info`` is too large.
            ImproperlyConfigured: there is no store for ``WEBSOCKET_BACKEND``; set
                ``WEBSOCKET_HISTORY_STORE``.
            BackendUnavailable: this process can never receive from others. A store that is away
                does not raise: the socket is entered when it is back.

        Example::

            class Room(LoginRequiredMixin, WebSocketView):
                def connect(self, request, room):
                    user = request.user
                    Group(f"room.{room}").presence(self.websocket, user.pk, {"name": str(user)})
        """
        require_socket(websocket)
        from .presence import check_person, presence

        person = check_person(key, info)
        if websocket.closed:
            return
        group_key = self.key()
        if not members.has(group_key, websocket):
            self._join(websocket, None)
        presence.enter(group_key, websocket, person)

    def present(self) -> list[Present]:
        """Return who is present in any process, in the order in which they came.

        Reads the store, and asks no process.

        Raises:
            ImproperlyConfigured: there is no store for ``WEBSOCKET_BACKEND``.
            BackendUnavailable: the store cannot be read.

        Example::

            names = [each.info["name"] for each in Group("room.lobby").present()]
        """
        from .presence import presence

        return presence.present(self.key())

    # Sending

    def send(
        self,
        message: str | bytes,
        *,
        exclude: Exclude = EXCLUDE_NONE,
        on_commit: bool | str = False,
        stored: bool = False,
        fail_silently: bool = False,
        key: str | None = None,
    ) -> None:
        """Send one message to every member in every process, without waiting for any of them.

        A member that is too slow is closed with 1013 (``WEBSOCKET_SLOW_CLIENT``); this does not
        affect the others. The members of this process get the message first. If the group has a
        history, the message is stored first, and all members get all messages in the same order.

        Args:
            message: ``str`` is sent as text, ``bytes`` as binary.
            exclude: a socket of this process or the id of a client (``WebSocket.client_id``,
                ``request.websocket_client``) that does not get the message, for example the sender;
                or several of them. At most eight ids; ``None`` leaves out none.
            on_commit: send only if and when the current transaction commits; pass an alias for a
                database other than the default. The data is stored by then, so a backend that is
                away does not raise but is logged and counted.
            stored: with ``on_commit``, write the message to the database in the current
                transaction: it is sent even if the process dies after the commit, or if the backend
                is unavailable. Call ``send()`` after ``save()``. Only for groups with a history.
            fail_silently: log an error instead of raising it when the backend is away.
            key: a further message with this key is not sent within ten minutes, whichever process
                sends it: ``"order-17-paid"``. At most 200 characters. Only for groups with a
                history.

        Raises:
            TypeError: the message is neither text nor bytes.
            ValueError: ``exclude`` has too many ids or an invalid one; ``key`` is empty or too
                long; or ``stored`` is used without ``on_commit``.
            ImproperlyConfigured: ``key`` or ``stored`` is used, but the group has no history; or
                ``stored`` is used, but ``WEBSOCKET_OUTBOX`` is not set.
            BackendUnavailable: the members of this process got the message, other processes did
                not. If the group has a history, no member got it.
        """
        kind, payload = encode_message(message)
        self._send(kind, payload, exclude, on_commit, stored, fail_silently, key)

    def _send(
        self,
        kind: int,
        payload: bytes,
        exclude: Exclude,
        on_commit: bool | str,
        stored: bool,
        fail_silently: bool,
        key: str | None,
    ) -> None:
        """Send a message of any kind; see ``send()``."""
        has_history = self.has_history
        excluded, ids = exclusion(exclude, by_id=has_history)
        group_key = self.key()
        if key is not None:
            self._check_key(key)
        if stored:
            self._put(group_key, kind, payload, ids, on_commit, key or "")
            return

        def send(fail_silently: bool, traceparent: str = "") -> None:
            count("group_publishes")
            if has_history:
                self._append(group_key, kind, payload, ids, key or "", fail_silently, traceparent)
                return
            if traceparent:
                message: PreparedMessage = TracedMessage(kind, payload, self.name, traceparent)
            else:
                message = PreparedMessage(kind, payload, self.name)

            def act(more: Collection[Any]) -> None:
                without: Any = excluded
                if more:
                    without = [
                        each for each in members.of(group_key) if each in excluded or each in more
                    ]
                members.deliver(group_key, message, without, ids)

            self._publish(group_key, kind, payload, ids, fail_silently, act, traceparent)

        if tracing.tracer is None:
            _do(send, on_commit, fail_silently)
        else:
            _do(tracing.tracer.publisher(self.name, send), on_commit, fail_silently)

    def check_send(self, exclude: Exclude, key: str | None) -> None:
        """Raise what ``send()`` would raise for wrong arguments; for internal use."""
        exclusion(exclude, by_id=self.has_history)
        if key is not None:
            self._check_key(key)

    def _check_key(self, key: str) -> None:
        from . import history

        history.require_stream(self.key())
        if not isinstance(key, str) or not 0 < len(key) <= _MAX_KEY:
            raise ValueError(f"key must be a text of 1 to {_MAX_KEY} characters, not {key!r}")

    def _put(
        self,
        key: Key,
        kind: int,
        payload: bytes,
        ids: tuple[str, ...],
        on_commit: bool | str,
        once: str,
    ) -> None:
        """Write a message to the outbox; see ``send()``."""

        def put(fail_silently: bool, traceparent: str = "") -> None:
            _put(key, kind, payload, ids, on_commit, once, traceparent)

        if tracing.tracer is None:
            put(False)
        else:
            tracing.tracer.publisher(self.name, put, is_stored=True)(False)

    def _append(
        self,
        key: Key,
        kind: int,
        payload: bytes,
        ids: tuple[str, ...],
        once: str,
        fail_silently: bool,
        traceparent: str,
    ) -> None:
        """Send a message to a group with a history."""
        try:
            _sequencer().send(key, kind, payload, ids, once=once, traceparent=traceparent)
        except BackendUnavailable as error:
            count("group_publish_failed")
            if not fail_silently:
                raise
            if traceparent and tracing.tracer is not None:
                tracing.tracer.fail(error)
            suffix = _unreported.suffix()
            if suffix is not None:
                logger.error("%r: nothing was sent: %s%s", self, error, suffix)

    def send_json(
        self,
        value: Any,
        *,
        exclude: Exclude = EXCLUDE_NONE,
        on_commit: bool | str = False,
        stored: bool = False,
        fail_silently: bool = False,
        key: str | None = None,
        **options: Any,
    ) -> None:
        """Send a value as JSON text; see ``send()``.

        Args:
            value: anything that ``json.dumps`` accepts with the encoder of
                ``WEBSOCKET_JSON_ENCODER``.
            exclude, on_commit, stored, fail_silently, key: as for ``send()``.
            options: passed on to ``json.dumps``; ``cls`` is another encoder.
        """
        payload = dump_json(value, **options).encode()
        self._send(JSON, payload, exclude, on_commit, stored, fail_silently, key)

    def send_html(
        self,
        html: str,
        *,
        exclude: Exclude = EXCLUDE_NONE,
        on_commit: bool | str = False,
        stored: bool = False,
        fail_silently: bool = False,
        key: str | None = None,
    ) -> None:
        """Send HTML to every member; see ``send()``.

        Members with the subprotocol ``wsmux.v1`` get ``{"content": "<html>"}``, which the modules
        for htmx and Turbo put into the page; other members get the HTML as text. To render a
        template, use ``django_wsmux.html.send_template()``.

        Args:
            html: the HTML. It is sent as it is: escape what users have written.
            exclude, on_commit, stored, fail_silently, key: as for ``send()``.

        Example::

            Group("board").send_html(format_html('<p id="status">{}</p>', status))
        """
        self._send(CONTENT, html.encode(), exclude, on_commit, stored, fail_silently, key)

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
            act = partial(members.close, key, code, reason)  # takes the sockets that stay
            self._publish(key, CLOSE, payload, (), fail_silently, act)

        _do(close, on_commit, fail_silently)

    def _publish(
        self,
        key: Key,
        kind: int,
        payload: bytes,
        ids: tuple[str, ...],
        fail_silently: bool,
        act: Callable[[Collection[Any]], None],
        traceparent: str = "",
    ) -> None:
        fields = excluding(ids)
        if traceparent:
            fields = traced(fields, traceparent)
        try:
            pubsub.publish(key, kind, payload, fields, act)
        except BackendUnavailable as error:
            count("group_publish_failed")
            if not fail_silently:
                raise
            if traceparent and tracing.tracer is not None:
                tracing.tracer.fail(error)
            report_unreachable(self, error)

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


class _PinnedGroup(Group):
    """A group whose prefix was determined once; see ``Group.pinned()``."""

    __slots__ = ("_key",)

    def __init__(self, name: str, key: Key) -> None:
        self.name = name  # valid, or that of a user or session
        self._key = key

    def key(self) -> Key:
        """Return what identifies this group."""
        return self._key


@cache
def _keep_of() -> Callable[[str], object]:
    # An import statement takes longer than this.
    from ..history.patterns import keep_of

    return keep_of


@cache
def _sequencer() -> NumberedSequencer:
    from .sequencer import sequencer

    return sequencer


_questions: Final[SharedCalls[Key, tuple[list[Member], int | None]]] = SharedCalls()


def _ask(key: Key) -> tuple[list[Member], int | None]:
    others, missing = pubsub.ask(key)
    # A newer version may send more fields of a member, an older one fewer.
    found = [Member(each.get("user_id"), each.get("info")) for each in (*describe(key), *others)]
    return found, missing


def _do(act: Callable[[bool], None], on_commit: bool | str, fail_silently: bool) -> None:
    """Act now, or if and when the current transaction commits; see ``Group.send()``."""
    if on_commit:
        using = on_commit if isinstance(on_commit, str) else None

        # Not a partial: Django logs an error of this function with its name.
        def act_silently() -> None:
            act(True)

        # The data is stored, so neither the view nor other callbacks of the commit may fail.
        transaction.on_commit(act_silently, using=using, robust=True)
    else:
        act(fail_silently)


def _put(
    key: Key,
    kind: int,
    payload: bytes,
    ids: tuple[str, ...],
    on_commit: bool | str,
    once: str,
    traceparent: str,
) -> None:
    """Write a message to the outbox; see ``Group.send()``."""
    if not on_commit:
        raise ValueError("stored=True keeps a message until the commit: add on_commit=True")
    from . import history, outbox

    history.require_stream(key)
    if not conf.get("WEBSOCKET_OUTBOX"):
        raise ImproperlyConfigured(
            "stored=True needs WEBSOCKET_OUTBOX = True: then each process that serves sockets "
            "sends the messages of a process that died"
        )
    using = on_commit if isinstance(on_commit, str) else None
    outbox.put(key, kind, payload, ids, once=once, using=using, traceparent=traceparent)
