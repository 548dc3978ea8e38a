"""Decorators of views: for a WebSocket, and for a page that opens one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any, Final, overload

from django.http import HttpRequest, HttpResponseBase

from .connection.websocket import WebSocket
from .exceptions import BackendUnavailable
from .groups.group import Group
from .handlers.callables import note_result, require_arguments, require_done, require_plain
from .handlers.refusing import check_refusals
from .handlers.socket import DjangoHooks
from .logs import LogLimit, get_logger
from .responses import WebSocketResponse

__all__ = ["resumable", "websocket", "websocket_loop"]

logger = get_logger("django_wsmux.history")

_unreadable: Final = LogLimit()

View = Callable[..., HttpResponseBase]
Decorator = Callable[[Callable[..., Any]], View]


@overload
def websocket(view: Callable[..., Any], /) -> View: ...
@overload
def websocket(
    *,
    subprotocols: Sequence[str] = (),
    compression: bool = True,
    refusals: str | None = None,
    realtime: bool = True,
) -> Decorator: ...
def websocket(
    view: Callable[..., Any] | None = None,
    /,
    *,
    subprotocols: Sequence[str] = (),
    compression: bool = True,
    refusals: str | None = None,
    realtime: bool = True,
) -> View | Decorator:
    """Turn a function of blocking code into a view; the socket is its second argument.

    The handshake is accepted first; then the function runs in a greenlet of its own, outside of
    middleware and transactions. When it returns, the socket is closed with 1000; when it raises,
    with 1011. To refuse a handshake, put decorators of Django above this one: they answer with
    plain HTTP.

    Args:
        view: called with request, ``WebSocket`` and the URL's arguments.
        subprotocols: names in order of preference; the first that the client offers is chosen
            and is ``websocket.subprotocol``.
        compression: ``False`` declines what the client offers even if ``WEBSOCKET_COMPRESSION`` is
            on: for clients that cannot handle it, or messages that do not compress.
        refusals: ``"close"`` shows browsers a refusal, such as that of a decorator above this one,
            as a close code, ``"http"`` as a response; ``None`` uses ``WEBSOCKET_REFUSALS``.
        realtime: ``False`` declines the subprotocol ``wsmux.v1``, which is otherwise accepted if
            the view has no ``subprotocols`` of its own.

    Raises:
        TypeError: the view is async or a generator, or takes other arguments.
        ValueError: ``refusals`` has another value.

    Example::

        @login_required
        @websocket
        def echo(request, websocket):
            for message in websocket:
                websocket.send(message)
    """

    if isinstance(subprotocols, str):
        raise TypeError(f"subprotocols is a list of names: write [{subprotocols!r}]")
    check_refusals(refusals)

    def decorate(view: Callable[..., Any]) -> View:
        require_plain(view)
        require_arguments(view, "request", "websocket", more=True)

        @wraps(view)
        def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> WebSocketResponse:
            def conversation(websocket: WebSocket) -> object:
                result = require_done(view(request, websocket, *args, **kwargs), view)
                if result is None or isinstance(result, HttpResponseBase):
                    return result
                note_result(result, view)
                return None

            response = WebSocketResponse(
                conversation, subprotocols=subprotocols, compression=compression, realtime=realtime
            )
            request.accepted = response  # type: ignore[attr-defined]
            return response

        # For code that accepts or refuses the handshake before it calls the view.
        wrapper.subprotocols = subprotocols  # type: ignore[attr-defined]
        wrapper.compression = compression  # type: ignore[attr-defined]
        wrapper.realtime = realtime  # type: ignore[attr-defined]
        wrapper.refusals = refusals  # type: ignore[attr-defined]
        return wrapper

    return decorate if view is None else decorate(view)


@overload
def websocket_loop(view: Callable[..., Any], /) -> View: ...
@overload
def websocket_loop(
    *,
    subprotocols: Sequence[str] = (),
    compression: bool = True,
    refusals: str | None = None,
    realtime: bool = True,
) -> Decorator: ...
def websocket_loop(
    view: Callable[..., Any] | None = None,
    /,
    *,
    subprotocols: Sequence[str] = (),
    compression: bool = True,
    refusals: str | None = None,
    realtime: bool = True,
) -> View | Decorator:
    """Turn a function into a view that is called whenever a message is waiting to be received.

    It is not called for the close.

    Args:
        view: called with request, ``WebSocket`` and the URL's arguments.
        subprotocols, compression, refusals, realtime: see ``websocket()``.

    Raises:
        TypeError: see ``websocket()``.

    Example::

        @websocket_loop
        def ping(request, websocket):
            if websocket.receive() == "ping":
                websocket.send("pong")
    """

    def decorate(view: Callable[..., Any]) -> View:
        require_plain(view)
        require_arguments(view, "request", "websocket", more=True)

        @wraps(view)
        def loop(request: HttpRequest, websocket: WebSocket, *args: Any, **kwargs: Any) -> None:
            hooks = websocket.hooks
            assert isinstance(hooks, DjangoHooks)
            hooks.loop(websocket, partial(call, request, websocket, *args, **kwargs))

        def call(*args: Any, **kwargs: Any) -> None:
            if (result := view(*args, **kwargs)) is not None:
                note_result(require_done(result, view), view)

        wrapper = websocket(
            subprotocols=subprotocols,
            compression=compression,
            refusals=refusals,
            realtime=realtime,
        )(loop)
        # For a socket that comes from another process.
        wrapper.call_for_message = call  # type: ignore[attr-defined]
        return wrapper

    return decorate if view is None else decorate(view)


def resumable(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Record the positions of a page's groups before the view reads its data.

    Messages that are sent later are replayed when the page opens its socket, so the page misses
    none. A message may be replayed although the page's data contains it already.
    ``{% websocket_position %}`` renders the positions.

    If the store cannot be read, the page is rendered without positions.

    Args:
        names: names of groups with a history, with arguments of the URL in braces; ``"@user"`` is
            the group of the signed-in user.

    Raises:
        TypeError: no name is given, or one is not a string.
        ImproperlyConfigured: when the page is requested, if a group has no history.

    Example::

        @resumable("room.{room}")
        def room(request, room):
            lines = Line.objects.filter(room=room)
            return render(request, "room.html", {"lines": lines})
    """
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError('name the groups of the page: @resumable("room.{room}")')

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(view)
        def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            request.websocket_positions = dict(  # type: ignore[attr-defined]
                _positions(request, names, kwargs)
            )
            return view(request, *args, **kwargs)

        return wrapper

    return decorate


def _positions(
    request: HttpRequest, names: Sequence[str], arguments: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield the positions of a page's groups, by the names that clients see."""
    for name in names:
        if name == "@user":
            if not request.user.is_authenticated:
                continue
            group = Group.for_user(request.user)
        else:
            name = name.format(**arguments)
            group = Group(name)
        position = position_for_page(group)
        if position is not None:
            yield name, position


def position_for_page(group: Group) -> str | None:
    """Return the position of a group; ``None``, with an error in the log, if it cannot be read."""
    try:
        return group.position()
    except BackendUnavailable as error:
        suffix = _unreadable.suffix()
        if suffix is not None:
            logger.error("a page cannot be resumed: %s%s", error, suffix)
        return None
