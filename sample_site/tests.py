"""The sample site's own tests: ``sample_site/manage.py test sample_site``.

Sockets are tested as pages are, with ``self.client``. View and test take turns in one thread, so a
message is there when ``send()`` returns, or it will not come: nothing is waited for.
"""

from __future__ import annotations

import socket

from django.test import override_settings

from django_wsmux.test import SimpleWebSocketTestCase
from django_wsmux.urls import websocket_url

LINE = {"user": "Ada", "colour": "#7b3fa0", "text": "hello"}


class EchoTests(SimpleWebSocketTestCase):
    """/echo/ sends back whatever comes."""

    def test_text_and_binary(self) -> None:
        """Each comes back as what it was; an empty message is a message."""
        with self.client.websocket("/echo/") as ws:
            for message in ("text", b"binary", ""):
                ws.send(message)
                self.assertReceives(ws, message)


class PingTests(SimpleWebSocketTestCase):
    """/ping/ answers ping with pong and pong with ping."""

    def test_answers(self) -> None:
        """One answer for each."""
        with self.client.websocket("/ping/") as ws:
            ws.send("ping")
            self.assertReceives(ws, "pong")
            ws.send("pong")
            self.assertReceives(ws, "ping")

    def test_keeps_silent(self) -> None:
        """About anything else there is nothing to say, and the socket stays open."""
        with self.client.websocket("/ping/") as ws:
            for message in ("Ping", "", b"ping"):
                ws.send(message)
                self.assertSilent(ws)


class ChatTests(SimpleWebSocketTestCase):
    """/chat/ tells every window what is said in one."""

    def test_everybody_hears(self) -> None:
        """The one who speaks, too."""
        with self.client.websocket("/chat/") as ada, self.client.websocket("/chat/") as grace:
            ada.send_json(LINE)
            self.assertReceivesJSON(ada, LINE)
            self.assertReceivesJSON(grace, LINE)

    def test_plain_text_is_a_line(self) -> None:
        """From a terminal client, say: a guest's."""
        with self.client.websocket("/chat/") as ws:
            ws.send("just text")
            self.assertReceivesJSON(ws, {"user": "guest", "colour": "#5b6472", "text": "just text"})

    def test_nonsense(self) -> None:
        """Who sends what the form refuses is told so, and nobody else hears of it."""
        with self.client.websocket("/chat/") as ada, self.client.websocket("/chat/") as grace:
            for field, value in (("text", ""), ("colour", "red")):
                ada.send_json({**LINE, field: value})
                self.assertEqual(list(ada.receive_json()["errors"]), [field])
            self.assertSilent(grace)

    def test_who_leaves_hears_no_more(self) -> None:
        """And does not keep the others from talking."""
        with self.client.websocket("/chat/") as ada:
            with self.client.websocket("/chat/") as grace:
                grace.close(1001)
            self.assertClosed(grace, 1001)
            ada.send_json(LINE)
            self.assertReceivesJSON(ada, LINE)

    def test_foreign_page(self) -> None:
        """A page of another site may not join with a visitor's cookies."""
        with override_settings(DEBUG=False):
            self.assertRefused(403, "/chat/", origin="https://evil.example")


class RedisChatTests(SimpleWebSocketTestCase):
    """/redis-chat/ needs a Redis, and says so where there is none."""

    def test_no_redis(self) -> None:
        """The handshake is refused with 503."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            with override_settings(REDIS_URL=f"redis://127.0.0.1:{port}/0"):
                response = self.assertRefused(503, "/redis-chat/")
        self.assertContains(response, "No Redis here.", status_code=503)


class PageTests(SimpleWebSocketTestCase):
    """The same client asks for pages."""

    def test_page_knows_its_socket(self) -> None:
        """{% websocket_url %} names the socket of each page."""
        for name in ("chat", "echo", "ping"):
            url = websocket_url(name)
            self.assertContains(self.client.get(url), f'"ws://testserver{url}"')
