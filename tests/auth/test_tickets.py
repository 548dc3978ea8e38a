"""Tickets: which are accepted, and as which user."""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.core import signing
from django.core.cache import cache
from django.template import engines
from django.template.exceptions import TemplateSyntaxError
from django.test import RequestFactory, override_settings

from django_wsmux.auth import issue_ticket
from django_wsmux.groups import Group
from django_wsmux.monitoring.metrics import snapshot
from django_wsmux.test import WebSocketClient

from .site import request_of, status_of

pytestmark = pytest.mark.django_db


def test_ticket_without_a_session(client: WebSocketClient, ann: User) -> None:
    """A ticket without a session belongs to the user and the user's group, and works once."""
    value = issue_ticket(request_of(client, ann), "ws://elsewhere/ticket/?a=b")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", value)
    with client.websocket("/ticket/?c=d", ["bearer", value]) as ws:
        assert ws.receive() == "user ann"
        Group.for_user(ann).send("parcel")
        assert ws.receive() == "parcel"
        ws.send("refresh")
        assert ws.receive() == "True ann"
        User.objects.update(is_active=False)
        ws.send("refresh")
        assert ws.receive() == "False "
    assert status_of(client, "/ticket/", value) == 403


def test_ticket_of_a_session(client: WebSocketClient, ann: User) -> None:
    """A ticket shares its session's group, end, and ``refresh_user()``."""
    client.force_login(ann)
    session = client.session
    page = request_of(client, ann)
    other = WebSocketClient()
    first, second, late = (issue_ticket(page, "/ticket/") for _ in range(3))
    with other.websocket("/ticket/", ["bearer", first]) as ws:
        ws.receive()
        assert "sessionid" not in other.cookies
        Group.for_session(session.session_key or "").send("to all windows")
        assert ws.receive() == "to all windows"
        assert status_of(other, "/ticket/", "ticket.guess") == 403
        ann.set_password("another")
        with override_settings(WEBSOCKET_CLOSE_SIGNED_OUT=False):
            ann.save()
            ws.send("refresh")
            assert ws.receive() == "False "
    assert status_of(other, "/ticket/", second) == 403
    client.logout()
    assert status_of(other, "/ticket/", late) == 403


@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db")
def test_ticket_of_a_stored_session(client: WebSocketClient, ann: User) -> None:
    """Deleting the session closes the socket and invalidates other tickets."""
    client.force_login(ann)
    page = request_of(client, ann)
    other = WebSocketClient()
    with other.websocket("/ticket/", ["bearer", issue_ticket(page, "/ticket/")]) as ws:
        ws.receive()
        late = issue_ticket(page, "/ticket/")
        client.logout()
        assert ws.close_code == 4401
    assert status_of(other, "/ticket/", late) == 403


def test_anonymous_ticket(client: WebSocketClient, ann: User) -> None:
    """A ticket of an anonymous visitor makes an anonymous socket, even with a user's cookies."""
    value = issue_ticket(RequestFactory().get("/"), "/ticket/")
    client.force_login(ann)
    with client.websocket("/ticket/", ["bearer", value]) as ws:
        assert ws.receive() == "user "
        ws.send("refresh")
        assert ws.receive() == "False "


def test_ticket_ignores_cookies(client: WebSocketClient, ann: User) -> None:
    """A ticket for a user of a token ignores the session of the request's cookies."""
    client.force_login(User.objects.create(username="root"))
    value = issue_ticket(request_of(client, ann), "/ticket/")
    with client.websocket("/ticket/", ["bearer", value]) as ws:
        assert ws.receive() == "user ann"


def tampered(value: str) -> str:
    """Return the ticket with another number."""
    return value.replace("ticket.", "ticket.x", 1)


@pytest.mark.parametrize(
    ("spoil", "path", "reason"),
    [
        (tampered, "/ticket/", "no valid signature"),
        (lambda value: f"{value[:-1]}{'B' if value[-1] == 'A' else 'A'}", "/ticket/", "no valid"),
        (lambda _: "ticket.", "/ticket/", "no valid signature"),
        (lambda _: "ticket.ü", "/ticket/", "no valid signature"),
        (lambda _: f"ticket.{signing.TimestampSigner(sep='.').sign('x')}", "/ticket/", "no valid"),
        (lambda value: value, "/ticket/ü/", "for another path, '/ticket/'"),
    ],
)
def test_wrong_tickets(
    client: WebSocketClient,
    ann: User,
    caplog: pytest.LogCaptureFixture,
    spoil: Any,
    path: str,
    reason: str,
) -> None:
    """A wrong ticket is refused with 403 and counted; the log says why, without the ticket."""
    value = spoil(issue_ticket(request_of(client, ann), "/ticket/"))
    before = snapshot()["authentication_failed"]
    assert status_of(client, quote(path), quote(value, encoding="latin-1")) == 403
    assert snapshot()["authentication_failed"] == before + 1
    assert reason in caplog.text
    assert value == "ticket." or value not in caplog.text


@pytest.mark.parametrize(("seconds", "status"), [(29, 101), (32, 403)])
def test_expired(
    client: WebSocketClient,
    ann: User,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    status: int,
) -> None:
    """A ticket expires after 30 seconds; the log names the setting."""
    value = issue_ticket(request_of(client, ann), "/ticket/")
    later = time.time() + seconds
    monkeypatch.setattr(time, "time", lambda: later)
    if status == 403:
        assert status_of(client, "/ticket/", value) == 403
        assert "ticket has expired, see WEBSOCKET_TICKET_SECONDS" in caplog.text
    else:
        client.websocket("/ticket/", ["bearer", value])


def test_unknown(client: WebSocketClient, ann: User, caplog: pytest.LogCaptureFixture) -> None:
    """For an unknown ticket, as in a worker with its own cache, the log names the cache."""
    value = issue_ticket(request_of(client, ann), "/ticket/")
    cache.clear()
    assert status_of(client, "/ticket/", value) == 403
    assert "ticket is not in CACHES['default'] (LocMemCache): all workers must" in caplog.text


def test_password_changed(client: WebSocketClient, ann: User) -> None:
    """Changing the password invalidates a ticket without a session too."""
    value = issue_ticket(request_of(client, ann), "/ticket/")
    ann.set_password("another")
    ann.save()
    assert status_of(client, "/ticket/", value) == 403


@pytest.mark.parametrize("change", [{"is_active": False}, None])
def test_user_gone(client: WebSocketClient, ann: User, change: dict[str, Any] | None) -> None:
    """A ticket of a deleted or inactive user is refused."""
    value = issue_ticket(request_of(client, ann), "/ticket/")
    if change is None:
        User.objects.all().delete()
    else:
        User.objects.update(**change)
    assert status_of(client, "/ticket/", value) == 403


def test_path_of_a_ticket(client: WebSocketClient, ann: User) -> None:
    """The path may be percent-encoded by reverse() or not."""
    for where in ("/ticket/ü/", "/ticket/%C3%BC/", "wss://example.com/ticket/%C3%BC/"):
        value = issue_ticket(request_of(client, ann), where)
        with client.websocket("/ticket/%C3%BC/", ["bearer", value]) as ws:
            assert ws.receive() == "user ann"
    with pytest.raises(ValueError, match=r"path must be that of a socket, .*, not 'ticket/'"):
        issue_ticket(request_of(client, ann), "ticket/")


def test_path_of_the_page(client: WebSocketClient) -> None:
    """Without a path, a ticket is for a socket at the path of the page."""
    value = issue_ticket(RequestFactory().get("/ticket/?a=b"))
    with client.websocket("/ticket/", ["bearer", value]):
        pass


def test_template_tag(client: WebSocketClient, ann: User) -> None:
    """The template tag takes the arguments of {% websocket_url %}."""
    template = engines["django"].from_string(
        "{% load websockets %}{% websocket_ticket 'umlaut' as value %}"
        "{% websocket_ticket 'ticket' %} {{ value }} {% websocket_ticket 'none' as no %}[{{ no }}]"
    )
    first, second, none = template.render({}, request_of(client, ann)).split(" ")
    assert none == "[]"
    for where, value in (("/ticket/", first), ("/ticket/%C3%BC/", second)):
        with client.websocket(where, ["bearer", value]) as ws:
            assert ws.receive() == "user ann"
    with pytest.raises(TemplateSyntaxError, match=r"context_processors\.request"):
        template.render({}, None)
