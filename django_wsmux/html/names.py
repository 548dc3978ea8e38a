"""Names of groups that a page is allowed to follow.

``{% websocket_stream %}`` renders them, and ``StreamView`` accepts them. A name is
``"<name>:<owner>:<time>:<signature>"``: the name of the group as clients know it, a hash of the
page's user and of the group prefix, and what ``TimestampSigner`` adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final

from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.core.signing import BadSignature, SignatureExpired, TimestampSigner
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare

from ..conf import group_prefix
from ..groups import Group
from ..groups.clients import digests
from ..protocol.v1 import shown

__all__ = ["MAX_AGE", "RejectedName", "group_of", "owner_of", "shown", "sign", "verify"]

#: How long a name is accepted.
MAX_AGE: Final = timedelta(days=7)

#: The name that clients know the group of their user by.
_USER: Final = "@user"

#: The most characters of a name with its signature.
_MOST: Final = 400

_SALT: Final = "django_wsmux.html.names"


class RejectedName(Exception):
    """A name is not accepted.

    Args:
        code: ``"invalid"``; ``"expired"``; or ``"foreign"`` if it was signed for another user or
            session, or for another group prefix.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def owner_of(request: HttpRequest) -> str:
    """Return whom names are signed for: the user, or the session of an anonymous one.

    An anonymous user without a session is the same as any other, and so is one whose session is in
    a signed cookie, because the cookie changes with the session's content.

    Args:
        request: a page's request, or a handshake.
    """
    user: Any = getattr(request, "user", None)
    if getattr(user, "is_authenticated", False) and user.pk is not None:
        return f"user:{user.pk}"
    session = getattr(request, "session", None)
    key = None if isinstance(session, SessionStore) else getattr(session, "session_key", None)
    # The key is as good as a password.
    return "" if key is None else f"session:{sha256(key.encode()).hexdigest()}"


def group_of(group: Group | str, owner: str) -> Group | None:
    """Return the group that an owner may follow by a name.

    Args:
        group: a group or its name; ``"@user"`` is the group of the signed-in user.
        owner: the result of ``owner_of()``.

    Returns:
        ``None`` for ``"@user"`` if no user is signed in.

    Raises:
        ValueError: the name is not allowed, or the group is that of another user.
    """
    kind, _, user_id = owner.partition(":")
    own = Group.for_user(user_id) if kind == "user" else None
    if group == _USER:
        return own
    found = group if isinstance(group, Group) else Group(group)
    if found.name[0] == "@" and found != own:
        raise ValueError(f"{found!r} is not the group of the page's user")
    return found


def sign(group: Group, owner: str) -> str:
    """Return the signed name of a group that ``group_of()`` has returned for the owner."""
    return TimestampSigner(salt=_SALT).sign(f"{shown(group.name)}:{next(_hashes(owner))}")


def verify(signed: str, owner: str, max_age: timedelta | None = MAX_AGE) -> Group:
    """Return the group of a signed name.

    Args:
        signed: what a client has sent.
        owner: the result of ``owner_of()`` for the client's handshake.
        max_age: how old the name may be; ``None`` for any age.

    Raises:
        RejectedName: the name is not accepted.
    """
    if len(signed) > _MOST:
        raise RejectedName("invalid")
    try:
        value = TimestampSigner(salt=_SALT).unsign(signed, max_age)
    except SignatureExpired:
        raise RejectedName("expired") from None
    except (BadSignature, UnicodeEncodeError):
        raise RejectedName("invalid") from None
    name, _, found = value.rpartition(":")
    if not any(constant_time_compare(found, each) for each in _hashes(owner)):
        raise RejectedName("foreign")
    group = group_of(name, owner)
    assert group is not None  # "@user" is signed for users only
    return group


def _hashes(owner: str) -> Iterator[str]:
    """Yield the hash of an owner and the present group prefix, for each secret key."""
    # No prefix has a control character.
    return digests("django_wsmux.html.names", f"{group_prefix()}\n{owner}")
