"""Groups of users and sessions, and the signals that close them.

A socket opens with the session of its handshake and does not notice when that session ends. So the
sockets of signed-in users are in a group of the user and a group of the session, and every end of a
session closes them with 4401 in every process: signing out, a changed password, a session that is
deleted or has expired, a user who is no longer active. ``WEBSOCKET_CLOSE_SIGNED_OUT`` turns this
off.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.backends import signed_cookies
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models.signals import post_delete, post_save
from django.http import HttpRequest

from .. import conf
from ..exceptions import BackendUnavailable
from ..logs import get_logger
from .group import Group
from .members import Key, name_of
from .pubsub import key_of, pubsub, session_group, user_group

if TYPE_CHECKING:
    from ..connection.connection import Connection
    from .identity import Identity

__all__ = [
    "SIGNED_OUT",
    "connect_signals",
    "disconnect",
    "join",
    "leave",
]

logger = get_logger("django_wsmux.groups")

#: Close code of a socket whose session is over.
SIGNED_OUT: Final = 4401


def disconnect(user: Any, code: int = SIGNED_OUT, reason: str = "disconnected") -> None:
    """Close every socket of a user, in every process.

    Args:
        user: a user, or a user's primary key.
        code: close code for the clients.
        reason: the text to send with it.

    Raises:
        BackendUnavailable: other processes could not be reached.
    """
    Group.for_user(user).close(code, reason)


def join(websocket: Connection, request: HttpRequest) -> tuple[Key, ...]:
    """Add a signed-in user's socket to the groups of user and session; return their keys.

    The result is empty if no user is signed in.
    """
    names = _groups_of(request)
    if names and conf.prefix_function() is not None:
        prefix = conf.group_prefix()
        keys = tuple(key_of(name, prefix) for name in names)
    else:
        # One string for all windows of a session.
        keys = tuple(map(sys.intern, names))
    plain = keys
    try:
        if names and conf.has_history():
            plain = tuple(key for key in keys if not _join_history(key, websocket))
        pubsub.add_all(plain, websocket)
    except BaseException:
        leave(websocket, keys)
        raise
    return keys


def _join_history(key: Key, websocket: Connection) -> bool:
    """Join a group if it has a history; return whether it has one."""
    from . import joining
    from .numbered import stream_of

    has_history = stream_of(key) is not None
    if has_history:
        joining.join(key, websocket)
    return has_history


def _groups_of(request: HttpRequest) -> tuple[str, ...]:
    """Return the names of the groups that the socket of a request belongs to."""
    identity: Identity | None = getattr(request, "identity", None)
    if identity is not None:
        # A ticket or token takes precedence over cookies.
        if getattr(identity.user, "pk", None) is None:
            return ()
        name = user_group(identity.user.pk)
        key = identity.session_key
        return (name,) if key is None else (name, session_group(key))
    session = getattr(request, "session", None)
    if not isinstance(session, SessionBase) or session.session_key is None:
        return ()
    user_id = session.get(SESSION_KEY)
    if user_id is None or session.session_key is None:  # the session no longer exists
        return ()
    return user_group(user_id), session_group(session.session_key)


def user_id(keys: tuple[Key, ...]) -> str | None:
    """Return the primary key of the user, from the result of ``join()``."""
    return name_of(keys[0]).partition(":")[2] if keys else None


def leave(websocket: Connection, keys: tuple[Key, ...]) -> None:
    """Remove a socket from the groups of ``join()``."""
    for key in keys:
        pubsub.discard(key, websocket)


# Ends of sessions


def connect_signals() -> None:
    """Connect the receivers of signals; called when the app is ready."""
    user_logged_out.connect(_signed_out, dispatch_uid="django_wsmux.groups.users")
    if apps.is_installed("django.contrib.auth"):
        user = get_user_model()
        post_save.connect(_user_saved, sender=user, dispatch_uid="django_wsmux.groups.users")
        post_delete.connect(_user_gone, sender=user, dispatch_uid="django_wsmux.groups.users")
    if apps.is_installed("django.contrib.sessions"):
        from django.contrib.sessions.models import Session

        post_delete.connect(_session_gone, sender=Session, dispatch_uid="django_wsmux.groups.users")


def _close(group: Group, reason: str, using: str | None = None) -> None:
    """Close a group's sockets; with ``using``, once that database's transaction commits."""
    if not conf.get("WEBSOCKET_CLOSE_SIGNED_OUT"):
        return
    # Signing out or saving a user must not fail because the broker is down: log it.
    try:
        group.close(SIGNED_OUT, reason, on_commit=using or False, fail_silently=True)
    except ImproperlyConfigured as error:
        logger.error("%r: sockets were not closed: %s", group, error)


def _signed_out(request: HttpRequest, **kwargs: Any) -> None:
    session = getattr(request, "session", None)
    if session is None or session.session_key is None:
        return
    if isinstance(session, signed_cookies.SessionStore):
        # The key is the session's content, so the sockets may have been opened with another key.
        user_id = session.get(SESSION_KEY)
        if user_id is not None:
            _close(Group.for_user(user_id), "signed out")
        return
    group = Group.for_session(session.session_key)
    _close(group, "signed out")
    _close_once_flushed(session, group)


def _close_once_flushed(session: Any, group: Group) -> None:
    """Close a group again after its session is deleted.

    Django sends ``user_logged_out`` before it deletes the session. The socket of a handshake that
    reads the session in between would stay open.
    """
    if not isinstance(session, SessionBase):
        return

    def flush() -> None:
        del session.flush
        session.flush()
        is_atomic = connections[DEFAULT_DB_ALIAS].in_atomic_block
        _close(group, "signed out", DEFAULT_DB_ALIAS if is_atomic else None)

    session.flush = flush  # type: ignore[method-assign]


def _user_saved(instance: Any, created: bool, using: str, **kwargs: Any) -> None:
    if created:
        return
    if not getattr(instance, "is_active", True):
        _close(Group.for_user(instance), "not active", using)
    elif getattr(instance, "_password", None) is not None:
        # django.contrib.auth.base_user: set_password() sets it, and it is reset after this signal.
        _close(Group.for_user(instance), "password changed", using)


def _user_gone(instance: Any, using: str, **kwargs: Any) -> None:
    group = Group.for_user(instance)
    _close(group, "user deleted", using)
    if group.has_history:
        transaction.on_commit(partial(_forget, group), using=using, robust=True)


def _forget(group: Group) -> None:
    """Delete the history of a deleted user's group. A failure of the store is only logged."""
    try:
        group.forget()
    except (BackendUnavailable, ImproperlyConfigured) as error:
        logger.error("%r: its history was not deleted: %s", group, error)


def _session_gone(instance: Any, using: str, **kwargs: Any) -> None:
    _close(Group.for_session(instance.session_key), "session ended", using)
