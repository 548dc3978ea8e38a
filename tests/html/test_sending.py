"""HTML for groups: when and for whom it is rendered."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.template import TemplateDoesNotExist
from django.test import RequestFactory, override_settings
from django.utils import translation

from django_wsmux.connection.counters import counters
from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import Group
from django_wsmux.groups.clients import sign
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.html import send_stream, send_template
from django_wsmux.models import Outbox
from django_wsmux.test import ClientWebSocket

from . import SITE, content, joined, received
from .lines.models import Note

LINE = {"line": {"pk": 5, "text": "<b>hi"}}
HTML = '<p id="line-5">&lt;b&gt;hi</p>\n'

committing = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ws() -> Iterator[ClientWebSocket]:
    """A plain socket in the group ``a``."""
    with joined("a") as (ws,):
        yield ws


def test_both_kinds() -> None:
    """A socket with ``wsmux.v1`` gets content, a plain one the HTML."""
    with joined("a") as (plain,), joined("a", subprotocols=("wsmux.v1",)) as (v1,):
        send_template("a", "lines/line.html", LINE)
        assert plain.receive() == HTML
        assert content(v1) == HTML
        send_stream(Group("a"), "append", target="lines", template="lines/line.html", context=LINE)
        html = f'<turbo-stream action="append" target="lines"><template>{HTML}</template>'
        assert plain.receive() == f"{html}</turbo-stream>"
        assert content(v1) == f"{html}</turbo-stream>"


def test_target(ws: ClientWebSocket) -> None:
    """A target is what htmx swaps the HTML into; ``delete`` needs no template."""
    send_template("a", "lines/line.html", LINE, target="lines", swap="beforeend")
    assert ws.receive() == f'<div hx-swap-oob="beforeend:#lines">{HTML}</div>'
    send_template("a", "lines/line.html", LINE, target="line-5", swap="outerHTML")
    assert ws.receive() == HTML.replace("<p", '<p hx-swap-oob="outerHTML:#line-5"')
    send_template("a", None, target="line-5", swap="delete")
    assert ws.receive() == '<div hx-swap-oob="delete:#line-5"></div>'
    with pytest.raises(ValueError, match="needs no template"):
        send_template("a", None, target="line-5")


def test_html(ws: ClientWebSocket) -> None:
    """Streams take text instead of a template, which is escaped."""
    send_stream("a", "update", target="count", html="<3")
    assert "<template>&lt;3</template>" in str(ws.receive())
    with pytest.raises(ValueError, match="either template or html"):
        send_stream("a", "update", target="count", html="", template="lines/line.html")


def test_refresh(ws: ClientWebSocket) -> None:
    """A refresh names the request that has caused it."""
    request = RequestFactory().post("/", headers={"X-Turbo-Request-Id": "5f1"})
    send_stream("a", "refresh", request=request, method="morph")
    assert ws.receive() == (
        '<turbo-stream action="refresh" method="morph" request-id="5f1"></turbo-stream>'
    )
    with pytest.raises(ValueError, match="request belongs to refresh"):
        send_stream("a", "remove", target="a", request=request)


def test_one_socket(ws: ClientWebSocket) -> None:
    """HTML can be sent to one socket."""
    with joined("b", subprotocols=("wsmux.v1",)) as (v1,):
        for each, expected in ((ws, "<p>"), (v1, '{"content":"<p>"}')):
            each.send("<p>")
            assert each.receive() == expected


def test_exclude() -> None:
    """The page that has sent a request does not get what the request causes."""
    with joined("a", subprotocols=("wsmux.v1",)) as (v1,), joined("a") as (plain,):
        v1.send("my id")
        signed = sign(v1.receive_json()["data"]["client"])
        request: Any = RequestFactory().post("/", headers={"X-WebSocket-Client": signed})
        send_template("a", "lines/line.html", LINE, exclude=request.websocket_client)
        send_stream("a", "remove", target="b", exclude=request.websocket_client)
        assert received(v1) == []
        assert len(received(plain)) == 2
        stranger: Any = RequestFactory().post("/", headers={"X-WebSocket-Client": f"{signed}x"})
        send_template("a", "lines/line.html", LINE, exclude=stranger.websocket_client)
        assert content(v1) == HTML


def test_errors_now() -> None:
    """Without ``on_commit``, and with wrong arguments in any case, the sender gets the error."""
    with override_settings(**SITE):
        with pytest.raises(TemplateDoesNotExist):
            send_template("a", "lines/nothing.html")
        for wrong in ({"context": {"request": 1}}, {"exclude": 5}):
            with pytest.raises(TypeError):
                send_template("a", "lines/line.html", on_commit=True, **wrong)
        with pytest.raises(ValueError, match="needs a target"):
            send_template("a", "lines/line.html", swap="beforeend", on_commit=True)
        with pytest.raises(ValueError, match="action must be"):
            send_stream("a", "insert", on_commit=True)


@committing
def test_on_commit(ws: ClientWebSocket) -> None:
    """The template is rendered at the commit, in the language of the call."""
    context: dict[str, Any] = {"line": {"pk": 1, "text": "before"}}
    with transaction.atomic():
        send_template("a", "lines/line.html", context, on_commit=True)
        with translation.override("de"):
            send_template("a", "lines/translated.html", on_commit=True)
        context["line"]["text"] = "after"
        assert ws.peek() == []
    assert ws.receive() == '<p id="line-1">after</p>\n'
    assert ws.receive() == "Ja UTC\n"


@committing
def test_rollback(ws: ClientWebSocket) -> None:
    """Nothing is rendered or sent for a transaction that is rolled back."""
    with transaction.atomic():
        send_template("a", "lines/nothing.html", on_commit=True)
        transaction.set_rollback(True)
    assert ws.peek() == []


@committing
def test_error_on_commit(ws: ClientWebSocket, caplog: pytest.LogCaptureFixture) -> None:
    """An error of the template is logged and counted; other callbacks run."""
    before = counters["html_failed"]
    with caplog.at_level(logging.ERROR), transaction.atomic():
        send_template("a", "lines/nothing.html", on_commit="default")
        send_stream("a", "remove", target="line-5", on_commit=True)
    assert "remove" in str(ws.receive())
    assert ws.peek() == []
    assert counters["html_failed"] == before + 1
    (record,) = caplog.records
    text = "HTML for <Group a> (lines/nothing.html) was not sent"
    assert (record.name, record.getMessage()) == ("django_wsmux.html", text)
    assert record.exc_info
    assert isinstance(record.exc_info[1], TemplateDoesNotExist)


@pytest.mark.usefixtures("tables")
@committing
def test_without_a_broker(caplog: pytest.LogCaptureFixture) -> None:
    """If the broker is away at the commit, that is logged and counted; later callbacks run."""
    before = counters["group_publish_failed"]
    done: list[str] = []
    with override_settings(WEBSOCKET_BACKEND="redis://127.0.0.1:1", **SITE):
        with transaction.atomic():
            send_template("a", "lines/line.html", LINE, on_commit=True)
            Note.objects.create(text="hi")
            transaction.on_commit(lambda: done.append("later"))
        with pytest.raises(BackendUnavailable):
            send_template("a", "lines/line.html", LINE)
        send_template("a", "lines/line.html", LINE, fail_silently=True)
        pubsub.backend()
    pubsub.backend()
    assert done == ["later"]
    assert counters["group_publish_failed"] == before + 4
    assert {record.name for record in caplog.records} == {"django_wsmux.groups"}


@pytest.mark.usefixtures("kept")
@committing
def test_stored() -> None:
    """With ``stored``, the template is rendered at once, and the HTML waits in the outbox."""
    context: dict[str, Any] = {"line": {"pk": 1, "text": "before"}}
    with transaction.atomic():
        send_template("kept.1", "lines/line.html", context, on_commit=True, stored=True)
        context["line"]["text"] = "after"
        assert Outbox.objects.count() == 1
        with pytest.raises(TemplateDoesNotExist):
            send_template("kept.1", "lines/nothing.html", on_commit=True, stored=True)
    (message,) = Group("kept.1").history().messages
    assert message.data == '<p id="line-1">before</p>\n'
    with pytest.raises(ImproperlyConfigured, match="WEBSOCKET_HISTORY"):
        send_template("a", "lines/line.html", LINE, on_commit=True, stored=True)
    with pytest.raises(ImproperlyConfigured, match="WEBSOCKET_HISTORY"):
        send_template("a", "lines/line.html", LINE, on_commit=True, key="once")


def prefix() -> str:
    """Return the prefix of the present tenant."""
    return _tenant[-1]


_tenant = ["one"]


@committing
def test_prefix() -> None:
    """At the commit, the group has the prefix that it had at the call."""
    with override_settings(WEBSOCKET_GROUP_PREFIX=f"{__name__}.prefix"), joined("a") as (ws,):
        with transaction.atomic():
            send_template("a", "lines/line.html", LINE, on_commit=True)
            _tenant.append("two")
            send_template("a", "lines/nothing.html", LINE, on_commit=True)
        _tenant.pop()
        assert ws.receive() == HTML
