"""The turns of event views: what Django needs around the handling of a message.

For the database, each message is like a request.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

from django.contrib.sessions.backends.base import SessionBase
from greenlet import getcurrent

from ..connection import tracing
from ..connection.connection import Connection
from ..connection.interfaces import MARK
from ..connection.turns import ViewHooks, handled
from ..logs import get_logger
from . import databases, sessions
from .callables import note_result, require_done
from .context import RequestContext
from .interfaces import EventView
from .request import WebSocketRequest

__all__ = ["TurnHooks"]

logger = get_logger("django_wsmux.connection")


class TurnHooks(ViewHooks):
    """The part of ``DjangoHooks`` that calls an event view.

    Attributes:
        request: the request of the handshake; ``None`` if there is none, or no longer one.
        session: the session, once no middleware saves it any more.
        view: the event view.
        request_context: what is active in each call of the view, once it has accepted.
    """

    __slots__ = ("request",)

    request: WebSocketRequest | None
    session: SessionBase | None
    view: EventView | None
    request_context: RequestContext | None

    def fail(self, websocket: Connection, error: BaseException, context: Any = None) -> None:
        """Report an error of the view, and close the socket accordingly."""
        raise NotImplementedError

    def _handle(self, websocket: Connection, message: str | bytes) -> None:
        """Have an event view handle a message, whatever that needs."""
        handle = self.view.receive  # type: ignore[union-attr]
        call = None
        if tracing.tracer is not None:
            call = partial(tracing.tracer.receive, websocket, handle)
        self._in_view(websocket, handle, message, call)

    def _in_view(
        self,
        websocket: Connection,
        function: Callable[[Any], object],
        subject: Any,
        call: Callable[[Any], object] | None = None,
    ) -> None:
        """Call an event view. Never raises, since the greenlet serves other sockets, too.

        Args:
            websocket: the socket.
            function: a method of the view.
            subject: its argument.
            call: calls the method with the argument; ``None`` to call it directly.
        """
        started = perf_counter()
        context: Any = None
        result: object = None
        error: BaseException | None = None
        try:
            current = getcurrent()
            if getattr(current, MARK, None) is True:
                databases.begin_message()
            context = self.request_context.context(current)  # type: ignore[union-attr]
            result = context.run(call or function, subject)
        except BaseException as raised:
            error = raised
        handled(perf_counter() - started)
        self._finish(websocket, function, result, error, context)
        del error  # its traceback refers to this call, which would refer to it

    def _finish(
        self,
        websocket: Connection,
        function: object,
        result: object,
        error: BaseException | None,
        context: Any,
    ) -> None:
        """Do what is left to do after the call of an event view, also by C. Never raises.

        Args:
            websocket: the socket.
            function: what was called, a method of the view; of no use after an error.
            result: what it has returned.
            error: what it has raised instead.
            context: the context that it ran in.
        """
        try:
            try:
                if error is not None:
                    raise error
                if result is not None:
                    note_result(require_done(result, function), function)
            except BaseException as raised:
                error = None  # its traceback refers to this call, which would refer to it
                self.fail(websocket, raised, context)
            if getattr(getcurrent(), MARK, None) is True:
                databases.end_message()
            if self.session is not None and self.session.modified:
                sessions.warn_of_change(self.session, self.request)
        except BaseException:
            logger.exception("%r: error during cleanup after a message", websocket)
