"""The Django side of an open socket.

An exception of a view is logged and signalled as Django does for a request, and closes only that
socket. For the database, each message of an event view is like a request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib import auth
from django.http import HttpRequest, HttpResponseBase
from django.utils.functional import SimpleLazyObject
from greenlet import GreenletExit, getcurrent

from .. import conf
from ..connection import registry, tracing
from ..connection.connection import Connection
from ..connection.guard import notify
from ..connection.interfaces import DefaultHooks
from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosed
from ..groups import presence_hooks, users
from ..groups.group import Group
from ..groups.json_text import dump_json
from ..groups.members import Key, prefix_of
from ..groups.pubsub import members
from ..logs import get_logger
from ..protocol.environ import wire_path
from ..protocol.events import CannotMove
from ..protocol.frames import CloseCode
from ..protocol.prepared import BARE, PreparedMessage
from ..responses import (
    Conversation,
    SwitchingProtocols,
    WebSocketResponse,
    refusal_reason,
)
from ..server import limits
from ..server.limits import FULL_USER, Permit
from ..signals import websocket_closed
from . import context, databases, resume, sessions
from .callables import explain, note_result, require_done
from .context import RequestContext
from .identities import Kept, kept_of
from .interfaces import Acceptor, Origin
from .reporting import describe, note_late_response, report
from .request import WebSocketRequest, minimal_environ_of, minimal_request
from .turns import TurnHooks

__all__ = ["DjangoHooks", "admit_user", "close_for"]

logger = get_logger("django_wsmux.connection")

Headers = Iterable[tuple[str, str]]

#: Sockets whose ``disconnect()`` runs.
_disconnecting: set[Connection] = set()


class DjangoHooks(TurnHooks, DefaultHooks):
    """What Django adds to one socket: ``connection.interfaces.Hooks``.

    Args:
        request: the request of the handshake; ``None`` if it was made in another process.
        handshake: opens the socket; ``None`` if the socket will never open.

    Attributes:
        groups: keys of the groups of user and session.
        address: address of the peer, or of the proxy if there is one; empty for a unix socket.
        opened_at: when the 101 was sent, by ``time.monotonic()``.
        origin: makes the request of a socket that comes from another process.
        kept: what is left of the request in a socket that keeps none.
    """

    __slots__ = (
        "_handshake",
        "address",
        "groups",
        "kept",
        "opened_at",
        "origin",
    )

    address: str
    opened_at: float

    def __init__(self, request: WebSocketRequest | None, handshake: Acceptor | None = None) -> None:
        self.request = request
        self._handshake = handshake
        self.groups: tuple[Key, ...] = ()
        self.session = None
        self.view = None
        self.request_context = None
        self.origin: Origin | None = None
        self.kept: Kept | None = None

    # The handshake

    def open(self, websocket: Connection) -> None:
        """Accept at once, except for an event view or if accepting is in progress."""
        if self.view is None and self._handshake is not None:
            self._handshake.accept_early()

    def surround(self, response: SwitchingProtocols) -> None:
        """Add the context managers of ``WEBSOCKET_CONTEXT`` to the context of a view."""
        assert self.request is not None
        self.request_context = response.request_context = context.managed(
            self.request, response.request_context
        )

    def refuse(self, websocket: WebSocket) -> None:
        """Give up a socket that does not open, even if an event view has accepted it."""
        websocket.abandon()
        if self.view is not None and self.request_context is not None:
            self._tell_of_close(websocket)
        self.view = None
        self._detach_request(websocket)

    # The conversation

    def begin(self, websocket: WebSocket, accepted: SwitchingProtocols) -> None:
        """Continue with the view: the socket is open, and the request has ended."""
        joined = {} if self._handshake is None else self._handshake.joined
        self._handshake = None
        if isinstance(accepted, WebSocketResponse):
            websocket.run(lambda: self._run_view(websocket, accepted))
            return
        self._serve(websocket)
        for name, (_, _, recovered) in joined.items():
            if recovered is False:
                self._tell_of_gap(websocket, name)

    def _serve(self, websocket: WebSocket) -> None:
        """Pass messages to the event view from now on."""
        assert self.view is not None
        if not self.view.keep_request:
            try:
                self._release_request(websocket)
            except BaseException as error:
                self.fail(websocket, error)
        websocket.serve()

    def make_request(self, websocket: WebSocket) -> WebSocketRequest:
        """Return the request of a socket that comes from another process; wait for it.

        Raises:
            ConnectionClosed: the project's middleware refuses it now.
        """
        assert self.origin is not None
        return self.origin.request(websocket)

    def identify(self, websocket: Connection) -> bool:
        """Join the groups of the user whom the first message has identified.

        Returns:
            False if the socket is closed: with 1013 because the user has too many sockets, or
            because the user's sockets were closed during authentication, or with 4401 because the
            client's page was made for another user.
        """
        assert self.request is not None
        permit = websocket.permit
        if isinstance(permit, Permit) and not admit_user(self.request, permit):
            websocket.close(CloseCode.TRY_AGAIN_LATER, FULL_USER.status)
            return False
        users.leave(websocket, self.groups)
        self.groups = users.join(websocket, self.request)
        closed = members.closings.since(websocket, self.groups)
        closed = closed or resume.check(self.request.META, self.groups)
        if closed is not None:
            websocket.close(*closed)
        if websocket.closed:
            # The socket closed meanwhile, so no other code removes it from the groups.
            users.leave(websocket, self.groups)
        return closed is None

    def _release_request(self, websocket: WebSocket) -> None:
        view, request = self.view, self.request
        assert view is not None
        assert request is not None
        around = self.request_context
        # What middleware has set in the context can only be set again with all headers.
        is_minimal = around is None or not around.has_values
        environ = minimal_environ_of(request) if is_minimal else websocket.environ
        if self.groups or request.websocket_urlconf is not None or request.identity is not None:
            try:
                self.kept = kept_of(self)
            except CannotMove:
                view.handover = False
        self._detach_request(websocket)
        websocket.environ = environ
        view.release_request()

    def _run_view(self, websocket: WebSocket, response: WebSocketResponse) -> None:
        """Run a function view's conversation to its end and close the socket.

        It may end by accepting: a view that could not be called before the 101, and that uses the
        socket from then on.
        """
        answer: object = response
        is_served = False
        try:
            while isinstance(answer, WebSocketResponse):
                calls_view = answer.calls_view
                talk = partial(self._talk, websocket, answer.conversation)
                answer = self._run(websocket, answer.request_context, talk)
            is_served = isinstance(answer, SwitchingProtocols)
            if is_served:
                self._serve(websocket)
            elif isinstance(answer, HttpResponseBase):
                if not calls_view:
                    note_late_response(websocket, answer)
                close_for(websocket, answer)
            else:
                note_result(answer, response.conversation)
                websocket.close()
        finally:
            if not is_served and not websocket.has_moved:
                # Killed: the process is stopping.
                websocket.close(CloseCode.SERVICE_RESTART)
                self.end(websocket)

    def _talk(self, websocket: WebSocket, conversation: Conversation) -> object:
        answer = require_done(conversation(websocket), conversation)
        if isinstance(answer, SwitchingProtocols):
            self.surround(answer)
        return answer

    # Moving to another process

    def take_turn(self, websocket: Connection, work: Callable[[], object]) -> None:
        """Run a function like the handling of a message."""
        self._in_view(websocket, lambda _: work(), None)

    def let_go(self, websocket: WebSocket) -> None:
        """Free what belongs to a socket that has moved to another process."""
        self.view = None
        self._detach_request(websocket)

    def converse(self, websocket: WebSocket, conversation: Conversation) -> None:
        """Run the conversation of a function view that has begun in another process."""
        response = WebSocketResponse(conversation)
        assert self.request_context is not None
        response.request_context = self.request_context
        websocket.run(lambda: self._run_view(websocket, response))

    def loop(self, websocket: WebSocket, call: Callable[[], object]) -> None:
        """Call a function view whenever a message waits, until the socket closes.

        Args:
            websocket: the socket.
            call: calls the view, which receives the message.
        """
        try:
            while True:
                registry.loops[websocket] = True
                if not websocket.wait():
                    return
                registry.loops[websocket] = False
                if tracing.tracer is None:
                    call()
                else:
                    tracing.tracer.receive(websocket, lambda _: call(), None)
        finally:
            registry.loops.pop(websocket, None)

    def end(self, websocket: WebSocket) -> None:
        """Send ``websocket_closed``: the view is done with the socket."""
        notify(
            websocket_closed,
            WebSocket,
            websocket=websocket,
            request=self.request,
            code=websocket.close_code,
            reason=websocket.close_reason,
            duration=self.age,
            traffic=websocket.traffic,
        )
        self._detach_request(websocket)

    def _detach_request(self, websocket: WebSocket) -> None:
        """Separate request and socket, so that both are freed without the garbage collector."""
        self._handshake = None
        if self.request is not None:
            self.request.websocket = None
            self.request = self.session = None
        websocket.environ.pop("wsgi.websocket", None)

    # connection.interfaces.Hooks

    #: A greenlet that waits for a message gives its database connections back first.
    before_wait = staticmethod(databases.release)

    #: A greenlet that ends gives them back, too.
    retire = staticmethod(databases.discard)

    dump_json = staticmethod(dump_json)

    def requests(self, websocket: Connection) -> Iterator[Any]:
        """Yield the messages of a function view that are JSON objects with a ``type``."""
        from ..requests import requests_of

        assert isinstance(websocket, WebSocket)
        return requests_of(websocket)

    def group_receive(self, websocket: Connection, message: PreparedMessage) -> None:
        """Have an event view handle a message of a group."""
        handle = self.view.group_receive  # type: ignore[union-attr]
        call = None
        if tracing.tracer is not None:
            call = partial(tracing.tracer.group_receive, websocket, handle, message)
        self._in_view(websocket, handle, message.message, call)

    def group_joined(
        self,
        websocket: Connection,
        name: str,
        alias: str | None,
        position: str | None,
        recovered: bool | None,
    ) -> None:
        """Keep the group for the welcome; tell an event view of a gap."""
        if self._handshake is not None and websocket.connecting:
            self._handshake.joined[name] = alias, position, recovered
        elif recovered is False:
            self._tell_of_gap(websocket, name)

    def group_renamed(
        self, websocket: Connection, name: str, alias: str, position: str | None
    ) -> None:
        """Keep the alias for the welcome."""
        if self._handshake is not None and name in self._handshake.joined:
            self._handshake.joined[name] = alias, *self._handshake.joined[name][1:]

    def group_left(self, websocket: Connection, name: str) -> None:
        """Omit the group from the welcome."""
        if self._handshake is not None:
            self._handshake.joined.pop(name, None)

    def group_gap(self, websocket: Connection, name: str, position: str) -> None:
        """Keep the gap for the welcome; tell an event view of it."""
        if self._handshake is not None and name in self._handshake.joined:
            alias = self._handshake.joined[name][0]
            self._handshake.joined[name] = alias, position, False
        self._tell_of_gap(websocket, name)
        _note_missed(websocket, name)

    def _tell_of_gap(self, websocket: Connection, name: str) -> None:
        missed = None if self.view is None else self.view.missed
        if missed is not None and not getattr(missed, "does_nothing", False):
            assert isinstance(websocket, WebSocket)
            if not (websocket.closed or websocket.connecting):
                websocket.spawn(missed, Group.named(name))

    def group_dropped(self, websocket: Connection, message: PreparedMessage) -> None:
        """Tell the client of the gap before the next message of the group."""
        if message.kind == BARE:
            _note_missed(websocket, message.group)
            return
        from ..groups.sequencer import sequencer

        sequencer.note_dropped(websocket, message)

    def disconnect(self, websocket: Connection) -> None:
        """Tell an event view of the close, once."""
        assert isinstance(websocket, WebSocket)
        self._tell_of_close(websocket)
        self.view = None
        self.end(websocket)

    def _tell_of_close(self, websocket: Connection) -> None:
        assert self.view is not None
        code = websocket.close_code or CloseCode.ABNORMAL
        disconnect = partial(self.view.disconnect, code)
        call = None
        if tracing.tracer is not None:
            call = partial(tracing.tracer.converse, websocket, disconnect)
        _disconnecting.add(websocket)
        try:
            self._in_view(websocket, disconnect, websocket.close_reason, call)
        finally:
            _disconnecting.discard(websocket)

    def is_disconnecting(self, websocket: Connection) -> bool:
        """Return whether the view is being told of the close."""
        return websocket in _disconnecting

    def run_helper(self, websocket: Connection, function: Callable[[], object]) -> None:
        """Run a helper in the context of the view; only its failure ends the socket."""
        self._run(websocket, self.request_context, function)

    @property
    def user_id(self) -> str | None:
        """Primary key of the signed-in user, as a string."""
        return users.user_id(self.groups)

    @property
    def session_key(self) -> str | None:
        """Key of the session of the signed-in user; ``None`` without one, or if it is not kept."""
        request = self.request
        if self.kept is not None or request is None or not self.groups:
            return None if self.kept is None else self.kept.session_key
        if request.identity is not None:
            return request.identity.session_key
        return request.session.session_key

    @property
    def prefix(self) -> str:
        """Prefix of the user's group: see ``WEBSOCKET_GROUP_PREFIX``."""
        return prefix_of(self.groups[0]) if self.groups else ""

    @property
    def age(self) -> float:
        """Seconds since the 101."""
        return time.monotonic() - self.opened_at

    def leave(self, websocket: Connection) -> None:
        """Leave the groups of user and session."""
        users.leave(websocket, self.groups)

    def refresh_user(self) -> None:
        """Reload the session, and the user when ``request.user`` is next used."""
        request = self.request
        if request is None:
            if self.origin is not None and self.view is not None and self.view.keep_request:
                return  # not made yet, so it will be new
            raise RuntimeError(
                "refresh_user() needs a request, but a view with keep_request = False keeps none"
            )
        if request.identity is not None:
            request.__dict__.pop("_cached_user", None)
            request.user = SimpleLazyObject(request.identity.reload)  # type: ignore[assignment]
            return
        session = getattr(request, "session", None)
        if session is None:
            raise RuntimeError(
                "refresh_user() needs SessionMiddleware and AuthenticationMiddleware in MIDDLEWARE"
            )
        store: Any = type(session)
        request.session = store(session.session_key)
        self.session = sessions.watch(request)
        request.__dict__.pop("_cached_user", None)
        request.user = SimpleLazyObject(  # type: ignore[assignment]
            lambda: auth.get_user(request)
        )

    # Running views

    def _run(
        self,
        websocket: Connection,
        around: RequestContext | None,
        function: Callable[[], object],
    ) -> object:
        """Run a conversation or a helper; raises only ``GreenletExit``.

        Args:
            websocket: the socket.
            around: the context to run it in, if any.
            function: the conversation or helper.
        """
        context: Any = None
        call = function
        if tracing.tracer is not None:
            call = partial(tracing.tracer.converse, websocket, function)
        try:
            if around is None:
                return require_done(call(), function)
            context = around.context(getcurrent())
            return require_done(context.run(call), function)
        except GreenletExit:
            raise  # killed, since its socket has closed or the process is stopping
        except BaseException as error:
            # SystemExit would end the worker with all of its sockets.
            self.fail(websocket, error, context)
            return None
        finally:
            self._clear_up(websocket)

    def _clear_up(self, websocket: Connection) -> None:
        """Clean up after a conversation or a helper."""
        try:
            databases.discard()
            if self.session is not None and self.session.modified:
                sessions.warn_of_change(self.session, self.request)
        except BaseException:
            logger.exception("%r: error during cleanup after a message", websocket)

    def report(
        self, websocket: Connection, error: BaseException, context: Any = None
    ) -> HttpResponseBase:
        """Log and signal an error as Django does for a view; return the response of a page.

        Args:
            websocket: the socket.
            error: the exception, while it is being handled.
            context: the context that the view ran in, if any, so that its request id is logged.
        """
        assert isinstance(websocket, WebSocket)

        def find_request() -> HttpRequest:
            return self.request or minimal_request(websocket, self.address)

        if context is None:
            return report(websocket.path, error, find_request, self.user_id)
        plain = getattr(context, "plain", context)
        found: HttpResponseBase = plain.run(
            report, websocket.path, error, find_request, self.user_id
        )
        return found

    def fail(self, websocket: Connection, error: BaseException, context: Any = None) -> None:
        """Report an error of the view, and close the socket accordingly."""
        if (
            isinstance(error, ConnectionClosed)
            and websocket.closed
            and websocket not in _disconnecting
        ):
            return  # the peer has left, which is not a failure
        explain(error)
        response = self.report(websocket, error, context)
        if websocket.connecting:
            return
        if settings.DEBUG:
            response.reason_phrase = describe(error)
        close_for(websocket, response)


def admit_user(request: HttpRequest, permit: Permit) -> bool:
    """Return whether the user of a handshake, if signed in, may open another socket.

    ``request.user``, which needs a query, is read only if there is a limit.
    """
    limit = conf.options().max_sockets_per_user
    user = getattr(request, "user", None) if limit is not None else None
    if limit is None or user is None or not user.is_authenticated:
        return True
    # Each tenant may have a user with that primary key.
    name = f"{prefix} {user.pk}" if (prefix := conf.group_prefix()) else str(user.pk)
    return limits.admit_user(permit, name, limit, wire_path(request.META))


def close_for(websocket: Connection, response: HttpResponseBase, code: int | None = None) -> None:
    """Close an open socket instead of sending an HTTP response.

    Without ``code``, a status from 500 on becomes 1011 and any other 1008. The reason names the
    status.
    """
    if code is None:
        is_ours = response.status_code >= 500
        code = CloseCode.INTERNAL_ERROR if is_ours else CloseCode.POLICY_VIOLATION
    websocket.close(code, refusal_reason(response))


def _note_missed(websocket: Connection, name: str) -> None:
    """Let the client have the whole list of who is present in a group."""
    if presence_hooks.installed is not None:
        presence_hooks.installed.missed(websocket, name)
