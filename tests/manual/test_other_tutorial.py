"""The test file of a well-known chat tutorial, with the tools of this package.

The original drives a browser against a live server, with 94 lines and five seconds for two of
the three tests below.
"""

from django.contrib.auth.models import User
from django.test import override_settings

from django_wsmux.test import WebSocketTestCase


@override_settings(WEBSOCKET_URLCONF="tests.manual.other_tutorial_sockets")
class ChatTests(WebSocketTestCase):
    """Rooms of the chat."""

    def setUp(self) -> None:
        """Sign in."""
        self.client.force_login(User.objects.create(username="ann"))

    def test_when_chat_message_posted_then_seen_by_everyone_in_same_room(self) -> None:
        """A message reaches everyone in the room."""
        ann = self.client.websocket("/ws/chat/room_1/")
        bob = self.client.websocket("/ws/chat/room_1/")
        ann.send_json({"message": "hello"})
        self.assertReceivesJSON(ann, {"message": "hello"})
        self.assertReceivesJSON(bob, {"message": "hello"})

    def test_when_chat_message_posted_then_not_seen_by_anyone_in_different_room(self) -> None:
        """A message does not reach another room."""
        ann = self.client.websocket("/ws/chat/room_1/")
        bob = self.client.websocket("/ws/chat/room_2/")
        ann.send_json({"message": "hello"})
        self.assertReceivesJSON(ann, {"message": "hello"})
        self.assertSilent(bob)

    def test_anonymous_is_refused(self) -> None:
        """Anonymous visitors are redirected to the login page."""
        self.client.logout()
        response = self.assertRefused(302, "/ws/chat/room_1/")
        self.assertRedirects(response, "/login/?next=/ws/chat/room_1/", target_status_code=200)
