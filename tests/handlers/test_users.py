"""Our own query for the user of a handshake returns the user that Django's query returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib import auth
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.auth.models import AnonymousUser, User, UserManager
from django.contrib.sessions.backends import db
from django.db import connection
from django.db.models import CharField, QuerySet
from django.db.models.signals import post_init
from django.http import HttpResponse
from django.test import RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext

from django_wsmux.handlers import users
from django_wsmux.handlers.request import WebSocketRequest

from .test_authorising import change_password, deactivate, delete

pytestmark = pytest.mark.django_db

MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"


@pytest.fixture(autouse=True)
def fast_passwords() -> Iterator[None]:
    """Hash passwords quickly."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


def sign_in(backend: str = MODEL_BACKEND) -> tuple[User, str]:
    """Return a user, and the key of a session of this user."""
    user = User.objects.create_user("ann", "ann@example.com", "first", first_name="Ann")
    request: Any = RequestFactory().get("/")
    request.session = db.SessionStore()
    auth.login(request, user, backend)
    request.session.save()
    return user, request.session.session_key


def request_with(key: str | None) -> Any:
    """Return the request of a handshake with this session."""
    request: Any = WebSocketRequest(RequestFactory().get("/").environ)
    request.session = db.SessionStore(key)
    return request


def state(user: Any) -> dict[str, Any]:
    """Return everything that a user consists of."""
    found = dict(vars(user))
    model_state = found.pop("_state", None)
    if model_state is not None:
        found["_state"] = model_state.db, model_state.adding
    return found


def check(key: str | None, is_fast: bool) -> Any:
    """Assert that a request has the same user as in Django; return the user.

    Args:
        key: the key of the session.
        is_fast: whether the ORM is not used.
    """
    request, plain = request_with(key), request_with(key)
    with CaptureQueriesContext(connection) as queries:
        user = request._cached_user
    expected = auth.get_user(plain)
    assert type(user) is type(expected)
    assert user == expected
    assert state(user) == state(expected)
    assert dict(request.session.items()) == dict(plain.session.items())
    assert request.session.session_key == plain.session.session_key
    read = [each["sql"] for each in queries if "auth_user" in each["sql"]]
    assert (len(read) == 1 and "LIMIT" not in read[0]) is is_fast
    return user


def test_signed_in() -> None:
    """A signed-in user is read with one query, and only when the user is needed."""
    user, key = sign_in()
    assert check(key, True) == user
    request = request_with(key)
    with CaptureQueriesContext(connection) as queries:
        AuthenticationMiddleware(lambda _: HttpResponse()).process_request(request)
    assert not queries.captured_queries
    with CaptureQueriesContext(connection) as queries:
        assert request.user == user
        assert request.user.is_authenticated
    assert len(queries) == 2
    assert "LIMIT" not in queries[1]["sql"]


def test_changes() -> None:
    """A user that is read can be changed and saved."""
    user, key = sign_in()
    found = request_with(key)._cached_user
    found.first_name = "Bea"
    found.save()
    user.refresh_from_db()
    assert user.first_name == "Bea"
    assert user.check_password("first")


def test_signals() -> None:
    """The signals of models are sent."""
    _, key = sign_in()
    seen = []

    def note(instance: Any, **kwargs: Any) -> None:
        seen.append(instance.username)

    post_init.connect(note, sender=User)
    try:
        request_with(key)._cached_user  # noqa: B018
    finally:
        post_init.disconnect(note, sender=User)
    assert seen == ["ann"]


def _drop_hash(user: User, session: Any) -> None:
    del session[auth.HASH_SESSION_KEY]
    session.save()


def _forge_hash(user: User, session: Any) -> None:
    session[auth.HASH_SESSION_KEY] = "0" * 64
    session.save()


def _drop_backend(user: User, session: Any) -> None:
    del session[auth.BACKEND_SESSION_KEY]
    session.save()


def _name_other_backend(user: User, session: Any) -> None:
    session[auth.BACKEND_SESSION_KEY] = "django.contrib.auth.backends.AllowAllUsersModelBackend"
    session.save()


def _drop_user(user: User, session: Any) -> None:
    del session[auth.SESSION_KEY]
    session.save()


def _exceed_the_column(user: User, session: Any) -> None:
    session[auth.SESSION_KEY] = str(2**70)
    session.save()


@pytest.mark.parametrize(
    "change",
    [
        deactivate,
        change_password,
        delete,
        _drop_hash,
        _forge_hash,
        _drop_backend,
        _name_other_backend,
        _drop_user,
        _exceed_the_column,
    ],
)
def test_not_admitted(change: Callable[[User, Any], None]) -> None:
    """Django decides about everyone else, and does with the session what it does in a page."""
    user, key = sign_in()
    change(user, db.SessionStore(key))
    assert isinstance(check(key, False), AnonymousUser)


@pytest.mark.parametrize("key", [None, "nosuchsessionkeyanywhere"])
def test_no_session(key: str | None) -> None:
    """Without a session no user is signed in."""
    assert isinstance(check(key, False), AnonymousUser)


def test_old_secret() -> None:
    """A session that an old secret signed is signed again, as in a page."""
    with override_settings(SECRET_KEY="old"):
        user, key = sign_in()
        session = db.SessionStore(key)
        content = dict(session.items())
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]):
        session.save()
        request = request_with(key)
        assert request._cached_user == user
        assert request.session.session_key != key
        assert request.session[auth.HASH_SESSION_KEY] != content[auth.HASH_SESSION_KEY]


class Elsewhere(ModelBackend):
    """A backend that reads users from elsewhere."""

    def get_user(self, user_id: Any) -> Any:
        """Return a user who has another name."""
        user = super().get_user(user_id)
        if user is not None:
            user.username = "renamed"
        return user


class Strict(ModelBackend):
    """A backend that accepts no user."""

    def user_can_authenticate(self, user: Any) -> bool:
        """Return False."""
        return False


class Everyone(ModelBackend):
    """A backend that accepts users who are not active, too."""

    def user_can_authenticate(self, user: Any) -> bool:
        """Return True."""
        return True


def test_backends() -> None:
    """A project's backend decides as in a page."""
    names = [f"{__name__}.{kind.__name__}" for kind in (Elsewhere, Strict, Everyone)]
    with override_settings(AUTHENTICATION_BACKENDS=names):
        user, key = sign_in(names[0])
        assert check(key, False).username == "renamed"
        session = db.SessionStore(key)
        for name, is_admitted in ((names[2], True), (names[1], False)):
            session[auth.BACKEND_SESSION_KEY] = name
            session.save()
            deactivate(user, session)
            assert (check(session.session_key, is_admitted) == user) is is_admitted


class Hiding(UserManager[User]):
    """A manager that hides users."""

    def get_queryset(self) -> QuerySet[User]:
        """Return no users."""
        return super().get_queryset().none()


class Loud(QuerySet[User]):
    """A query set that changes what it reads."""

    def get(self, *args: Any, **kwargs: Any) -> User:
        """Return a user who has another name."""
        user = super().get(*args, **kwargs)
        user.username = "ANN"
        return user


@pytest.mark.parametrize("manager", [Hiding(), UserManager.from_queryset(Loud)()])
def test_managers(manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project's manager reads its users itself."""
    _, key = sign_in()
    meta: Any = User._meta
    manager.contribute_to_class(User, "found")
    try:
        monkeypatch.setitem(vars(meta), "default_manager", manager)
        user = check(key, False)
        assert isinstance(user, AnonymousUser) or user.username == "ANN"
    finally:
        del User.found  # type: ignore[attr-defined]
        meta.local_managers.remove(manager)
        meta._expire_cache()


class Formatted(CharField):  # type: ignore[type-arg]  # not generic when it runs
    """A field that the database converts when it is selected."""

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:
        """Return the column in upper case."""
        return f"UPPER({sql})", params


def test_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field with its own way to be selected is read by its model."""
    _, key = sign_in()
    monkeypatch.setattr(User._meta.get_field("first_name"), "__class__", Formatted)
    users._query.cache_clear()
    try:
        assert check(key, False).first_name == "ANN"
    finally:
        users._query.cache_clear()


def test_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project that replaces ``get_user()`` of Django has its own."""
    _, key = sign_in()
    monkeypatch.setattr(auth, "get_user", lambda request: "mine")
    assert request_with(key)._cached_user == "mine"


def test_reads_rows() -> None:
    """Only backends with the ``get_user()`` of Django read rows."""
    assert users.reads_rows(ModelBackend())
    assert users.reads_rows(Strict())
    assert not users.reads_rows(Elsewhere())
    assert not users.reads_rows(object())
