"""Who is it, without cookies: tickets, tokens, the first message.

``authentication()`` asks one authenticator after the other, before the view and its decorators, so
``request.user`` is there for ``login_required`` as if a session had said so::

    @authentication(ticket, bearer(user_of_token))
    @login_required
    @websocket
    def chat(request, websocket): ...

    class Chat(LoginRequiredMixin, WebSocketView):
        authenticators = [ticket, bearer(user_of_token)]

An authenticator is a function of the request that returns a user, or ``None`` when there is nothing
for it to judge, and raises ``AuthenticationFailed`` when there is and it is wrong. Those of Django
REST framework will do as well, classes or objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.views.decorators.debug import sensitive_variables

from . import conf, people
from .callables import require_arguments, require_done, require_plain
from .credentials import AuthenticationFailed, Identity, anonymous, bearer_token, forget
from .hooks import DjangoHooks
from .responses import WebSocketResponse
from .server.counters import count
from .server.environ import wire_path
from .server.logs import get_logger
from .server.refusals import note, suffix
from .server.websocket import WebSocket
from .tracebacks import raised_at

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

#: Returns a user, or ``None`` for nothing to judge.
Authenticator = Callable[[Any], Any]

View = Callable[..., HttpResponseBase]


class _LateResponse(WebSocketResponse):
    """Accepts first and calls the view later, which may refuse then."""

    calls_view = True


class FirstMessage:
    """Waits for the first message to say who it is; see ``first_message()``."""

    def __init__(self, lookup: Callable[[Any], Any]) -> None:
        require_plain(lookup)
        require_arguments(lookup, "message")
        self._lookup = lookup

    def response(self, request: Any, view: View, args: Any, kwargs: Any) -> WebSocketResponse:
        """Accept; go on with the view once it is clear whose socket it is."""

        def converse(websocket: WebSocket) -> object:
            seconds = conf.get("WEBSOCKET_TOKEN_TIMEOUT")
            try:
                if not websocket.wait(seconds):
                    return None  # gone without a word
            except TimeoutError:
                count("token_timed_out")
                end = suffix("no first message")
                if end is not None:
                    logger.info(
                        "%r is closed with 4401: no message within %s s%s", websocket, seconds, end
                    )
                websocket.close(people.SIGNED_OUT, "no first message in time")
                return None
            people.begin(websocket)
            try:
                # In no variable: pages of errors show them.
                identity = _checked(_find_in_message(self._lookup, websocket.receive()))
                _identify(request, identity)
                assert isinstance(websocket.hooks, DjangoHooks)
                if not websocket.hooks.identify(websocket):
                    return None
            except AuthenticationFailed as error:
                count("authentication_failed")
                end = suffix("first message")
                if end is not None:
                    logger.warning("%r is closed with 4401: %s%s", websocket, error.reason, end)
                websocket.close(people.SIGNED_OUT, "authentication failed")
                return None
            finally:
                people.end(websocket)
            return view(request, *args, **kwargs)

        # Until then nobody, whatever the cookies say: in no group of theirs either.
        _identify(request, Identity(anonymous()))
        return _LateResponse(
            converse,
            subprotocols=_option(view, "subprotocols", ()),
            compression=_option(view, "compression", True),
        )

    def __call__(self, request: Any) -> None:
        """Say nothing yet: an ``Authenticator`` like the others, but for when it is asked."""


def authentication(*authenticators: Any) -> Callable[[View], View]:
    """Make a decorator that finds out who it is, before the view; goes above all others.

    The first authenticator that has something to judge decides. If none has, ``request.user`` is
    whom the cookies say. If it is wrong the answer is 403, or 401 where there is a challenge to
    send; the reason is logged (``django_wsmux.handshake``) and counted.

    Args:
        authenticators: ``ticket``, ``bearer(...)``, ``first_message(...)`` (the last, if at all),
            functions of one's own, or authenticators of Django REST framework.

    Raises:
        TypeError: one of them is nothing of the kind.
        ValueError: there is none, or ``first_message()`` is not the last.

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
                _identify(request, identity)
            elif isinstance(chosen[-1], FirstMessage):
                return chosen[-1].response(request, view, args, kwargs)
            return view(request, *args, **kwargs)

        wrapper.authenticators = chosen  # type: ignore[attr-defined]  # for checks
        return wrapper

    return decorate


def bearer(lookup: Callable[[str], Any]) -> Authenticator:
    """Make an authenticator of tokens.

    They come as ``new WebSocket(url, ["bearer", token])`` from a browser and in the header
    ``Authorization: Bearer`` from any other client.

    Args:
        lookup: returns the user of a token; ``None``, ``DoesNotExist``, ``LookupError`` or
            ``ValueError`` if it is nobody's. A user who is not active is refused. What else it
            raises is an error, and answered with 500.

    Raises:
        TypeError: the look-up is async, or takes other arguments.

    Example::

        authentication(bearer(lambda token: ApiKey.objects.get(key=token).user))
    """

    require_plain(lookup)
    require_arguments(lookup, "token")

    def authenticate(request: HttpRequest) -> Any:
        if bearer_token(request) is None:
            return None
        try:
            return _checked(_find(lookup, bearer_token(request)))
        except AuthenticationFailed as error:
            # RFC 6750 section 3.1
            challenge = error.challenge or 'Bearer error="invalid_token"'
            raise AuthenticationFailed(error.reason, challenge) from None

    return authenticate


def first_message(lookup: Callable[[Any], Any]) -> Authenticator:
    """Make an authenticator that takes the first message for credentials.

    The handshake is accepted; the view, its decorators and its groups come after the message. When
    none comes in ``WEBSOCKET_TOKEN_TIMEOUT``, or a wrong one, the socket is closed with
    4401. When the view refuses whom it is, with 1008.

    Args:
        lookup: returns the user of a message, ``str`` or ``bytes``; see ``bearer()``. As messages
            may be JSON of any shape, ``TypeError`` and ``AttributeError`` mean a wrong one too, and
            the log says where they were raised.

    Raises:
        TypeError: the look-up is async, or takes other arguments.

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


@sensitive_variables()  # of what it calls, too
def _find(lookup: Callable[[Any], Any], value: Any) -> Any:
    try:
        found = lookup(value)
    except (ObjectDoesNotExist, LookupError, RecursionError, ValueError) as error:
        # What it says may name the token.
        raise AuthenticationFailed(f"unknown token: {type(error).__name__}") from None
    if found is None:
        raise AuthenticationFailed("unknown token")
    return require_done(found, lookup)


@sensitive_variables()
def _find_in_message(lookup: Callable[[Any], Any], message: Any) -> Any:
    try:
        return _find(lookup, message)
    except (AttributeError, TypeError) as error:
        # JSON of another shape leads to these, which is no error of the server. A fault of the
        # look-up leads to them too, so the log says where it is.
        raise AuthenticationFailed(f"unknown token: {raised_at(error)}") from None


def _checked(found: Any) -> Identity:
    identity = found if isinstance(found, Identity) else Identity(found)
    user = identity.user
    if user.is_authenticated and not getattr(user, "is_active", True):
        raise AuthenticationFailed("the user is not active")
    return identity


def _identify(request: Any, identity: Identity) -> None:
    """Make it the request's user, as Django's middleware would."""
    request.identity = identity
    request.user = request._cached_user = identity.user


def _refuse(request: HttpRequest, error: AuthenticationFailed) -> HttpResponse:
    status = 401 if error.challenge else 403
    note("authentication_failed", str(status), wire_path(request.META), error.reason)
    request.is_refusal_logged = True  # type: ignore[attr-defined]
    text = error.reason if settings.DEBUG else "Not authenticated."
    response = HttpResponse(f"{text}\n", status=status, content_type="text/plain; charset=utf-8")
    # django.utils.log.log_response(): the line above is enough.
    response._has_been_logged = True  # type: ignore[attr-defined]
    if error.challenge:
        response.headers["WWW-Authenticate"] = error.challenge
    return response


def _option(view: Any, name: str, default: Any) -> Any:
    """Return what a view that is not asked yet says of the handshake."""
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
    """Ask an authenticator of Django REST framework, in its own terms."""
    from rest_framework.exceptions import APIException
    from rest_framework.request import Request

    asked = Request(request)
    challenge = authenticator.authenticate_header(asked)
    scheme = (challenge or "").partition(" ")[0]
    header = request.META.get("HTTP_AUTHORIZATION")
    if bearer_token(request) is not None and scheme.lower() not in ("", "basic", "bearer"):
        # Its own word for it: "Token".
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
    user, request.auth = found  # type: ignore[attr-defined]
    return user
