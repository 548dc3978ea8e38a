"""Our own query for the session of a handshake returns what Django's query returns."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.backends import cached_db, db
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.models import Session
from django.db import connection
from django.http import HttpRequest
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_wsmux.handlers.sessions import DIRECT, watch

pytestmark = pytest.mark.django_db


def saved(**values: Any) -> str:
    """Save a session; return its key."""
    store = db.SessionStore()
    store.update(values)
    store.save()
    assert store.session_key is not None
    return store.session_key


def direct(key: str | None, kind: type[SessionBase] = db.SessionStore) -> SessionBase:
    """Return the ``request.session`` of a handshake with this cookie."""
    session = kind(key)
    session.__class__ = DIRECT.get(kind, kind)
    return session


def test_reads() -> None:
    """The saved data is loaded with one query for one column."""
    session = direct(saved(name="ann", count=3))
    with CaptureQueriesContext(connection) as queries:
        assert dict(session.items()) == {"name": "ann", "count": 3}
    assert len(queries) == 1
    assert "expire_date" in queries[0]["sql"].partition("WHERE")[2]
    assert session.accessed
    assert not session.modified


@pytest.mark.parametrize("key", ["nosuchsessionkeyanywhere", "x" * 32, "'; DROP TABLE x; --", None])
def test_no_session(key: str | None) -> None:
    """An unknown key leaves the session without a key, as in Django."""
    session, plain = direct(key), db.SessionStore(key)
    assert dict(session.items()) == dict(plain.items()) == {}
    assert session.session_key is plain.session_key is None


def test_expired() -> None:
    """An expired session is empty."""
    key = saved(name="ann")
    Session.objects.filter(pk=key).update(expire_date=timezone.now() - timedelta(seconds=1))
    session = direct(key)
    assert session.get("name") is None
    assert session.session_key is None


def test_tampered() -> None:
    """Data with a wrong signature is ignored."""
    key = saved(name="ann")
    Session.objects.filter(pk=key).update(session_data="eyJuYW1lIjoiZXZlIn0:1:sig")
    assert dict(direct(key).items()) == {}


def test_saves() -> None:
    """The session can be saved, even after the socket has opened."""
    key = saved(name="ann")
    request = HttpRequest()
    request.session = direct(key)
    request.session["name"] = "bea"
    request.session.save()
    assert db.SessionStore(key)["name"] == "bea"
    assert watch(request) is request.session
    request.session["name"] = "cid"
    request.session.save()
    assert not request.session.modified
    assert db.SessionStore(key)["name"] == "cid"


def test_without_time_zones(settings: Any) -> None:
    """Without ``USE_TZ``, expiry dates are in local time."""
    settings.USE_TZ = False
    assert direct(saved(name="ann"))["name"] == "ann"


def test_unknown_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that may return text in another form is queried by Django itself."""
    session = direct(saved(name="ann"))
    monkeypatch.setattr("django_wsmux.handlers.sessions._PLAIN_TEXT", frozenset())
    with CaptureQueriesContext(connection) as queries:
        assert session["name"] == "ann"
    (query,) = queries
    assert '"django_session"."expire_date"' in query["sql"].partition("FROM")[0]


def test_other_kinds() -> None:
    """Sessions of other engines and of a project's own class are left alone."""

    class Own(db.SessionStore):
        """The class of a project."""

    assert type(direct("x" * 32, Own)) is Own
    assert type(direct("x" * 32, cached_db.SessionStore)) is cached_db.SessionStore


def test_classes_are_reused() -> None:
    """Views that reload user and session for each message do not create a class for each."""
    request = HttpRequest()
    request.session = direct(saved(name="ann"))
    watch(request)
    kind = type(request.session)
    for _ in range(3):
        request.session = type(request.session)(request.session.session_key)
        assert watch(request) is request.session
        assert type(request.session) is kind
    request.session["name"] = "bea"
    request.session.save()
    assert not request.session.modified
