"""Presence in tests: frames arrive in turn with the views, and a test may let 15 seconds pass."""

from __future__ import annotations

import subprocess
import sys

from django.http import HttpRequest
from django.test import override_settings
from django.urls import path

from django_wsmux.groups import Group, presence_hooks
from django_wsmux.groups.presence_jobs import jobs
from django_wsmux.test import SimpleWebSocketTestCase
from django_wsmux.testing.client import close_all
from django_wsmux.views import WebSocketView
from tests.support import ROOT


class Room(WebSocketView):
    """Is present under the key of its URL."""

    def connect(self, request: HttpRequest, key: str) -> None:
        """Be present."""
        Group("room").presence(self.websocket, key)


urlpatterns = [path("room/<key>/", Room.as_view())]


@override_settings(WEBSOCKET_URLCONF=__name__)
class PresentTests(SimpleWebSocketTestCase):
    """Each test begins with an empty store."""

    def come_and_go(self) -> None:
        """Let someone come and go."""
        self.assertEqual(Group("room").present(), [])
        with self.client.websocket("/room/ada/"):
            self.assertTrue(presence_hooks.is_manual)
            self.assertEqual([each.key for each in Group("room").present()], ["ada"])
        self.assertEqual([each.key for each in Group("room").present()], ["ada"])

    def test_expiry(self) -> None:
        """Who has closed leaves."""
        self.come_and_go()
        self.expire_presence()
        self.assertEqual(Group("room").present(), [])

    def test_one(self) -> None:
        """Someone stays."""
        self.come_and_go()

    def test_another(self) -> None:
        """Nothing is left of another test."""
        self.come_and_go()

    def test_long_test(self) -> None:
        """Who is open stays present in a test that takes longer than a process may be silent."""
        with self.client.websocket("/room/ada/", ["wsmux.v1"]) as ws:
            jobs.store().advance(60.0)  # type: ignore[attr-defined]
            self.assertEqual([each.key for each in Group("room").present()], ["ada"])
            self.assertIn("welcome", ws.receive_json())
            self.assertEqual(ws.receive_json()["presence"], {"all": {"ada": None}})

    def test_end(self) -> None:
        """After the test, jobs run by themselves again."""
        self.client.websocket("/room/ada/")
        close_all()
        self.assertFalse(presence_hooks.is_manual)


def test_unused() -> None:
    """A test of a project without presence may call all of it, and imports nothing."""
    program = (
        "import sys\n"
        "from django.conf import settings\n"
        "settings.configure(WEBSOCKET_BACKEND='memory://')\n"
        "from django_wsmux.testing import present\n"
        "present.expire_presence()\n"
        "present.forget_presence()\n"
        "sys.exit('django_wsmux.presence' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
