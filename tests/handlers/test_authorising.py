"""Whether the users of open sockets may still have them, checked together and one by one."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from django.conf import settings
from django.contrib import auth
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.test import RequestFactory, override_settings

from django_wsmux.handlers.authorising import Claim, holding, holds

pytestmark = pytest.mark.django_db(transaction=True)

ENGINES = ("db", "cache", "cached_db", "file", "signed_cookies")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    """Select a session engine of Django."""
    name = f"django.contrib.sessions.backends.{request.param}"
    with override_settings(SESSION_ENGINE=name, SESSION_FILE_PATH=str(tmp_path)):
        yield request.param


@pytest.fixture(autouse=True)
def fast_passwords() -> Any:
    """Hash passwords quickly."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


def sign_in(name: str) -> tuple[User, Any, Claim]:
    """Return a signed-in user, the session, and what a socket of it claims."""
    user = User.objects.create_user(name, password="first")
    request: Any = RequestFactory().get("/")
    request.session = import_module(settings.SESSION_ENGINE).SessionStore()
    auth.login(request, user, "django.contrib.auth.backends.ModelBackend")
    request.session.save()
    return user, request.session, Claim(str(user.pk), request.session.session_key)


def check(expected: dict[Claim, bool]) -> None:
    """Assert which claims hold, asked together and one by one."""
    assert holding(list(expected) * 2) == {claim for claim, holds in expected.items() if holds}
    for claim, is_held in expected.items():
        assert holds(claim) is is_held, claim


def _sign_out(user: User, session: Any) -> None:
    session.flush()


def deactivate(user: User, session: Any) -> None:
    """Make the account of a user inactive."""
    user.is_active = False
    user.save()


def change_password(user: User, session: Any) -> None:
    """Change the password of a user."""
    user.set_password("second")
    user.save()


def delete(user: User, session: Any) -> None:
    """Delete a user."""
    user.delete()


@pytest.mark.parametrize("end", [_sign_out, deactivate, change_password, delete])
def test_ends(engine: str, end: Callable[[User, Any], None]) -> None:
    """A claim holds until the session ends in any way; another user's is not affected."""
    user, session, claim = sign_in("ann")
    _, _, other = sign_in("bob")
    check({claim: True, other: True})
    if engine == "signed_cookies" and end is _sign_out:
        return  # the browser forgets the cookie; nothing is stored
    end(user, session)
    check({claim: False, other: True})


def test_wrong_user(engine: str) -> None:
    """A session of another user, or an unknown one, proves nothing."""
    user, _, claim = sign_in("ann")
    bob, _, _ = sign_in("bob")
    check({claim: True, Claim(str(bob.pk), claim.session_key): False})
    check({Claim(str(user.pk), "unknown"): False})


def test_token() -> None:
    """Without a session, an active user suffices."""
    user = User.objects.create_user("ann")
    claim = Claim(str(user.pk), None)
    check({claim: True, Claim("12345", None): False})
    deactivate(user, None)
    check({claim: False})


def test_secret_key_fallback() -> None:
    """A session that an old SECRET_KEY signed holds, and keeps its key."""
    with override_settings(SECRET_KEY="old"):
        _, _, claim = sign_in("ann")
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]):
        check({claim: True})
    with override_settings(SECRET_KEY="new"):
        check({claim: False})


def test_queries(django_assert_num_queries: Any) -> None:
    """Sessions and users are read with two queries, however many they are."""
    claims = [sign_in(f"user{number}")[2] for number in range(20)]
    with django_assert_num_queries(2):
        assert holding(claims) == set(claims)


class OtherBackend(ModelBackend):
    """A backend with rules of its own."""

    def get_user(self, user_id: Any) -> Any:
        """Return the user, except for one."""
        user = super().get_user(user_id)
        return None if user is None or user.username == "carol" else user


@override_settings(AUTHENTICATION_BACKENDS=[f"{__name__}.OtherBackend"])
def test_own_backend() -> None:
    """The project's own backend decides; a backend that was removed admits no session."""
    claims = {}
    for name in ("ann", "carol", "dan"):
        user = User.objects.create_user(name)
        request: Any = RequestFactory().get("/")
        request.session = import_module(settings.SESSION_ENGINE).SessionStore()
        auth.login(request, user, f"{__name__}.OtherBackend")
        request.session.save()
        claims[Claim(str(user.pk), request.session.session_key)] = name != "carol"
    _, _, removed = sign_in("eve")
    check({**claims, removed: False})
