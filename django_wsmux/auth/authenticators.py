"""Authentication without cookies: tickets, tokens, the first message.

``authentication()`` asks one authenticator after another before it calls the view and its other
decorators. So ``login_required`` finds ``request.user`` as if the session had set it::

    @authentication(ticket, bearer(user_of_token))
    @login_required
    @websocket
    def chat(request, websocket): ...

    class Chat(LoginRequiredMixin, WebSocketView):
        authenticators = [ticket, bearer(user_of_token)]

An authenticator is a function that takes the request. It returns a user, or ``None`` if the request
has no credentials for it, and raises ``AuthenticationFailed`` if they are wrong. Authenticators of
Django REST framework work as well, classes or objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.views.decorators.debug import sensitive_variables

from .. import conf
from ..connection.counters import count
from ..connection.websocket import WebSocket
from ..groups import users
from ..groups.identity import (
    AuthenticationFailed,
    Identity,
    anonymous,
    bearer_token,
    expiry_of,
    forget,
    identify,
)
from ..groups.pubsub import members, pubsub
from ..handlers.callables import require_arguments, require_done, require_plain
from ..handlers.socket import DjangoHooks
from ..handlers.tracebacks import raised_at
from ..logs import get_logger, suffix
from ..protocol.environ import wire_path
from ..responses import WebSocketResponse
from ..server.refusals import note

__all__ = [
    "AuthenticationFailed",
    "Authenticator",
    "FirstMessage",
    "authentication",
    "bearer",
    "bearer_token",
    "first_message",
]

logger = get_logger("django_wsmux.handshake")

#: Returns a user, or ``None`` if the request has no credentials for it.
Authenticator = Callable[[Any], Any]

View = Callable[..., HttpResponseBase]


class _LateResponse(WebSocketResponse):
    """Accepts the handshake first and calls the view later, which may still refuse."""

    calls_view = True


class FirstMessage:
    """Authenticates by the first message; see ``first_message()``."""

    def __init__(self, lookup: Callable[[Any], Any]) -> None:
        require_plain(lookup)
        require_arguments(lookup, "message")
        self._lookup = lookup

    def response(self, request: Any, view: View, args: Any, kwargs: Any) -> WebSocketResponse:
        """Accept the handshake; call the view once the user is known."""

        def converse(websocket: WebSocket) -> object:
            seconds = conf.get("WEBSOCKET_TOKEN_TIMEOUT")
            try:
                if not websocket.wait(seconds):
                    return None  # closed without a message
            except TimeoutError:
                count("token_timed_out")
                end = suffix("no first message")
                if end is not None:
                    logger.info(
                        "%r is closed with 4401: no message within %s s%s", websocket, seconds, end
                    )
                websocket.close(users.SIGNED_OUT, "no first message in time")
                return None
            pubsub.watch(websocket)
            try:
                # Keep the message out of variables: error pages show them.
                identity = _checked(_find_in_message(self._lookup, websocket.receive()))
                identify(request, identity)
                assert isinstance(websocket.hooks, DjangoHooks)
                if not websocket.hooks.identify(websocket):
                    return None
            except AuthenticationFailed as error:
                count("authentication_failed")
                end = suffix("first message")
                if end is not None:
                    logger.warning("%r is closed with 4401: %s%s", websocket, error.reason, end)
                websocket.close(users.SIGNED_OUT, "authentication failed")
                return None
            finally:
                members.closings.end(websocket)
            return view(request, *args, **kwargs)

        # Anonymous until then, whatever the cookies say, so it joins no group of their user either.
        identify(request, Identity(anonymous()))
        return _LateResponse(
            converse,
            subprotocols=_option(view, "subprotocols", ()),
            compression=_option(view, "compression", True),
            realtime=_option(view, "realtime", True),
        )

    def __call__(self, request: Any) -> None:
        """Return ``None``, as any ``Authenticator`` may: the message comes after the handshake."""


def authentication(*authenticators: Any) -> Callable[[View], View]:
    """Return a decorator that authenticates before the view; put it above all other decorators.

    The first authenticator that finds credentials decides. If none finds any, ``request.user`` is
    the user of the cookies. Wrong credentials are answered with 403, or with 401 if there is a
    challenge to send; the reason is logged (``django_wsmux.handshake``) and counted.

    Args:
        authenticators: ``ticket``, ``bearer(...)``, ``first_message(...)`` (only as the last one),
            your own functions, or authenticators of Django REST framework.

    Raises:
        TypeError: one of them is not an authenticator.
        ValueError: no authenticator is given, or ``first_message()`` is not the last.

    Example::

        urlpatterns = [path("chat/", authentication(ticket)(Chat.as_view()))]
    """
    chosen = tuple(_adapted(each) for each in authenticators)
    if not chosen or any(isinstance(each, FirstMessage) for each in chosen[:-1]):
        raise ValueError(
            "authentication() needs at least one authenticator, and first_message() must be last"
        )

    def decorate(view: View) -> View:
        @wraps(view)
        def wrapper(request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                identity = _authenticate(request, chosen)
            except AuthenticationFailed as error:
                return _refuse(request, error)
            finally:
                forget(request)
            if identity is not None:
                identify(request, identity)
            elif isinstance(chosen[-1], FirstMessage):
                return chosen[-1].response(request, view, args, kwargs)
            return view(request, *args, **kwargs)

        wrapper.authenticators = chosen  # type: ignore[attr-defined]  # for checks
        return wrapper

    return decorate


def bearer(lookup: Callable[[str], Any]) -> Authenticator:
    """Return an authenticator that looks up tokens.

    A browser sends a token with ``new WebSocket(url, ["bearer", token])``, any other client in the
    header ``Authorization: Bearer``.

    Args:
        lookup: returns the user of a token. For an unknown token it returns ``None`` or raises
            ``DoesNotExist``, ``LookupError`` or ``ValueError``. A user who is not active is
            refused. Any other exception is answered with 500.

    If the token is a JSON Web Token with the claim ``exp``, the socket is closed with 4401 at that
    time: see ``websocket.expires_at``. The lookup checks the signature.

    Raises:
        TypeError: the lookup is async, or takes other arguments.

    Example::

        authentication(bearer(lambda token: ApiKey.objects.get(key=token).user))
    """

    require_plain(lookup)
    require_arguments(lookup, "token")

    def authenticate(request: HttpRequest) -> Any:
        if bearer_token(request) is None:
            return None
        try:
            found = _checked(_find(lookup, bearer_token(request)))
            return replace(found, expires_at=expiry_of(bearer_token(request)))
        except AuthenticationFailed as error:
            # RFC 6750 section 3.1
            challenge = error.challenge or 'Bearer error="invalid_token"'
            raise AuthenticationFailed(error.reason, challenge) from None

    return authenticate


def first_message(lookup: Callable[[Any], Any]) -> Authenticator:
    """Return an authenticator that takes the first message for credentials.

    The handshake is accepted; the view, its decorators and its groups come after the message. If
    no message comes within ``WEBSOCKET_TOKEN_TIMEOUT``, or a wrong one, the socket is closed with
    4401. If the view refuses the user, the socket is closed with 1008.

    Args:
        lookup: returns the user of a message, ``str`` or ``bytes``; see ``bearer()``. Messages may
            be JSON of any shape, so ``TypeError`` and ``AttributeError`` also mean a wrong message,
            and the log says where they were raised.

    Raises:
        TypeError: the lookup is async, or takes other arguments.

    Example::

        def user_of(message):
            return ApiKey.objects.get(key=json.loads(message)["token"]).user

        class Chat(WebSocketView):
            authenticators = [first_message(user_of)]
    """
    return FirstMessage(lookup)


def _authenticate(request: Any, authenticators: Sequence[Authenticator]) -> Identity | None:
    for authenticate in authenticators:
        found = authenticate(request)
        if found is not None:
            return _checked(require_done(found, authenticate))
    return None


@sensitive_variables()  # those of the functions that it calls, too
def _find(lookup: Callable[[Any], Any], value: Any) -> Any:
    try:
        found = lookup(value)
    except (ObjectDoesNotExist, LookupError, RecursionError, ValueError) as error:
        # The text of the error may contain the token.
        raise AuthenticationFailed(f"unknown token: {type(error).__name__}") from None
    if found is None:
        raise AuthenticationFailed("unknown token")
    return require_done(found, lookup)


@sensitive_variables()
def _find_in_message(lookup: Callable[[Any], Any], message: Any) -> Any:
    try:
        return _find(lookup, message)
    except (AttributeError, TypeError) as error:
        # JSON of another shape causes these, which is not an error of the server. A bug in the
        # lookup causes them too, so the log says where they were raised.
        raise AuthenticationFailed(f"unknown token: {raised_at(error)}") from None


def _checked(found: Any) -> Identity:
    identity = found if isinstance(found, Identity) else Identity(found)
    user = identity.user
    if user.is_authenticated and not getattr(user, "is_active", True):
        raise AuthenticationFailed("the user is not active")
    return identity


def _refuse(request: HttpRequest, error: AuthenticationFailed) -> HttpResponse:
    status = 401 if error.challenge else 403
    note("authentication_failed", str(status), wire_path(request.META), error.reason)
    request.is_refusal_logged = True  # type: ignore[attr-defined]
    text = error.reason if settings.DEBUG else "Not authenticated."
    response = HttpResponse(f"{text}\n", status=status, content_type="text/plain; charset=utf-8")
    # Django's log_response() would log it again.
    response._has_been_logged = True  # type: ignore[attr-defined]
    if error.challenge:
        response.headers["WWW-Authenticate"] = error.challenge
    return response


def _option(view: Any, name: str, default: Any) -> Any:
    """Return an option of the handshake that a view declares, before the view is called."""
    options = getattr(view, "view_initkwargs", {})
    return options.get(name, getattr(getattr(view, "view_class", view), name, default))


def _adapted(authenticator: Any) -> Authenticator:
    if not hasattr(authenticator, "authenticate"):
        if isinstance(authenticator, type) or not callable(authenticator):
            raise TypeError(
                f"{authenticator!r} is not an authenticator: use a function that takes the "
                f"request, or an authenticator of Django REST framework"
            )
        require_plain(authenticator)
        return authenticator  # type: ignore[no-any-return]
    own = authenticator() if isinstance(authenticator, type) else authenticator
    return lambda request: _ask_rest_framework(own, request)


@sensitive_variables()
def _ask_rest_framework(authenticator: Any, request: HttpRequest) -> Any:
    """Call an authenticator of Django REST framework with a request of its own kind."""
    from rest_framework.exceptions import APIException
    from rest_framework.request import Request

    asked = Request(request)
    challenge = authenticator.authenticate_header(asked)
    scheme = (challenge or "").partition(" ")[0]
    header = request.META.get("HTTP_AUTHORIZATION")
    if bearer_token(request) is not None and scheme.lower() not in ("", "basic", "bearer"):
        # The authenticator expects its own scheme, such as "Token".
        request.META["HTTP_AUTHORIZATION"] = f"{scheme} {bearer_token(request)}"
    try:
        found = authenticator.authenticate(asked)
    except APIException as error:
        name = type(authenticator).__name__
        raise AuthenticationFailed(f"{name}: {error.get_codes()}", challenge) from None
    finally:
        if header is not None:
            request.META["HTTP_AUTHORIZATION"] = header
    if found is None:
        return None
    user, auth = found
    request.auth = auth  # type: ignore[attr-defined]
    return Identity(user, expires_at=expiry_of(auth))
