"""Lets the view of a test's socket move, as if to another process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NoReturn

from django.db import connections
from django.urls import Resolver404, get_resolver
from greenlet import getcurrent, greenlet

from .. import conf
from ..connection import moving
from ..connection.websocket import WebSocket
from ..handlers import context, view_state
from ..handlers.handler import WebSocketHandler
from ..handlers.identities import kept_of
from ..handlers.remaking import Made, Making, Origin, outcome
from ..handlers.socket import DjangoHooks
from ..protocol.events import CannotMove
from .handler import Exchange

__all__ = ["Handover"]


class Handover:
    """Moves a view: packs its state, and gives it to a new view.

    Args:
        websocket: the open socket.
        exchange: its handshake.
        handler: has the project's middleware.

    Raises:
        AssertionError: the view cannot move; the text gives the reason.
    """

    def __init__(self, websocket: WebSocket, exchange: Exchange, handler: WebSocketHandler) -> None:
        self._websocket = websocket
        hooks = websocket.hooks
        assert isinstance(hooks, DjangoHooks)
        self._hooks = hooks
        old: Any = hooks.view
        if old is None:
            raise AssertionError(
                f"{websocket!r} is a function view, which has no state that could move: test a "
                f"view with @websocket_loop by sending to it again"
            )
        if not old.handover:
            raise AssertionError(f"{type(old).__qualname__}.handover is False")
        try:
            moving.require_movable(websocket)
            kept = kept_of(hooks)
            assert hooks.request_context is not None
            around = context.restored(*hooks.request_context.state())
            with _no_queries():
                packed = view_state.pack(old)
        except (CannotMove, view_state.CannotCarry) as error:
            raise AssertionError(f"{websocket!r} cannot move: {error}") from error
        self._packed = json.loads(json.dumps(packed))
        self._has_context = hooks.request_context.has_values
        self._view = around.enter(self._new_view, type(old), kept.urlconf)
        # From here on there is no way back.
        hooks.kept = kept
        self._origin = _Origin(kept.urlconf, kept.identity, exchange, handler)
        hooks.origin = self._origin
        hooks.request = hooks.session = None
        hooks.view = self._view

    def _new_view(self, kind: type[Any], urlconf: Any) -> Any:
        """Return a new view of the socket's URL."""
        resolver = get_resolver(urlconf or conf.get("WEBSOCKET_URLCONF"))
        try:
            match = resolver.resolve(self._websocket.environ["PATH_INFO"])
        except Resolver404:
            raise AssertionError("the URL of the socket does not exist any more") from None
        found: Any = match.func
        if getattr(found, "view_class", None) is not kind:
            raise AssertionError(
                f"the view of the URL is {found!r}, from which {kind.__qualname__} cannot be "
                f"learned: decorators must use functools.wraps()"
            )
        view = kind(**found.view_initkwargs)
        view.websocket, view.args, view.kwargs = self._websocket, match.args, match.kwargs
        if not view.keep_request:
            view.release_request()
        return view

    def restore(self) -> None:
        """Give the new view its state, in a task of the view.

        Raises:
            ConnectionClosed: the middleware refuses the request that the view's context needs.
            Exception: what ``restore_handover()`` raised, or ``view_state.Gone``.
        """
        hooks = self._hooks
        if self._has_context:
            self._origin.restore_context(self._websocket)
        assert hooks.request_context is not None
        around = hooks.request_context.context(getcurrent())
        try:
            around.run(view_state.unpack, self._view, self._packed)
        except BaseException:
            # As on a server, where such a view does not learn of the close.
            self._view.disconnect = lambda code, reason: None
            raise


@contextmanager
def _no_queries() -> Iterator[None]:
    """Refuse queries: ``handover_state()`` must not wait."""

    def refuse(*args: Any) -> NoReturn:
        raise AssertionError("handover_state() must not wait, but uses the database")

    with ExitStack() as stack:
        for connection in connections.all():
            stack.enter_context(connection.execute_wrapper(refuse))
        yield


class _Origin(Origin):
    """Makes the request at once, on the stack of the view."""

    __slots__ = ("_exchange", "_handler")

    #: A test does not wait until middleware accepts.
    patience = 0.0

    def __init__(
        self, urlconf: Any, identity: Any, exchange: Exchange, handler: WebSocketHandler
    ) -> None:
        super().__init__(urlconf, identity)
        self._exchange = exchange
        self._handler = handler

    @property
    def handler(self) -> WebSocketHandler:
        return self._handler

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the function with the language and time zone of the test."""
        return self._exchange.around.context(getcurrent()).run(partial(function, *args, **kwargs))

    def start(self, function: Callable[[], Made]) -> Making:
        making = _Making(partial(outcome, function), self._exchange)
        making.switch()
        return making


class _Making(greenlet):
    """Runs to its end when it is started."""

    def __init__(self, function: Callable[[], Any], exchange: Exchange) -> None:
        super().__init__()
        self._function = function
        self._exchange = exchange
        self._found: Any = None

    def run(self) -> None:
        """Call the function with the connections of the test."""
        self._exchange.lend_connections()
        self._found = self._function()

    def get(self) -> Any:
        """Return what the function has returned."""
        return self._found
