"""The live server: real sockets, a thread for each, and the database of the test."""

from __future__ import annotations

import unittest
from contextlib import ExitStack
from typing import Any
from urllib.request import urlopen

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles.testing import StaticLiveServerTestCase
from django.test import override_settings
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from django_wsmux.connection import registry
from django_wsmux.test import LiveServerMixin, LiveServerTestCase
from django_wsmux.testing.live import close_live_sockets
from tests.site import SITE
from tests.site import sockets as site
from tests.support import LOCAL, TIMEOUT, Site


@SITE
class LiveTests(LiveServerTestCase):
    """Both kinds of view."""

    def connect(self, path: str, **options: Any) -> ClientConnection:
        """Open a socket."""
        url = f"{self.live_server_ws_url}{path}"
        client: ClientConnection = connect(url, **LOCAL, **options)
        return client

    def test_echo(self) -> None:
        """Messages come back, and pages are served."""
        for path in ("/function/", "/event/"):
            with self.connect(path) as ws:
                ws.send("hi")
                self.assertEqual(ws.recv(timeout=TIMEOUT), "hi")
        with urlopen(f"{self.live_server_url}/login/", timeout=TIMEOUT) as page:
            self.assertEqual(page.read(), b"who are you")

    def test_same_database(self) -> None:
        """Test and view see each other's writes, also with an in-memory database."""
        for path, name in (("/function/", "bob"), ("/event/", "cid")):
            User.objects.create(username=f"before {name}")
            with self.connect(path) as ws:
                ws.send(f"save {name}")
                self.assertEqual(ws.recv(timeout=TIMEOUT), str(User.objects.count()))
        self.assertEqual(User.objects.count(), 4)

    def test_signed_in(self) -> None:
        """The cookies of the test's client sign in, as in a browser."""
        refusal = Site(self.server_thread.port).refused("/function/private/")
        self.assertEqual(refusal.status, 302)
        self.client.force_login(User.objects.create(username="ann"))
        cookie = {"Cookie": self.client.cookies.output(attrs=[], header="", sep=";").strip()}
        with self.connect("/function/private/", additional_headers=cookie) as ws:
            self.assertEqual(ws.recv(timeout=TIMEOUT), "ann")

    def test_both_clients(self) -> None:
        """A socket of the in-process client and those of the server share groups."""
        with self.client.websocket("/function/") as ann, self.connect("/event/") as bob:
            bob.send("say hello")
            self.assertEqual(bob.recv(timeout=TIMEOUT), "hello")
            self.assertReceives(ann, "hello")
            ann.send("say hello yourself")
            self.assertEqual(bob.recv(timeout=TIMEOUT), "hello yourself")


@SITE
class Leaving(LiveServerTestCase):
    """A test that another test runs: it leaves sockets open."""

    __test__ = False  # for pytest

    clients = ExitStack()
    sockets: list[ClientConnection] = []  # noqa: RUF012

    def runTest(self) -> None:
        """Open two sockets and close none."""
        for path in ("/function/", "/event/"):
            client = connect(f"{self.live_server_ws_url}{path}", **LOCAL)
            self.sockets.append(self.clients.enter_context(client))


@pytest.mark.django_db(transaction=True)
def test_sockets_left_open() -> None:
    """The client receives 1001, and every view has ended before the next test."""
    site.ends.clear()
    result = unittest.TestResult()
    unittest.TestSuite([Leaving()]).run(result)
    assert result.errors + result.failures == []
    assert site.ends == ["1001 the test is over"] * 2
    assert not registry.open_sockets | registry.running_views
    with Leaving.clients:
        for ws in Leaving.sockets:
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv(timeout=TIMEOUT)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001


@SITE
class Stubborn(LiveServerTestCase):
    """A test that another test runs: its view does not end with its socket."""

    __test__ = False  # for pytest

    @classmethod
    def setUpClass(cls) -> None:
        """Let the view end before the server does."""
        super().setUpClass()
        cls.addClassCleanup(close_live_sockets)
        cls.addClassCleanup(site.released.set)

    def runTest(self) -> None:
        """Leave while the view continues."""
        with connect(f"{self.live_server_ws_url}/stubborn/", **LOCAL) as ws:
            ws.recv(timeout=TIMEOUT)


@pytest.mark.django_db(transaction=True)
def test_view_that_goes_on() -> None:
    """A view that continues is an error, so that it cannot disturb the next test."""
    site.released.clear()
    result = unittest.TestResult()
    with override_settings(WEBSOCKET_CLOSE_TIMEOUT=0.1):
        unittest.TestSuite([Stubborn()]).run(result)
    ((_, error),) = result.errors + result.failures
    assert "views still run although their sockets were closed: [<WebSocket '/stubborn/'" in error


@SITE
class StaticTests(LiveServerMixin, StaticLiveServerTestCase):
    """The mixin works with any live server."""

    def test_echo(self) -> None:
        """Messages come back."""
        with connect(f"{self.live_server_ws_url}/function/", **LOCAL) as ws:
            ws.send("hi")
            self.assertEqual(ws.recv(timeout=TIMEOUT), "hi")
