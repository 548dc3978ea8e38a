"""The views under test use the database connection of the test."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connection, transaction
from django.db.transaction import TransactionManagementError

from django_wsmux.test import WebSocketTestCase, WebSocketTransactionTestCase
from tests.site import SITE
from tests.site import sockets as site
from tests.support import ROOT


@SITE
class FunctionTests(WebSocketTestCase):
    """A function view inside the transaction of a ``TestCase``."""

    path = "/function/"

    @classmethod
    def setUpTestData(cls) -> None:
        """Write a row that is never committed."""
        User.objects.create(username="ann")

    def test_same_transaction(self) -> None:
        """Test and view see each other's writes."""
        with self.client.websocket(self.path) as ws:
            User.objects.create(username="bob")
            ws.send("save cid")
            self.assertReceivesJSON(ws, 3)
        self.assertEqual(User.objects.count(), 3)

    def test_isolated(self) -> None:
        """Rows of another test's view are gone."""
        self.assertEqual(User.objects.count(), 1)
        with self.client.websocket(self.path) as ws:
            ws.send("save cid")

    def test_count_of_queries(self) -> None:
        """assertNumQueries() counts a view's queries."""
        with self.client.websocket(self.path) as ws:
            with self.assertNumQueries(2):
                ws.send("save bob")
            with self.assertNumQueries(0):
                ws.send("hi")
        with self.assertNumQueries(0), self.client.websocket(self.path):
            pass

    def test_on_commit(self) -> None:
        """on_commit() waits for a commit, which captureOnCommitCallbacks() simulates."""
        with self.client.websocket(self.path) as ws:
            ws.send("later")
            self.assertSilent(ws)
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                ws.send("later")
            self.assertEqual(len(callbacks), 1)
            self.assertReceives(ws, "committed")

    def test_transaction_of_the_view(self) -> None:
        """A view's own atomic() begins and ends between two messages."""
        with self.client.websocket(self.path) as ws:
            ws.send("atomic bob")
            self.assertReceives(ws, "done")

    def test_transaction_of_the_test(self) -> None:
        """A test may be in more transactions when it sends than when it connected."""
        with self.client.websocket(self.path) as ws:
            with transaction.atomic():
                ws.send("save bob")
                with transaction.atomic():
                    ws.send("save cid")
            ws.send("save dan")
            self.assertEqual([ws.receive_json() for _ in range(3)], [2, 3, 4])
        with transaction.atomic():
            ws = self.client.websocket(self.path)
        ws.send("save eve")
        self.assertReceivesJSON(ws, 5)

    def test_error_in_the_view(self) -> None:
        """A failed transaction rolls back the view's writes, and the test continues."""
        with self.client.websocket(self.path) as ws:
            with pytest.raises(Exception, match="UNIQUE"):
                ws.send("atomic ann")
            self.assertClosed(ws, 1011)
        self.assertEqual(User.objects.count(), 1)

    def test_connection_stays(self) -> None:
        """No handshake, wait or end closes the test's connection."""
        held = connection.connection
        for name in ("bob", "cid"):
            with self.client.websocket(self.path) as ws:
                ws.send(f"save {name}")
        self.assertIs(connection.connection, held)
        for signal in (request_started, request_finished):
            receivers: Any = signal._live_receivers(None)
            self.assertIn(close_old_connections, receivers[0])


class EventTests(FunctionTests):
    """The same tests with an event view."""

    path = "/event/"


@SITE
class HoldingTests(WebSocketTestCase):
    """A view that waits inside a transaction of its own."""

    def test_no_transaction_around_the_view(self) -> None:
        """ATOMIC_REQUESTS does not apply, and the TestCase's transaction does not matter."""
        with self.client.websocket("/holding/") as ws, self.assertNumQueries(0):
            self.assertReceivesJSON(ws, True)
            ws.send("go on")
            self.assertReceives(ws, "not held")

    def test_waiting_inside(self) -> None:
        """Waiting inside is an error as in production, even if the test is in a transaction."""
        with self.client.websocket("/holding/") as ws, transaction.atomic():
            with pytest.raises(TransactionManagementError, match="leave the block before you wait"):
                ws.send("hold")
            self.assertClosed(ws, 1011)
        self.assertFalse(User.objects.exists())

    def test_test_leaves_its_transaction(self) -> None:
        """The view's transaction is found even if the test has left one of its own."""
        with transaction.atomic():
            ws = self.client.websocket("/holding/")
        with pytest.raises(TransactionManagementError):
            ws.send("hold")


@SITE
class TransactionTests(WebSocketTransactionTestCase):
    """Views that commit."""

    def test_commit(self) -> None:
        """on_commit() runs at once, and a view uses the test's connection."""
        for path in ("/function/", "/event/"):
            with self.client.websocket(path) as ws:
                ws.send("later")
                self.assertReceives(ws, "committed")
                held = connection.connection
                ws.send(f"save {path}")
                with self.assertNumQueries(2):
                    ws.send(f"save {path}2")
                self.assertIs(connection.connection, held)
        self.assertEqual(User.objects.count(), 4)
        self.assertFalse(connection.in_atomic_block)

    def test_waiting_inside(self) -> None:
        """Waiting inside is the same error here."""
        with self.client.websocket("/holding/") as ws:
            self.assertReceivesJSON(ws, False)
            with pytest.raises(TransactionManagementError):
                ws.send("hold")
        self.assertFalse(User.objects.exists())

    def test_leftovers(self) -> None:
        """Sockets are closed before the database is flushed."""
        self.client.websocket("/event/").send("save ann")
        site.ends.clear()


@pytest.mark.parametrize("signal", [request_started, request_finished])
def test_signals(signal: Any) -> None:
    """The tests have restored Django's own receivers."""
    assert close_old_connections in signal._live_receivers(None)[0]


def test_patched_process() -> None:
    """These tests pass in a process patched by gevent, where each greenlet has connections."""
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import sys, pytest\n"
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    names = ("handler", "client", "handover")
    tests = [f"tests/testing/test_{name}.py" for name in names]
    result = subprocess.run(
        [sys.executable, "-c", program, "-q", "-k", "not patched_process", *tests],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.project.settings"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
