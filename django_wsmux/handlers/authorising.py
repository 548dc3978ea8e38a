"""Checks whether the users of open sockets are still allowed to have them.

A socket that moves to another process opened with a session that may have ended while it moved. So
the new process checks session, password and user of each, many with one query.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.contrib import auth
from django.contrib.sessions.backends import cache, cached_db, db
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from ..connection.registry import slices
from ..groups.identity import session_store, user_by_id
from .users import reads_rows

__all__ = ["Claim", "holding", "holds"]

#: Claims that are checked with one query, which takes some ten milliseconds: then others run.
_MANY: Final = 100


class Claim(NamedTuple):
    """What a socket was opened with.

    Attributes:
        user_id: the primary key of its user, as text.
        session_key: the key of its session; ``None`` if a token identified the user.
    """

    user_id: str
    session_key: str | None


def holds(claim: Claim) -> bool:
    """Return whether a claim still holds: the session has not ended, and the user is active."""
    if claim.session_key is None:
        return user_by_id(claim.user_id) is not None
    content = session_store()(claim.session_key).load()
    return _is_of(content, claim) and _admits(content, _user_of(content))


def holding(claims: Collection[Claim]) -> set[Claim]:
    """Return the claims that still hold, read with few queries.

    The session stores of Django that keep sessions in the database or the cache, and the
    ``ModelBackend``, are read in batches; others one by one.
    """
    found = set()
    for some in slices(list(dict.fromkeys(claims)), _MANY):
        found |= set(_holding(some))
    return found


def _holding(claims: Sequence[Claim]) -> Iterator[Claim]:
    keys = {claim.session_key for claim in claims if claim.session_key is not None}
    contents = _sessions(keys)
    if contents is None:
        yield from filter(holds, claims)
        return
    together: list[tuple[Claim, dict[str, Any]]] = []
    for claim in claims:
        if claim.session_key is None:
            if holds(claim):
                yield claim
            continue
        content = contents.get(claim.session_key, {})
        if not _is_of(content, claim):
            continue
        if reads_rows(_backend_of(content)):
            together.append((claim, content))
        elif _admits(content, _user_of(content)):
            yield claim
    users = _users(claim.user_id for claim, _ in together)
    for claim, content in together:
        user, backend = users.get(claim.user_id), _backend_of(content)
        if user is not None and backend.user_can_authenticate(user) and _admits(content, user):
            yield claim


def _sessions(keys: Collection[str]) -> dict[str, dict[str, Any]] | None:
    """Return the contents of sessions by key; ``None`` if the store has to be asked one by one."""
    store = session_store()
    if not keys:
        return {}
    if store is db.SessionStore:
        return _rows(store(), keys)
    if store in (cache.SessionStore, cached_db.SessionStore):
        one = store()
        prefix = one.cache_key_prefix
        found = one._cache.get_many([prefix + key for key in keys])
        contents = {key: found[prefix + key] for key in keys if prefix + key in found}
        if store is cached_db.SessionStore:
            contents |= _rows(one, [key for key in keys if key not in contents])
        return contents
    return None


def _rows(store: Any, keys: Collection[str]) -> dict[str, dict[str, Any]]:
    rows = store.model.objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
    return {
        key: store.decode(content)
        for key, content in rows.values_list("session_key", "session_data")
    }


def _users(ids: Iterable[str]) -> dict[str, Any]:
    """Return the users by the texts of their primary keys, as ``ModelBackend`` reads them."""
    model = auth.get_user_model()
    rows = model._default_manager.filter(pk__in=[model._meta.pk.to_python(each) for each in ids])
    return {str(user.pk): user for user in rows}


def _backend_of(content: dict[str, Any]) -> Any:
    path = content.get(auth.BACKEND_SESSION_KEY, "")
    return auth.load_backend(path) if path in settings.AUTHENTICATION_BACKENDS else None


def _user_of(content: dict[str, Any]) -> Any:
    backend = _backend_of(content)
    if backend is None:
        return None
    return backend.get_user(auth.get_user_model()._meta.pk.to_python(content[auth.SESSION_KEY]))


def _is_of(content: dict[str, Any], claim: Claim) -> bool:
    return bool(content.get(auth.SESSION_KEY) == claim.user_id)


def _admits(content: dict[str, Any], user: Any) -> bool:
    """Return whether a session is one of a user with the password of now.

    As ``auth.get_user()``, but without a new key for a session that an old ``SECRET_KEY`` signed:
    the browser would not learn of it.
    """
    if user is None:
        return False
    if not hasattr(user, "get_session_auth_hash"):
        return True
    given = content.get(auth.HASH_SESSION_KEY)
    if not given:
        return False
    expected = [user.get_session_auth_hash()]
    if hasattr(user, "get_session_auth_fallback_hash"):
        expected += user.get_session_auth_fallback_hash()
    return any(constant_time_compare(given, each) for each in expected)
