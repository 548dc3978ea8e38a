"""What a socket that keeps no request needs of it when it moves to another process."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from django.contrib import auth
from django.utils.functional import SimpleLazyObject

from ..groups.identity import Identity, anonymous, session_user, user_by_id
from ..protocol.events import CannotMove
from . import view_state

__all__ = ["Kept", "kept_of", "pack_identity", "unpack_identity"]


class Kept(NamedTuple):
    """The part of a request that cannot be made again from its headers; values of JSON.

    Attributes:
        urlconf: the URLconf that middleware has chosen for the socket, if any.
        identity: the user of a ticket or token, packed; ``None`` if the user is that of the
            cookies.
        session_key: the key of the session of a signed-in user.
    """

    urlconf: str | None = None
    identity: Any = None
    session_key: str | None = None


def kept_of(hooks: Any) -> Kept:
    """Return what a socket needs to keep of its request.

    Args:
        hooks: the ``DjangoHooks`` of the socket.

    Raises:
        CannotMove: it cannot move to another process.
    """
    if hooks.kept is not None:
        found: Kept = hooks.kept
        return found
    request = hooks.request
    if request is None:
        return Kept()
    urlconf, identity = request.websocket_urlconf, request.identity
    if not (urlconf is None or isinstance(urlconf, str)):
        raise CannotMove("its websocket_urlconf has no name", is_final=True)
    if identity is None:
        return Kept(urlconf, None, request.session.session_key if hooks.groups else None)
    try:
        packed = pack_identity(identity)
    except view_state.CannotCarry as error:
        raise CannotMove(str(error), is_final=True) from None
    return Kept(urlconf, packed, identity.session_key)


def pack_identity(identity: Identity) -> Any:
    """Return the user of a ticket, token or first message as a value of JSON.

    Raises:
        CannotCarry: the user is an object that is not stored in a database.
    """
    user = identity.user
    is_anonymous = getattr(user, "pk", None) is None and not user.is_authenticated
    return [
        None if is_anonymous else view_state.encode(user, "request.user"),
        identity.session_key,
    ]


def unpack_identity(packed: Any) -> Identity:
    """Return the identity; its user is read when it is used, as the user now is.

    The user is an ``AnonymousUser`` if it is gone, is not active, or has signed out.
    """
    user, session_key = packed
    return Identity(SimpleLazyObject(partial(_user, user, session_key)), session_key)


def _user(packed: Any, session_key: str | None) -> Any:
    if session_key is not None:
        return session_user(session_key)
    if packed is None:
        return anonymous()
    ((_, label, user_id),) = view_state.references(packed)
    if label == auth.get_user_model()._meta.label:
        return user_by_id(user_id) or anonymous()
    try:
        return view_state.decode(packed)
    except view_state.Gone:
        return anonymous()
