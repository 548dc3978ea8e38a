"""Moves sockets of event views to another process: the part of Django in ``server.mover``.

A record has everything that the new process needs: the URL, from which it looks up the view in its
own code; the state of the view; the headers of the handshake; and the groups. Headers that are
equal in many sockets are sent once for a batch.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

from django.apps import apps
from django.urls import Resolver404, get_resolver

from .. import conf
from ..connection import moving as connection_moving
from ..connection import registry
from ..connection.counters import count
from ..connection.group_receive import InterceptingWebSocket, intercept
from ..connection.guard import notify
from ..connection.interfaces import Detached
from ..connection.websocket import WebSocket
from ..exceptions import BackendUnavailable
from ..groups import moving as groups_moving
from ..groups.namespace import private_directory
from ..logs import get_logger
from ..protocol.events import CannotMove
from ..protocol.frames import CloseCode
from ..protocol.handshake import V1
from ..server import limits, mover, takeover
from ..server.limits import Permit
from ..signals import websocket_moved
from . import authorising, context, databases, view_state
from .arriving import Arrival, Arriving, LoopArrival, tell_once
from .context import RequestContext
from .identities import Kept, kept_of
from .interfaces import EventView
from .realtime import RealtimeHooks
from .remaking import Origin
from .request import joined_environ, split_environ
from .socket import DjangoHooks
from .view_state import Reference

__all__ = ["DjangoMover", "install"]

logger = get_logger("django_wsmux.handover")

#: Rows that are read with one query.
_MANY: Final = 250

_OTHER: Final = "the URL has another view now"

Record = dict[str, Any]


class _Refused(Exception):
    """This process cannot continue a socket; the text gives the reason."""


def install() -> None:
    """Let the sockets of this process move; called when the application is created."""
    mover.install(DjangoMover())


class DjangoMover:
    """Implements ``server.mover.Mover``."""

    def __init__(self) -> None:
        # Numbers of the common parts of environs in the batch that is being packed.
        self._environs: dict[Any, int] = {}
        # The channels of the groups whose messages the other process receives, too.
        self._channels: frozenset[str] = frozenset()
        # Sockets that have come since the last call of finished(), and the requests that preceded
        # them, by the processes that sent them.
        self._arrived: list[Any] = []
        self._requests: dict[str, dict[str, Any]] = {}

    @property
    def directory(self) -> str:
        """A folder in the private directory of the project; made if it is missing."""
        # Hidden: each other name in there is that of a process of local://.
        try:
            path = os.path.join(private_directory(), ".handover")
        except BackendUnavailable as error:
            raise OSError(str(error)) from error
        os.makedirs(path, 0o700, exist_ok=True)
        return path

    # In the process that gives

    def wants_to_move(self, websocket: Any) -> bool:
        """Return whether the view of a socket lets it move."""
        view = getattr(websocket.hooks, "view", None)
        if isinstance(view, Arrival):
            return True
        return websocket in registry.loops if view is None else bool(view.handover)

    def ask(self, websockets: list[Any]) -> dict[str, Any]:
        """Return the channels of the groups."""
        request = groups_moving.request(websockets)
        self._channels = frozenset(request["channels"])
        return request

    def wait_for(self, answer: dict[str, Any], seconds: float) -> bool:
        """Wait until the messages of groups that go to the other process reach this one, too."""
        return groups_moving.wait_for(answer, seconds)

    def pack(self, websocket: Any) -> Record:
        """Return everything that another process needs of a socket.

        Raises:
            CannotMove: the socket cannot move, or not now.
        """
        if not self._channels.issuperset(groups_moving.channels_of(websocket)):
            raise CannotMove("it has joined another group meanwhile")
        hooks = websocket.hooks
        around: RequestContext = hooks.request_context
        permit = websocket.permit
        name, state = _view_of(websocket)
        common, own = split_environ(websocket.environ)
        return {
            "socket": connection_moving.pack(websocket),
            "environ": [self._environs.setdefault(common, len(self._environs)), own],
            "groups": groups_moving.memberships(websocket),
            "view": name,
            "state": state,
            "kept": list(kept_of(hooks)),
            "context": around.state(),
            "has_context": around.has_values,
            "address": hooks.address,
            "opened_at": hooks.opened_at,
            "permit": [permit.address, permit.user] if isinstance(permit, Permit) else None,
        }

    def seal(self, records: list[Record], is_complete: bool) -> dict[str, Any]:
        """Return the headers of all sockets, and which messages have reached them."""
        environs, self._environs = list(self._environs), {}
        return {"environs": environs, "cut": groups_moving.cut(), "is_complete": is_complete}

    def given(self, websockets: list[Any]) -> None:
        """Tell receivers that the sockets have left; free what belongs to them."""
        for websocket in websockets:
            _tell(websocket, is_leaving=True)
            websocket.hooks.let_go(websocket)

    def take_back(
        self, websocket: Any, record: Record, detached: Detached, batch: dict[str, Any]
    ) -> Any:
        """Continue a socket in this process, with the same view and request."""
        view: Any = websocket.hooks.view
        if view is not None:
            new = _with_same_view(websocket, view)
            _continue([(new, record, detached)], batch)
        else:
            # The function view has ended. It keeps nothing, so it may as well be a new one.
            arrival = _build(record, _environs_of(batch))
            arrival.is_authorised = True
            new = arrival.websocket
            _continue([(new, record, detached)], batch)
            arrival.start()
        return None if new.closed else new

    # In the process that takes

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Receive the messages of the groups from now on."""
        self._requests[request["process"]] = request
        return groups_moving.listen(request)

    def build(self, batch: dict[str, Any], records: list[Record]) -> list[object]:
        """Build sockets and views; a string says why this process cannot continue one."""
        environs = _environs_of(batch)
        built: list[object] = []
        for record in records:
            try:
                built.append((_build(record, environs), record))
            except _Refused as error:
                built.append(str(error))
                tell_once(record["view"] or record["environ"][1]["PATH_INFO"], str(error))
        return built

    def adopt(self, batch: dict[str, Any], built: list[tuple[Any, Detached]]) -> None:
        """Continue sockets, and check their users afterwards."""
        moved = [(arrival.websocket, record, each) for (arrival, record), each in built]
        _continue(moved, batch)
        arrivals = [arrival for (arrival, _), _ in built if not arrival.websocket.closed]
        for arrival in arrivals:
            arrival.start()
            _tell(arrival.websocket, is_leaving=False)
        self._arrived += [arrival.websocket for arrival in arrivals]
        _settling.add(arrivals)

    def gave_all(self) -> None:
        """Stop keeping messages of groups for sockets that are taken back."""
        groups_moving.end()

    def finished(self) -> None:
        """Spread the pings of the sockets that have come; stop keeping messages of groups."""
        arrived, self._arrived = self._arrived, []
        takeover.spread_pings(arrived)
        requests, self._requests = self._requests, {}
        for request in requests.values():
            groups_moving.end(request)


def _tell(websocket: Any, *, is_leaving: bool) -> None:
    notify(websocket_moved, WebSocket, websocket=websocket, is_leaving=is_leaving)


def _name(kind: type[Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _view_of(websocket: Any) -> tuple[str, Any]:
    """Return the name of the view of a socket, and its state.

    Raises:
        CannotMove: the state cannot move, or it is a function view that is not idle.
    """
    view = websocket.hooks.view
    if isinstance(view, Arrival):
        return _name(type(view.view)), view.state
    if view is None:
        if not registry.loops.get(websocket):
            raise CannotMove("its view is running")
        return "", None
    try:
        return _name(type(view)), view_state.pack(view)
    except view_state.CannotCarry as error:
        tell_once(type(view).__qualname__, str(error))
        raise CannotMove("its state cannot move", is_final=True) from None


def _with_same_view(websocket: WebSocket, view: Any) -> WebSocket:
    """Return a new socket for a view whose socket was detached."""
    hooks: Any = websocket.hooks
    new = WebSocket(websocket.environ, websocket.options, hooks)
    if isinstance(websocket, InterceptingWebSocket):
        intercept(new)
    if "wsgi.websocket" in new.environ:
        new.environ["wsgi.websocket"] = new
    if hooks.request is not None:
        hooks.request.websocket = new
    view.websocket = new
    if isinstance(view, Arrival):
        view.view.websocket = new
    return new


def _environs_of(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the common parts of the environs of a batch."""
    return [{sys.intern(key): value for key, value in each} for each in batch["environs"]]


def _build(record: Record, environs: list[dict[str, Any]]) -> Arriving:
    """Return a socket that is not open, with its view.

    Raises:
        _Refused: the code of this process has no such view, or no such model.
    """
    number, own = record["environ"]
    environ = joined_environ(environs[number], own)
    kept = Kept(*record["kept"])
    urlconf = kept.urlconf or conf.get("WEBSOCKET_URLCONF")
    target = _find(environ["PATH_INFO"], urlconf, tuple(record["context"]), record["view"])
    if isinstance(target, str):
        raise _Refused(target)
    try:
        references = view_state.references(record["state"])
    except ValueError as error:
        raise _Refused(str(error)) from None
    hooks = DjangoHooks(None)
    hooks.groups = groups_moving.people(record["groups"])
    hooks.kept, hooks.origin = kept, Origin(kept.urlconf, kept.identity)
    hooks.request_context = context.restored(*record["context"])
    hooks.address, hooks.opened_at = sys.intern(record["address"]), record["opened_at"]
    if record["socket"]["subprotocol"] == V1:
        hooks.__class__ = RealtimeHooks
    websocket = WebSocket(environ, conf.options(), hooks)
    has_context = record["has_context"]
    if not isinstance(target.view, type):
        call, args, kwargs = target.view, target.args, target.kwargs
        return LoopArrival(websocket, hooks, call, args, kwargs, has_context=has_context)
    view = target.view(**target.options)
    view.args, view.kwargs, view.websocket = target.args, dict(target.kwargs), websocket
    if not view.keep_request:
        view.release_request()
    if view.group_receive is not None:
        intercept(websocket)
    arrival = Arrival(websocket, hooks, view, record["state"], has_context=has_context)
    arrival.references = references
    hooks.view = cast("EventView", arrival)
    return arrival


class _Target(NamedTuple):
    """The view of a URL, with its options and the arguments of the URL."""

    view: Any
    options: dict[str, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@lru_cache(maxsize=1024)
def _find(path: str, urlconf: str, around: tuple[Any, ...], name: str) -> _Target | str:
    """Return the view of a URL, or why a socket cannot continue with it.

    Args:
        path: the path of the URL.
        urlconf: the URLconf of the socket.
        around: the state of a ``RequestContext``: patterns may depend on the language.
        name: the name that the class had; empty for a function view.
    """
    resolver = get_resolver(urlconf)
    try:
        match = context.restored(*around).enter(resolver.resolve, path)
    except Resolver404:
        return "the URL does not exist any more"
    view: Any = match.func
    if not name:
        call = getattr(view, "call_for_message", None)
        return _OTHER if call is None else _Target(call, {}, match.args, match.kwargs)
    kind = getattr(view, "view_class", None)
    if kind is None or _name(kind) != name:
        return _OTHER
    if not kind.handover:
        return "the view does not let its sockets move any more"
    return _Target(kind, view.view_initkwargs, match.args, match.kwargs)


def _continue(moved: list[tuple[Any, Record, Detached]], batch: dict[str, Any]) -> None:
    """Continue detached sockets: join their groups, and start to read.

    What one of them raises closes only this socket.
    """
    opened = list(_each(moved, _open))
    joined = list(_each(opened, _join))
    groups_moving.replay(batch["cut"], batch["is_complete"], [each[0] for each in joined])
    for _ in _each(joined, _resume):
        pass


def _each(
    moved: Iterable[tuple[Any, Record, Detached]], step: Callable[..., None]
) -> Iterable[tuple[Any, Record, Detached]]:
    """Take a step with each socket; yield those with which it succeeded."""
    for each in moved:
        try:
            step(*each)
        except Exception:
            count("internal_errors")
            logger.exception("%r is dropped: it could not be continued after a move", each[0])
            _drop(each[0], each[2])
        else:
            yield each


def _open(websocket: WebSocket, record: Record, detached: Detached) -> None:
    if record["permit"] is not None or conf.has_limits():
        websocket.permit = limits.readmit(*(record["permit"] or (None, None)))
    transport = takeover.adopt(detached, websocket)
    try:
        connection_moving.unpack(websocket, record["socket"])
        if record["view"]:
            websocket.serve()
        websocket.adopted(transport, detached)
    except BaseException:
        transport.abort()  # it owns the descriptor
        raise


def _join(websocket: WebSocket, record: Record, detached: Detached) -> None:
    groups_moving.rejoin(websocket, record["groups"])


def _resume(websocket: WebSocket, record: Record, detached: Detached) -> None:
    websocket.resume(detached.unread)


def _drop(websocket: WebSocket, detached: Detached) -> None:
    """Close a socket that could not be continued."""
    if websocket.connecting:
        # Its transport does not own the descriptor yet.
        with contextlib.suppress(OSError):
            os.close(detached.fd)
        websocket.abandon()
        if websocket.permit is not None:
            websocket.permit.release()
    else:
        websocket.close(CloseCode.INTERNAL_ERROR)


# After the move


class _Settling:
    """Checks the users of moved sockets, and reads the rows that their views remember.

    All that have come while it was busy are next, together. The sockets whose contexts are made by
    their middleware do both one by one.
    """

    def __init__(self) -> None:
        self._arrivals: list[Arriving] = []
        # Made when needed: one from before gevent's patching would block the whole process.
        self._checked: threading.Event | None = None
        self._is_running = False

    def add(self, arrivals: list[Arriving]) -> None:
        """Have these sockets checked soon."""
        if self._checked is None:
            self._checked = threading.Event()
        for arrival in arrivals:
            if not arrival.has_context:
                arrival.checked = self._checked
        self._arrivals += arrivals
        if not self._is_running:
            self._is_running = True
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            while self._arrivals:
                arrivals, self._arrivals = self._arrivals, []
                checked, self._checked = self._checked, None
                assert checked is not None
                self._settle(arrivals, checked)
        finally:
            self._is_running = False
            databases.discard()

    def _settle(self, arrivals: list[Arriving], checked: threading.Event) -> None:
        together = [each for each in arrivals if not each.has_context]
        instances: Mapping[Reference, Any] | None = None
        try:
            try:
                _authorise([each for each in together if not each.is_authorised])
            finally:
                checked.set()
            instances = _instances(together)
        except Exception:
            # The database is away, say: each of them tries again.
            logger.exception("The users of moved sockets could not be checked together")
        for arrival in arrivals:
            if arrival.has_context:
                arrival.settle_soon(None)
            elif not arrival.is_authorised or arrival.references:
                arrival.settle_soon(instances)
            else:
                continue
            time.sleep(0)


_settling: Final = _Settling()


def _authorise(arrivals: list[Arriving]) -> None:
    claims = {each: claim for each in arrivals if (claim := each.claim) is not None}
    held = authorising.holding(claims.values())
    for arrival, claim in claims.items():
        if claim in held:
            arrival.is_authorised = True
        else:
            arrival.sign_out()


def _instances(arrivals: list[Arriving]) -> dict[Reference, Any]:
    """Read the rows that views remember, those of a table with few queries."""
    wanted: dict[tuple[str, str], set[Any]] = {}
    for arrival in arrivals:
        for alias, label, pk in arrival.references:
            wanted.setdefault((alias, label), set()).add(pk)
    found = {}
    for (alias, label), keys in wanted.items():
        manager = apps.get_model(label)._base_manager.using(alias)
        for some in registry.slices(list(keys), _MANY):
            for pk, instance in manager.in_bulk(some).items():
                found[alias, label, pk] = instance
    return found
