"""Signed names of groups: whom they are for, and for how long."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends.signed_cookies import SessionStore as CookieStore
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from django_wsmux.groups import Group
from django_wsmux.html import names

ANN = "user:1"

PREFIXES = {"now": "a."}


def prefix() -> str:
    """Return the group prefix of the moment."""
    return PREFIXES["now"]


def sign(name: str = "room.1", owner: str = ANN, age: timedelta = timedelta()) -> str:
    """Return a name that was signed this long ago."""
    with patch("django.core.signing.time.time", return_value=names_now() - age.total_seconds()):
        group = names.group_of(name, owner)
        assert group is not None
        return names.sign(group, owner)


def names_now() -> float:
    """Return a moment; ``verify()`` has the real clock, which is not before it."""
    import time

    return time.time()


def request(**attributes: Any) -> Any:
    """Return a request with these attributes."""
    return SimpleNamespace(**attributes)


def code_of(signed: str, owner: str = ANN, **options: Any) -> str:
    """Return why a name is not accepted."""
    with pytest.raises(names.RejectedName) as caught:
        names.verify(signed, owner, **options)
    return caught.value.code


@pytest.mark.parametrize("name", ["room.1", "a:b:c", ":", "größe ‎", "x" * 200])
def test_round_trip(name: str) -> None:
    """A name of any characters is accepted from its owner; the client finds the name in it."""
    signed = sign(name)
    assert names.verify(signed, ANN) == Group(name)
    assert signed.rsplit(":", 3)[0] == name
    # follows.ts tells groups apart by what remains without time and signature.
    later = sign(name, age=timedelta(days=1))
    assert later != signed
    assert later.rsplit(":", 2)[0] == signed.rsplit(":", 2)[0]


def test_foreign() -> None:
    """A name is not accepted from another user or session."""
    signed = sign()
    for owner in ("user:2", "session:1", "", "user:11"):
        assert code_of(signed, owner) == "foreign"
    assert code_of(sign(owner="session:1"), "session:2") == "foreign"
    assert names.verify(sign(owner=""), "") == Group("room.1")


@override_settings(WEBSOCKET_GROUP_PREFIX=f"{__name__}.prefix")
def test_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is for the prefix of the page."""
    signed = sign()
    monkeypatch.setitem(PREFIXES, "now", "b.")
    assert code_of(signed) == "foreign"
    monkeypatch.setitem(PREFIXES, "now", "a.")
    assert names.verify(signed, ANN) == Group("room.1")


def test_expired() -> None:
    """A name is accepted for seven days, unless any age is."""
    assert names.verify(sign(age=timedelta(days=6.9)), ANN) == Group("room.1")
    signed = sign(age=timedelta(days=7.1))
    assert code_of(signed) == "expired"
    assert names.verify(signed, ANN, max_age=None) == Group("room.1")
    assert code_of(signed, "user:2", max_age=None) == "foreign"


@override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"])
def test_rotation() -> None:
    """A name that was signed with an earlier key is accepted."""
    with override_settings(SECRET_KEY="old", SECRET_KEY_FALLBACKS=[]):
        signed = sign()
    assert names.verify(signed, ANN) == Group("room.1")
    with override_settings(SECRET_KEY_FALLBACKS=[]):
        assert code_of(signed) == "invalid"


def test_forged() -> None:
    """A name with one changed character is not accepted."""
    signed = sign()
    for index, char in enumerate(signed):
        other = signed[:index] + ("a" if char != "a" else "b") + signed[index + 1 :]
        assert code_of(other) == "invalid"
    # A signature of Django for another purpose.
    from django.core.signing import TimestampSigner

    assert code_of(TimestampSigner().sign(signed.rsplit(":", 2)[0])) == "invalid"


@given(st.text() | st.text(alphabet=":aZ09-_\ud800\0").map(lambda text: f"room.1:{text}"))
def test_malformed(text: str) -> None:
    """No text raises another error."""
    assert code_of(text) == "invalid"


@given(st.data())
def test_mixed(data: st.DataObject) -> None:
    """Parts of real names in another order are not accepted."""
    parts = [*sign("room.1").split(":"), *sign("room.2", "user:2").split(":")]
    mixed = ":".join(data.draw(st.lists(st.sampled_from(parts), max_size=6)))
    if mixed != sign("room.1") and mixed not in (":".join(parts[:4]), ":".join(parts[4:])):
        assert code_of(mixed) == "invalid"


def test_owner() -> None:
    """The owner is the user, else the session; its key cannot be read from it."""
    assert names.owner_of(request()) == ""
    assert names.owner_of(request(user=AnonymousUser(), session=request(session_key=None))) == ""
    session = request(session_key="secret")
    assert names.owner_of(request(user=User(pk=7), session=session)) == "user:7"
    owner = names.owner_of(request(user=AnonymousUser(), session=session))
    assert owner.startswith("session:")
    assert "secret" not in owner
    # The "key" would change with each change of the content.
    assert names.owner_of(request(session=CookieStore("anything"))) == ""


def test_user() -> None:
    """A user's own group is known to clients without the primary key; others are refused."""
    assert names.group_of("@user", "") is None
    assert names.group_of("@user", "session:1") is None
    signed = sign("@user")
    assert signed.startswith("@user:")
    assert "1" not in signed.split(":")[0]
    assert names.verify(signed, ANN) == Group.for_user(1)
    assert code_of(signed, "user:2") == "foreign"
    assert names.group_of(Group.for_user(1), ANN) == Group.for_user(1)
    for group in (Group.for_user(2), Group.for_session("x"), "@user:1", "@other", ""):
        with pytest.raises(ValueError, match="group"):
            names.group_of(group, ANN)
