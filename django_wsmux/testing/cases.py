"""Django's test cases with a client that opens sockets, and assertions about sockets."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings

from ..exceptions import HandshakeRefused
from ..groups.pubsub import ALONE
from .client import ClientWebSocket, WebSocketClient, close_all
from .present import expire_presence

if TYPE_CHECKING:
    _Base = SimpleTestCase
else:
    _Base = object

__all__ = [
    "SimpleWebSocketTestCase",
    "WebSocketTestCase",
    "WebSocketTestMixin",
    "WebSocketTransactionTestCase",
]


class WebSocketTestMixin(_Base):
    """Mixin for any of Django's test cases: ``self.client`` opens sockets.

    A socket that a test leaves open is closed after the test. Groups are limited to the process,
    like e-mail in tests: ``WEBSOCKET_BACKEND`` is ``memory://`` unless the test overrides it.

    Example::

        class ChatTests(WebSocketTestMixin, MyTestCase): ...
    """

    client_class = WebSocketClient
    client: WebSocketClient

    @classmethod
    def setUpClass(cls) -> None:
        """Limit groups to this process."""
        # Before Django's own, so that settings overridden by the class take precedence.
        cls.enterClassContext(override_settings(WEBSOCKET_BACKEND=ALONE))
        super().setUpClass()

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test; then close the sockets that it left open."""
        self.addCleanup(close_all)  # added first, so called last
        return super().run(result)

    def assertReceives(
        self,
        websocket: ClientWebSocket,
        expected: str | bytes,
        msg: str | None = None,
        *,
        timeout: float = 0,
    ) -> None:
        """Assert that the next message is the expected one.

        Args:
            websocket: the client's end.
            expected: ``str`` for text, ``bytes`` for binary.
            msg: message for a failure.
            timeout: see ``ClientWebSocket.receive()``.
        """
        self.assertEqual(websocket.receive(timeout), expected, msg)

    def assertReceivesJSON(
        self,
        websocket: ClientWebSocket,
        expected: Any,
        msg: str | None = None,
        *,
        timeout: float = 0,
    ) -> None:
        """Assert that the next message is the expected value as JSON; see ``assertReceives()``."""
        self.assertEqual(websocket.receive_json(timeout), expected, msg)

    def assertSilent(
        self, websocket: ClientWebSocket, msg: str | None = None, *, timeout: float = 0
    ) -> None:
        """Assert that the socket is open and no message has arrived.

        Args:
            websocket: the client's end.
            msg: message for a failure.
            timeout: seconds to let pass; see ``ClientWebSocket.receive()``.
        """
        unread = websocket.peek(timeout)
        if unread:
            self.fail(self._formatMessage(msg, f"expected silence, received {unread[0]!r}"))
        if websocket.closed:
            self.fail(self._formatMessage(msg, f"expected silence, but {websocket.describe()}"))

    def assertClosed(
        self,
        websocket: ClientWebSocket,
        code: int | None = None,
        reason: str | None = None,
        msg: str | None = None,
    ) -> None:
        """Assert that the socket is closed.

        Args:
            websocket: the client's end.
            code: the expected close code; ``None`` for any.
            reason: the expected reason; ``None`` for any.
            msg: message for a failure.
        """
        if not websocket.closed:
            self.fail(self._formatMessage(msg, f"not closed: {websocket.describe()}"))
        found = (websocket.close_code, websocket.close_reason)
        expected = (
            found[0] if code is None else code,
            found[1] if reason is None else reason,
        )
        self.assertEqual(found, expected, msg)

    def assertRecovered(self, websocket: ClientWebSocket, msg: str | None = None) -> None:
        """Assert that a client that returned gets all messages that it missed.

        Args:
            websocket: the client's end, after ``resume()`` or with ``?at=`` in its URL.
            msg: message for a failure.
        """
        found = websocket.recovered
        if not found or not all(found.values()):
            self.fail(self._formatMessage(msg, f"not recovered: {found or 'no group was joined'}"))

    def assertGap(
        self, websocket: ClientWebSocket, group: str | None = None, msg: str | None = None
    ) -> None:
        """Assert that a client that returned was told of a gap.

        Args:
            websocket: the client's end, after ``resume()`` or with ``?at=`` in its URL.
            group: name of the group, as the client knows it; ``None`` for any.
            msg: message for a failure.
        """
        found = websocket.recovered
        groups = found if group is None else {group: found.get(group)}
        if False not in groups.values():
            self.fail(self._formatMessage(msg, f"no gap: {found or 'no group was joined'}"))

    def expire_presence(self) -> None:
        """Let those leave whose connections have ended, as if 15 seconds had passed.

        No time passes for anything else. See ``Group.presence()``.

        Example::

            with self.client.websocket("/room/1/"):
                pass
            self.assertEqual(len(Group("room.1").present()), 1)
            self.expire_presence()
            self.assertEqual(Group("room.1").present(), [])
        """
        expire_presence()

    def assertRefused(self, status: int, target: str | Callable[[], object], **options: Any) -> Any:
        """Assert that a handshake is refused.

        Args:
            status: the expected HTTP status.
            target: the path for ``self.client.websocket()``, or a function to call instead.
            options: passed on to ``self.client.websocket()``.

        Returns:
            The response, for ``assertRedirects()``, ``assertContains()`` and so on.

        Example::

            response = self.assertRefused(302, "/chat/lobby/")
            self.assertRedirects(response, "/login/?next=/chat/lobby/")
        """
        connect = target if callable(target) else partial(self.client.websocket, target, **options)
        with self.assertRaises(HandshakeRefused) as context:
            connect()
        response = context.exception.response
        self.assertEqual(response.status_code, status, str(context.exception))
        return response


class SimpleWebSocketTestCase(WebSocketTestMixin, SimpleTestCase):
    """``django.test.SimpleTestCase`` with sockets, for views without a database."""


class WebSocketTestCase(WebSocketTestMixin, TestCase):
    """``django.test.TestCase`` with sockets; views run inside the test's transaction.

    Example::

        class ChatTests(WebSocketTestCase):
            def test_lines_are_stored(self):
                with self.client.websocket("/chat/lobby/") as ws, self.assertNumQueries(1):
                    ws.send("hello")
                self.assertEqual(Line.objects.get().text, "hello")
    """


class WebSocketTransactionTestCase(WebSocketTestMixin, TransactionTestCase):
    """``django.test.TransactionTestCase`` with sockets; views commit what they write."""
