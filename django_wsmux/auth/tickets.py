"""One-time tickets: a page with a signed-in user opens a socket without cookies.

The page requests a ticket where it has cookies, and uses it where the socket has none: on another
domain, in an embedded browser, in an app. A ticket is valid for one handshake to one path, within
``WEBSOCKET_TICKET_SECONDS``, and stands for the session in which it was issued: when that session
ends, the socket is closed.

The client holds a number with Django's signature. The record of the ticket, with its user, is in
the cache of ``WEBSOCKET_TICKET_CACHE``, which all workers must share.
"""

from __future__ import annotations

import secrets
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase
from django.core import signing
from django.core.cache import caches
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare, salted_hmac
from django.views.decorators.debug import sensitive_variables

from .. import conf
from ..groups.identity import (
    AuthenticationFailed,
    Identity,
    anonymous,
    bearer_token,
    session_user,
    user_by_id,
)

__all__ = ["issue_ticket", "ticket"]

#: Tells a ticket from other tokens.
_PREFIX: Final = "ticket."

_SALT: Final = "django_wsmux.ticket"

#: Seconds by which the clocks of two machines may differ; records are kept so much longer.
_SKEW: Final = 300


def issue_ticket(request: HttpRequest, path: str | None = None) -> str:
    """Return a ticket, with which a client opens the socket at ``path`` as the request's user.

    It is valid once, for ``WEBSOCKET_TICKET_SECONDS``; a page that reconnects needs another one. In
    the browser: ``new WebSocket(url, ["bearer", ticket])``.

    Args:
        request: the user's request; one of Django REST framework works too. For an anonymous
            request, the ticket opens an anonymous socket.
        path: path of the socket, or its URL, as ``reverse()`` and ``websocket_url()`` return them;
            a query string is ignored. ``None`` is the path of the request: page and socket may
            share it.

    Returns:
        ASCII letters, digits and ``. - _``.

    Raises:
        ValueError: the path does not begin with a slash.

    Example::

        @login_required
        @never_cache
        def ticket_for_chat(request, room):
            url = websocket_url("chat", kwargs={"room": room}, request=request)
            return JsonResponse({"url": url, "ticket": issue_ticket(request, url)})
    """
    path = request.path if path is None else unquote(urlsplit(path).path)
    if not path.startswith("/"):
        raise ValueError(f"path must be that of a socket, such as '/chat/lobby/', not {path!r}")
    user: Any = getattr(request, "user", None) or anonymous()
    user_id = None if user.pk is None else _id(user)
    number = secrets.token_urlsafe(12)
    # Tenants may have the same primary keys and paths.
    prefix = conf.group_prefix()
    record = (path, user_id, _session_key(request, user_id), _stamp(user), prefix)
    _cache().set(f"{_SALT}.{number}", record, conf.get("WEBSOCKET_TICKET_SECONDS") + _SKEW)
    return _PREFIX + _signer().sign(number)


@sensitive_variables()
def ticket(request: HttpRequest) -> Identity | None:
    """Authenticate by ticket: for ``authentication()`` and ``WebSocketView.authenticators``.

    Raises:
        AuthenticationFailed: the ticket was used, has expired or is for something else.
    """
    value = bearer_token(request)
    if value is None or not value.startswith(_PREFIX):
        return None
    number = _number(value.removeprefix(_PREFIX))
    record = _cache().get(f"{_SALT}.{number}")
    if record is None:
        alias = conf.get("WEBSOCKET_TICKET_CACHE")
        raise AuthenticationFailed(
            f"ticket is not in CACHES[{alias!r}] ({type(_cache()).__name__}): all workers must "
            f"share this cache, see WEBSOCKET_TICKET_CACHE"
        )
    path, user_id, session_key, stamp, *prefix = record
    if path != request.path:
        raise AuthenticationFailed(f"ticket is for another path, {path!r}")
    if prefix and prefix[0] != conf.group_prefix():  # tickets of older versions have none
        raise AuthenticationFailed("ticket was issued under another WEBSOCKET_GROUP_PREFIX")
    identity = Identity(_user(request, user_id, session_key, stamp), session_key)
    # Last, so that a refused ticket is not used up. add() lets one of many clients through.
    seconds = conf.get("WEBSOCKET_TICKET_SECONDS") + _SKEW
    if not _cache().add(f"{_SALT}.{number}.used", True, seconds):
        raise AuthenticationFailed("ticket was already used")
    return identity


def _number(signed: str) -> str:
    try:
        return _signer().unsign(signed, max_age=conf.get("WEBSOCKET_TICKET_SECONDS"))
    except signing.SignatureExpired:
        raise AuthenticationFailed("ticket has expired, see WEBSOCKET_TICKET_SECONDS") from None
    except signing.BadSignature:
        raise AuthenticationFailed("ticket has no valid signature") from None


def _user(request: HttpRequest, user_id: str | None, session_key: str | None, stamp: str) -> Any:
    """Return the user of a ticket, unless user or session have changed since it was issued."""
    if user_id is None:
        return anonymous()
    if session_key is None:
        user = user_by_id(user_id)
    else:
        user = session_user(session_key)
        own: Any = getattr(request, "user", None)
        if own is not None and own.is_authenticated and _id(own) != user_id:
            raise AuthenticationFailed("ticket and cookies belong to different users")
    if user is None or not user.is_authenticated or _id(user) != user_id:
        raise AuthenticationFailed("the user or session of the ticket no longer exists")
    if not constant_time_compare(_stamp(user), stamp):
        raise AuthenticationFailed("the user's password has changed since the ticket was issued")
    return user


def _id(user: Any) -> str:
    return str(user._meta.pk.value_to_string(user)) if hasattr(user, "_meta") else str(user.pk)


def _session_key(request: HttpRequest, user_id: str | None) -> str | None:
    """Return the key of the request's session, if the user is signed in by it."""
    session = getattr(request, "session", None)
    if user_id is None or not isinstance(session, SessionBase):
        return None
    return session.session_key if session.get(SESSION_KEY) == user_id else None


def _stamp(user: Any) -> str:
    """Return a value that changes with the user's password and does not reveal it."""
    session_hash = getattr(user, "get_session_auth_hash", str)()
    return salted_hmac(_SALT, session_hash, algorithm="sha256").hexdigest()[:20]


def _cache() -> Any:
    return caches[conf.get("WEBSOCKET_TICKET_CACHE")]


def _signer() -> signing.TimestampSigner:
    # RFC 9110 section 5.6.2: a subprotocol contains no colon.
    return signing.TimestampSigner(sep=".", salt=_SALT)
