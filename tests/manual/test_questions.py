"""Runs the answers of ``docs/questions.rst``."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import override_settings
from django.urls import clear_url_caches, path

from django_wsmux.exceptions import HandshakeRefused
from django_wsmux.groups import Group
from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.testing.client import close_all
from django_wsmux.views import WebSocketView
from tests.support import ROOT


def block(first_line: str) -> str:
    """Return the block of the page whose first line after the imports is this."""
    text = (ROOT / "docs" / "questions.rst").read_text()
    found = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", text)
    codes = [textwrap.dedent(code) for code in found]
    assert len(codes) == 8, "a block of the page is not run"
    (code,) = (code for code in codes if re.search(rf"(\A|\n\n){re.escape(first_line)}", code))
    return code


class Member(WebSocketView):
    """Someone who is present in the lobby, with a name."""

    exec(block("def connect(self, request)"))


class Orders(WebSocketView):
    """A member of the group of orders."""

    groups = ("orders",)


urlpatterns: list[Any] = [path("member/", Member.as_view()), path("orders/", Orders.as_view())]


@pytest.fixture(autouse=True)
def sockets() -> Iterator[None]:
    """Use the URLs of this module."""
    with override_settings(WEBSOCKET_URLCONF=__name__):
        yield
        close_all()
    del urlpatterns[2:]
    clear_url_caches()


def connect(view: Any) -> ClientWebSocket:
    """Open a socket to a view of the page."""
    urlpatterns.append(path("view/", view))
    return WebSocketClient().websocket("/view/")


@pytest.mark.django_db
def test_groups(django_capture_on_commit_callbacks: Any) -> None:
    """Code elsewhere can send to a group and list its members."""
    client = WebSocketClient()
    user = User.objects.create(username="ann")
    client.force_login(user)
    with client.websocket("/member/") as ws:
        with django_capture_on_commit_callbacks(execute=True):
            exec(block('Group("room.lobby").send_json('), {"user": user})
            assert ws.receive_json() == {"type": "closing", "minutes": 5}
            assert ws.peek() == []
        assert ws.receive_json() == {"type": "shipped"}
        namespace: dict[str, Any] = {"user": user}
        exec(block("names = [each"), namespace)
        assert namespace["names"] == ["ann"]
        assert namespace["has_a_page_open"]


@pytest.mark.django_db
def test_template(django_capture_on_commit_callbacks: Any) -> None:
    """Members of a group get a rendered template when the transaction commits."""
    loader = "django.template.loaders.locmem.Loader"
    templates = {"orders/row.html": '<tr id="order-{{ order }}"></tr>'}
    settings = {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {"loaders": [(loader, templates)]},
    }
    names: dict[str, Any] = {}
    exec(block("def show(order)"), names)
    with override_settings(TEMPLATES=[settings]), WebSocketClient().websocket("/orders/") as ws:
        with django_capture_on_commit_callbacks(execute=True):
            names["show"](17)
            assert ws.peek() == []
        assert ws.receive() == '<tr id="order-17"></tr>'


def test_clock() -> None:
    """The clock sends every ten seconds, and still receives."""
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(block("@websocket\ndef clock"), namespace)
    with connect(namespace["clock"]) as ws:
        assert re.fullmatch(r"hello, it is ..:..:..", str(ws.receive(timeout=11)))
        ws.send("good evening")
        assert ws.peek(timeout=9) == []
        assert str(ws.receive(timeout=11)).startswith("good evening, ")


def test_history() -> None:
    """With the settings of the page, a client that returns gets all messages."""
    settings: dict[str, Any] = {}
    exec(block("WEBSOCKET_HISTORY"), settings)
    with (
        override_settings(WEBSOCKET_HISTORY=settings["WEBSOCKET_HISTORY"]),
        WebSocketClient().websocket("/member/") as ws,
    ):
        ws.cut()
        Group("room.lobby").send("meanwhile")
        ws.resume()
        assert ws.recovered == {"room.lobby": True}
        assert ws.receive() == "meanwhile"


def test_refusal() -> None:
    """A script in a browser gets the close code; other clients are redirected to the login."""
    namespace: dict[str, Any] = {"__name__": "page"}
    exec(block("class Members"), namespace)
    with pytest.raises(HandshakeRefused, match="302"), connect(namespace["Members"].as_view()):
        pass
    browser = {"Origin": "http://testserver", "Sec-Fetch-Mode": "websocket"}
    with WebSocketClient().websocket("/view/", headers=browser) as ws:
        assert ws.close_code == 4401


#: An event loop in a thread of its own, and one in the main thread.
PROGRAM = """
from gevent import monkey
monkey.patch_all()
{block}
from django.core.exceptions import SynchronousOnlyOperation
from django.utils.asyncio import async_unsafe

events = []

async def wait(value):
    events.append("started")
    while "done" not in events:
        await asyncio.sleep(0.01)
    return value

@async_unsafe
def use_the_orm():
    return "used"

def meanwhile(run):
    events.clear()
    greenlet = gevent.spawn(run, wait, 5)
    while "started" not in events:
        gevent.sleep(0.01)
    try:
        return use_the_orm()
    except SynchronousOnlyOperation:
        return "refused"
    finally:
        events.append("done")
        assert greenlet.get() == 5

print(meanwhile(run_in_thread), meanwhile(lambda function, value: asyncio.run(function(value))))
"""


def test_thread() -> None:
    """An event loop in its own thread does not disturb the ORM; one in the main thread does."""
    program = PROGRAM.format(block=block("def run_in_thread"))
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True
    )
    assert result.stdout.split() == ["used", "refused"]
