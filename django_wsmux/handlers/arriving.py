"""Views of sockets that have come from another process, until they are first used.

A deploy moves thousands of sockets at once, and most of them are quiet. So the new process restores
a view, makes its request again and checks its user only when a message arrives, or when the process
has time for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final

from greenlet import getcurrent

from ..connection.counters import count
from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosed
from ..groups.group import Group
from ..groups.users import SIGNED_OUT
from ..logs import get_logger
from ..protocol.frames import CloseCode
from . import authorising, view_state
from .authorising import Claim
from .view_state import Reference

__all__ = ["Arrival", "Arriving", "LoopArrival", "tell_once"]

logger = get_logger("django_wsmux.handover")

#: Seconds for which a socket that speaks waits for the check of all sockets that came with it.
_TOGETHER: Final = 2.0

#: Seconds between attempts to check the user of a socket, if the database is away.
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0)

_RESTART: Final = "service restart"

# What has been logged, so that it is logged once for each view.
_told: Final[set[tuple[str, str]]] = set()


def tell_once(view: str, reason: str, *, exc_info: bool = False) -> None:
    """Log why sockets of a view cannot move, once for each view and reason.

    Args:
        view: name of the class.
        reason: why, in words that do not differ from socket to socket.
        exc_info: whether to log the exception that is being handled.
    """
    if (view, reason) not in _told:
        if len(_told) > 1000:
            _told.clear()
        _told.add((view, reason))
        logger.warning(
            "Sockets of %s are closed with 1012 instead of moving to another process: %s",
            view,
            reason,
            exc_info=exc_info,
        )


class Arriving:
    """A socket that has come from another process and has not settled yet.

    Args:
        websocket: the socket.
        hooks: its ``DjangoHooks``; ``origin`` and ``kept`` are set.
        has_context: whether the view runs with context variables or in context managers, which only
            the request's middleware can set again.

    Attributes:
        is_authorised: whether its user was checked, or there is none.
        references: the rows that the view remembers.
        checked: set once the users of all sockets that came together are checked.
    """

    def __init__(self, websocket: WebSocket, hooks: Any, *, has_context: bool) -> None:
        self.websocket = websocket
        self.hooks = hooks
        self.has_context = has_context
        self.is_authorised = not hooks.groups
        self._is_settled = False
        self._has_failed = False
        self.references: Collection[Reference] = ()
        self.checked: threading.Event | None = None
        # Made when needed.
        self._lock: threading.RLock | None = None

    @property
    def claim(self) -> Claim | None:
        """What its user has to prove; ``None`` if no user is signed in."""
        user_id = self.hooks.user_id
        return None if user_id is None else Claim(user_id, self.hooks.kept.session_key)

    def settle(self, instances: Mapping[Reference, Any] | None = None) -> None:
        """Make the context again, check the user, and restore the view; only once. May wait.

        If one of them fails, the socket is closed.

        Args:
            instances: see ``view_state.unpack()``.
        """
        if self._lock is None:
            self._lock = threading.RLock()
        with self._lock:
            if self._is_settled:
                return
            try:
                if self.has_context:
                    self.hooks.origin.restore_context(self.websocket)
                self.run(self._settle, instances)
            except ConnectionClosed:
                self._has_failed = True  # the middleware has refused the request
            except _Failed as error:
                self._has_failed = True
                self.websocket.close(error.code, error.reason)
            self._is_settled = True

    def run(self, function: Callable[..., object], *args: Any) -> object:
        """Call a function in the context that has been made again, if that was necessary."""
        if not self.has_context:
            return function(*args)
        return self.hooks.request_context.context(getcurrent()).run(function, *args)

    def _settle(self, instances: Mapping[Reference, Any] | None) -> None:
        if not self.is_authorised:
            self._authorise()
        self._restore(instances)

    def _restore(self, instances: Mapping[Reference, Any] | None) -> None:
        """Restore the view."""

    def _authorise(self) -> None:
        """Close the socket with 4401 if its user has signed out or is not active any more."""
        # Checks one by one need a database connection each, and take longer than that of all.
        checked = self.checked
        # gevent (26.9) may wait for ever for an event that is set.
        is_checked = checked is not None and (checked.is_set() or checked.wait(_TOGETHER))
        if is_checked and self.is_authorised:
            return
        claim = self.claim
        for pause in (*_PAUSES, None):
            try:
                is_allowed = claim is None or authorising.holds(claim)
                break
            except Exception:
                if pause is None:
                    tell_once(self.name, "its user could not be checked", exc_info=True)
                    raise _Failed(CloseCode.TRY_AGAIN_LATER, "try again later") from None
            time.sleep(pause)
        if is_allowed:
            self.is_authorised = True
        else:
            self.sign_out()

    @property
    def name(self) -> str:
        """Name of the view, for logs."""
        raise NotImplementedError

    def sign_out(self) -> None:
        """Close the socket: its user has signed out meanwhile, or is not active any more."""
        self.is_authorised = True
        self.websocket.close_from_group(SIGNED_OUT, "signed out")

    def settle_soon(self, instances: Mapping[Reference, Any] | None) -> None:
        """Settle where the view runs, before later messages."""
        raise NotImplementedError

    def start(self) -> None:
        """Run the view, if it runs all the time."""


class Arrival(Arriving):
    """Stands for the event view of a moved socket, and becomes it at first use.

    Args:
        view: the new view, which has no state yet.
        state: from ``view_state.pack()``.
    """

    def __init__(
        self, websocket: WebSocket, hooks: Any, view: Any, state: Any, *, has_context: bool
    ) -> None:
        super().__init__(websocket, hooks, has_context=has_context)
        self.view = view
        self.state = state
        self.keep_request = view.keep_request
        # As the view has them; the handler looks for these.
        self.missed = view.missed if hasattr(view.missed, "does_nothing") else self._missed
        if view.group_receive is not None:
            self.group_receive = self._group_receive

    @property
    def name(self) -> str:
        """Name of the view, for logs."""
        return type(self.view).__qualname__

    @property
    def restored_class(self) -> type[Any]:
        """The class of the view, for a tracer."""
        return type(self.view)

    # As an event view

    def receive(self, message: str | bytes) -> object:
        """Settle, then handle a message."""
        return self._call("receive", message)

    def _group_receive(self, message: str | bytes) -> object:
        """Settle, then handle a message of a group."""
        return self._call("group_receive", message)

    def _missed(self, group: Group) -> object:
        """Settle, then handle a gap."""
        return self._call("missed", group)

    def disconnect(self, code: int, reason: str) -> object:
        """Handle the close of the socket, unless its view could not be restored."""
        self.is_authorised = True  # it makes no difference any more
        self.settle()
        return None if self._has_failed else self.run(self.view.disconnect, code, reason)

    def _call(self, name: str, subject: Any) -> object:
        self.settle()
        if self.websocket.closed:
            return None
        return self.run(getattr(self.view, name), subject)

    # Settling

    def _restore(self, instances: Mapping[Reference, Any] | None) -> None:
        """Give the view its state, and let it take the place of this object."""
        try:
            view_state.unpack(self.view, self.state, instances)
        except view_state.Gone as error:
            logger.info("%r is closed with 1012: %s", self.websocket, error)
            raise _Failed(CloseCode.SERVICE_RESTART, _RESTART) from None
        except Exception as error:
            count("handover_failed")
            reason = f"restoring its state raised {type(error).__name__}"
            tell_once(self.name, reason, exc_info=True)
            raise _Failed(CloseCode.SERVICE_RESTART, _RESTART) from None
        self.state, self.references = None, ()
        if self.hooks.view is self:
            self.hooks.view = self.view

    def settle_soon(self, instances: Mapping[Reference, Any] | None) -> None:
        """Settle as a turn of the view, before later messages."""
        work = partial(self.hooks.take_turn, self.websocket, partial(self.settle, instances))
        self.websocket.insert_turn(work)


class LoopArrival(Arriving):
    """A moved socket of a function view that is called for each message.

    Args:
        call: calls the view, with the request, the socket and the arguments of the URL.
        args: the arguments of the URL.
        kwargs: the same by name.
    """

    def __init__(
        self,
        websocket: WebSocket,
        hooks: Any,
        call: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        has_context: bool,
    ) -> None:
        super().__init__(websocket, hooks, has_context=has_context)
        self._call = call
        self._args = args
        self._kwargs = kwargs

    @property
    def name(self) -> str:
        """Name of the view, for logs."""
        return self._call.__qualname__

    def start(self) -> None:
        """Call the view whenever a message waits, in a greenlet of its own."""
        self.hooks.converse(
            self.websocket, lambda websocket: self.hooks.loop(websocket, self._handle)
        )

    def _handle(self) -> None:
        self.settle()
        if not self.websocket.closed:
            request = self.hooks.make_request(self.websocket)
            call = partial(self._call, request, self.websocket, *self._args, **self._kwargs)
            self.run(call)

    def settle_soon(self, instances: Mapping[Reference, Any] | None) -> None:
        """Settle beside the view."""
        if not self.websocket.closed:
            self.websocket.spawn(self.settle)


class _Failed(Exception):
    """A socket cannot continue; the view does not learn of it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
