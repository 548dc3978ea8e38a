"""The test cases: their assertions, and sockets that a test leaves open."""

from __future__ import annotations

import unittest
from typing import Any

import pytest
from django.db import transaction
from django.test import override_settings

from django_wsmux import conf
from django_wsmux.connection import registry
from django_wsmux.test import (
    ClientWebSocket,
    SimpleWebSocketTestCase,
    WebSocketClient,
    WebSocketTestCase,
)
from tests.site import SITE
from tests.site import sockets as site


@SITE
class AssertionTests(SimpleWebSocketTestCase):
    """Each assertion, where it holds and where it fails."""

    def fails(self, text: str) -> Any:
        """Assert that an assertion fails with these words."""
        return self.assertRaisesMessage(AssertionError, text)

    def test_receives(self) -> None:
        """assertReceives() compares text with text and bytes with bytes."""
        with self.client.websocket("/function/") as ws:
            ws.send("hi")
            self.assertReceives(ws, "hi")
            ws.send(b"hi")
            with self.fails("b'hi' != 'hi' : in bytes"):
                self.assertReceives(ws, "hi", "in bytes")
            with self.fails("nothing received: '/function/' is open"):
                self.assertReceives(ws, "hi")

    def test_receives_json(self) -> None:
        """assertReceivesJSON() compares values."""
        with self.client.websocket("/event/") as ws:
            ws.send('{"b": 1, "a": 2}')
            self.assertReceivesJSON(ws, {"a": 2, "b": 1})
            ws.send("[1]")
            with self.fails("First differing element 0"):
                self.assertReceivesJSON(ws, [2])

    def test_receives_in_time(self) -> None:
        """Both assertions take a timeout."""
        with self.client.websocket("/patient/") as ws:
            self.assertSilent(ws, timeout=4)
            self.assertReceives(ws, "nothing for 5 s", timeout=1)
            with self.fails("expected silence, received 'nothing for 10 s'"):
                self.assertSilent(ws, timeout=10)

    def test_silent(self) -> None:
        """assertSilent() does not consume the unexpected message."""
        with self.client.websocket("/function/") as ws:
            self.assertSilent(ws)
            ws.send("hi")
            with self.fails("expected silence, received 'hi' : too loud"):
                self.assertSilent(ws, "too loud")
            self.assertReceives(ws, "hi")
            ws.close(4000, "over")
            with self.fails("expected silence, but '/function/' is closed with 4000 'over'"):
                self.assertSilent(ws)

    def test_closed(self) -> None:
        """assertClosed() compares only the arguments that it gets."""
        with self.client.websocket("/event/") as ws:
            with self.fails("not closed: '/event/' is open, and tests.site.sockets.EventView"):
                self.assertClosed(ws)
            ws.send("close good-bye")
            self.assertClosed(ws)
            self.assertClosed(ws, 4000)
            self.assertClosed(ws, reason="good-bye")
            self.assertClosed(ws, 4000, "good-bye")
            with self.fails("(4000, 'good-bye') != (1000, 'good-bye')"):
                self.assertClosed(ws, 1000)
            with self.fails("+ (4000, 'hello') : rude"):
                self.assertClosed(ws, 4000, "hello", "rude")

    def test_refused(self) -> None:
        """assertRefused() takes a path or a callable, and returns the response."""
        response = self.assertRefused(302, "/event/private/")
        self.assertRedirects(
            response, "/login/?next=/event/private/", fetch_redirect_response=False
        )
        self.assertRefused(403, "/event/", origin="https://evil.example")
        self.assertRefused(404, lambda: WebSocketClient().websocket("/nowhere/"))
        with self.fails("403 != 404 : handshake of '/event/' refused with 403 Forbidden"):
            self.assertRefused(404, "/event/", origin="https://evil.example")
        with self.fails("HandshakeRefused not raised"):
            self.assertRefused(403, "/event/")


@override_settings(WEBSOCKET_BACKEND="local://")
class OwnBackendTests(SimpleWebSocketTestCase):
    """A test with its own backend uses it; without, groups stay in the process: test_plugin.py."""

    def test_backend(self) -> None:
        """The settings of the test are in effect."""
        self.assertEqual(conf.get("WEBSOCKET_BACKEND"), "local://")


class Leaving(WebSocketTestCase):
    """A test that another test runs: it leaves sockets open, and fails."""

    __test__ = False  # for pytest

    sockets: list[ClientWebSocket] = []  # noqa: RUF012

    def runTest(self) -> None:
        """Open sockets in several ways and close none."""
        self.sockets[:] = [
            self.client.websocket("/function/"),
            WebSocketClient().websocket("/event/"),
            self.enterContext(self.client.websocket("/patient/")),
        ]
        with transaction.atomic():
            raise KeyError("the test failed")


def run(case: unittest.TestCase) -> list[str]:
    """Run a test case; return its errors."""
    result = unittest.TestResult()
    case(result)
    return [text for _, text in result.errors + result.failures]


@pytest.mark.django_db
@SITE
def test_sockets_left_open() -> None:
    """Open sockets are closed after the test, the last one first, and no view continues."""
    site.ends.clear()
    (error,) = run(Leaving())
    assert "the test failed" in error
    assert site.ends == ["1000 ", "1000 "]
    assert all(socket.closed for socket in Leaving.sockets)
    assert not registry.open_sockets
    assert not registry.running_views


@pytest.mark.django_db
@SITE
def test_view_that_breaks_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of a view during that close is an error of the test."""
    monkeypatch.setattr(site, "ends", None)
    errors = run(Leaving())
    assert len(errors) == 2
    assert "has no attribute 'append'" in errors[1]
    assert not registry.open_sockets
    assert not registry.running_views
