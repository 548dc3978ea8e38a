"""The sample site's own tests: ``sample_site/manage.py test sample_site``.

Sockets are tested like pages, with ``self.client``. The view and the test take turns in one thread,
so a message has either arrived when ``send()`` returns or will never arrive: tests need not wait.
"""

from __future__ import annotations

import re
import socket
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import override_settings
from django.utils import timezone

from django_wsmux.groups import Group
from django_wsmux.test import (
    ClientWebSocket,
    RequestFailed,
    SimpleWebSocketTestCase,
    WebSocketClient,
    WebSocketTestCase,
)
from django_wsmux.urls import websocket_url

from .models import Bid, Card, Lot

LINE = {"user": "Ada", "colour": "#7b3fa0", "text": "hello"}
SAY = {"type": "say", **LINE}


class EchoTests(SimpleWebSocketTestCase):
    """/echo/ sends back every message."""

    def test_text_and_binary(self) -> None:
        """Messages keep their type; an empty message is a message."""
        with self.client.websocket("/echo/") as ws:
            for message in ("text", b"binary", ""):
                ws.send(message)
                self.assertReceives(ws, message)


class PingTests(SimpleWebSocketTestCase):
    """/ping/ answers ping with pong and pong with ping."""

    def test_answers(self) -> None:
        """Each message gets one answer."""
        with self.client.websocket("/ping/") as ws:
            ws.send("ping")
            self.assertReceives(ws, "pong")
            ws.send("pong")
            self.assertReceives(ws, "ping")

    def test_keeps_silent(self) -> None:
        """Other messages get no answer, and the socket stays open."""
        with self.client.websocket("/ping/") as ws:
            for message in ("Ping", "", b"ping"):
                ws.send(message)
                self.assertSilent(ws)


class ChatTests(SimpleWebSocketTestCase):
    """/chat/ sends each line to every window."""

    def assertSays(self, ws: ClientWebSocket, line: dict[str, str]) -> None:
        """Check the next line, which also has a time."""
        said = ws.receive_json()
        self.assertEqual(said, {"type": "said", "sent": said["sent"], **line})

    def test_everybody_hears(self) -> None:
        """The sender receives its own line, too."""
        with self.client.websocket("/chat/") as ada, self.client.websocket("/chat/") as grace:
            ada.send_json(SAY)
            self.assertSays(ada, LINE)
            self.assertSays(grace, LINE)

    def test_plain_text_is_a_line(self) -> None:
        """A terminal client may send plain text, as a guest."""
        with self.client.websocket("/chat/") as ws:
            ws.send("just text")
            self.assertSays(ws, {"user": "guest", "colour": "#5b6472", "text": "just text"})

    def test_nonsense(self) -> None:
        """The sender of an invalid line gets the errors; the other windows get nothing."""
        with self.client.websocket("/chat/") as ada, self.client.websocket("/chat/") as grace:
            for field, value in (("text", ""), ("colour", "red")):
                ada.send_json({**SAY, field: value})
                self.assertEqual(list(ada.receive_json()["errors"]), [field])
            self.assertSilent(grace)

    def test_too_long(self) -> None:
        """A form limits plain text, too."""
        with self.client.websocket("/chat/") as ws:
            ws.send("[" * 100_000)
            self.assertEqual(list(ws.receive_json()["errors"]), ["text"])

    def test_who_leaves_hears_no_more(self) -> None:
        """A window that has left does not keep the others from talking."""
        with self.client.websocket("/chat/") as ada:
            with self.client.websocket("/chat/") as grace:
                grace.close(1001)
            self.assertClosed(grace, 1001)
            ada.send_json(SAY)
            self.assertSays(ada, LINE)

    def test_returning(self) -> None:
        """A window that was offline gets the lines that it missed."""
        with self.client.websocket("/chat/") as ada, self.client.websocket("/chat/") as grace:
            grace.cut()
            ada.send_json(SAY)
            grace.resume()
            self.assertRecovered(grace)
            self.assertSays(grace, LINE)

    def test_away_for_too_long(self) -> None:
        """A window that cannot get the missed lines is told of a gap."""
        with self.client.websocket("/chat/") as ws:
            ws.cut()
            Group("chat").forget()
            ws.resume()
            self.assertGap(ws)

    def test_foreign_page(self) -> None:
        """A page of another site may not join with a visitor's cookies."""
        with override_settings(DEBUG=False):
            self.assertRefused(403, "/chat/", origin="https://evil.example")


class PresenceTests(SimpleWebSocketTestCase):
    """/chat/ tells windows with a name who is present."""

    def window(self) -> ClientWebSocket:
        """Open a window of the page."""
        return self.client.websocket("/chat/", ["wsmux.v1"])

    def changes(self, ws: ClientWebSocket) -> list[dict[str, Any]]:
        """Return what a window is told about who is present."""
        frames = [ws.receive_json() for _ in ws.peek()]
        return [frame["presence"] for frame in frames if "presence" in frame]

    def assertHere(self, *names: str) -> None:
        """Check who is here, in the order in which they came."""
        self.assertEqual([each.info["name"] for each in Group("chat").present()], [*names])

    def test_coming_and_going(self) -> None:
        """Each window gets the list, and then the changes."""
        with self.window() as ada:
            ada.send_json({"type": "name", "name": "Ada"})
            self.assertEqual(self.changes(ada), [{"all": {"Ada": {"name": "Ada"}}}])
            with self.window() as grace:
                grace.send_json({"type": "name", "name": "Grace"})
                self.assertEqual(list(self.changes(grace)[-1]["all"]), ["Ada", "Grace"])
                self.assertEqual(self.changes(ada), [{"joined": {"Grace": {"name": "Grace"}}}])
            self.assertHere("Ada", "Grace")
            self.expire_presence()
            self.assertEqual(self.changes(ada), [{"left": ["Grace"]}])

    def test_another_name(self) -> None:
        """A window that changes its name is listed once, under the new name."""
        with self.window() as ws:
            for name in ("Ada", "Augusta", ""):
                ws.send_json({"type": "name", "name": name})
                self.assertHere(name or "guest")

    def test_wrong_names(self) -> None:
        """The form refuses them."""
        with self.client.websocket("/chat/") as ws:
            for name in ("x" * 31, "a\x07b", "\ud800"):
                ws.send_json({"type": "name", "name": name})
                self.assertEqual(list(ws.receive_json()["errors"]), ["name"])
            self.assertHere()

    def test_no_name(self) -> None:
        """A window without a name gets lines and nothing else."""
        with self.window() as ada, self.window() as silent:
            self.assertIn("welcome", silent.receive_json())
            ada.send_json({"type": "name", "name": "Ada"})
            self.assertSilent(silent)


class TerminalTests(SimpleWebSocketTestCase):
    """``manage.py say`` sends a line to all windows."""

    def test_say(self) -> None:
        """The words are one line."""
        with self.client.websocket("/chat/") as ws:
            call_command("say", "hello", "you", name="Ada")
            line = ws.receive_json()
            self.assertEqual((line["user"], line["text"]), ("Ada", "hello you"))


class CrowdTests(SimpleWebSocketTestCase):
    """/crowd/ sends numbers, each of them once, and ends workers in a demonstration only."""

    def send(self, number: int) -> None:
        """Send a number, as the page does."""
        sender = UUID(int=7)
        answer = self.client.post(f"/crowd/{sender}/{number}/")
        self.assertEqual(answer.status_code, 204)

    def test_once(self) -> None:
        """A number that the page sends again is received once."""
        with self.client.websocket("/crowd/") as ws:
            for number in (1, 1, 2):
                self.send(number)
            self.assertEqual([ws.receive_json()["number"] for _ in range(2)], [1, 2])
            self.assertSilent(ws)

    def test_no_demonstration(self) -> None:
        """A worker does not end without DEBUG, or if it is the only one."""
        with self.client.websocket("/crowd/") as ws:
            for request in ("kill", "deploy"):
                with self.assertRaisesMessage(RequestFailed, "scripts/demo"):
                    ws.request(request)
        self.assertEqual(self.client.post("/crowd/come/").status_code, 403)


class CodeTests(WebSocketTestCase):
    """Each page shows the code behind it."""

    def test_pages(self) -> None:
        """The code of the socket, or of the view, is there as text."""
        for page in ("chat", "crowd", "board", "auction", "notify", "echo", "ping"):
            with self.subTest(page):
                self.assertContains(self.client.get(f"/{page}/"), "<summary>The code</summary>")


class NotificationTests(WebSocketTestCase):
    """/notify/send/ notifies one user, in all open windows."""

    def setUp(self) -> None:
        """Sign in Ada in this browser and Grace in another one."""
        self.ada = User.objects.create_user("ada")
        self.grace = User.objects.create_user("grace")
        self.client.force_login(self.ada)
        self.elsewhere = WebSocketClient()
        self.elsewhere.force_login(self.grace)

    def window(self, client: WebSocketClient) -> ClientWebSocket:
        """Open the page's socket."""
        return client.websocket("/notify/")

    def test_every_window_of_one_user(self) -> None:
        """An ordinary view sends to all windows of a user, and to no other user."""
        with (
            self.window(self.client) as own,
            self.window(self.elsewhere) as one,
            self.window(self.elsewhere) as two,
        ):
            response = self.client.post("/notify/send/", {"to": "grace", "text": "hello"})
            self.assertEqual(response.json(), {"browsers": 2})
            for ws in (one, two):
                self.assertReceives(ws, "ada: hello")
            self.assertSilent(own)

    def test_from_anywhere(self) -> None:
        """One line is enough, in a task or a shell as well."""
        with self.window(self.elsewhere) as ws:
            Group.for_user(self.grace).send("your order has been shipped")
            self.assertReceives(ws, "your order has been shipped")

    def test_nobody_there(self) -> None:
        """Without an open window no one receives the message; an empty one is refused."""
        response = self.client.post("/notify/send/", {"to": "grace", "text": "hello"})
        self.assertEqual(response.json(), {"browsers": 0})
        response = self.client.post("/notify/send/", {"to": "grace", "text": ""})
        self.assertContains(response, "This field is required.", status_code=400)

    def test_signing_out(self) -> None:
        """The windows of this browser are closed, and no others."""
        with self.window(self.client) as own, self.window(self.elsewhere) as other:
            self.client.post("/sign-out/")
            self.assertClosed(own, 4401, "signed out")
            self.assertSilent(other)
        self.assertRefused(302, "/notify/")

    def test_signing_in(self) -> None:
        """A name is enough, except for users who have a password."""
        User.objects.create_superuser("root", "root@example.com", "secret")
        visitor = WebSocketClient()
        response = visitor.post("/sign-in/", {"username": "root"})
        self.assertContains(response, "This user has a password")
        visitor.post("/sign-in/", {"username": "linus"})
        self.assertContains(visitor.get("/notify/"), "<strong>linus</strong>")
        self.window(visitor).close()


class BoardTests(WebSocketTestCase):
    """Everyone changes the same cards."""

    def test_everyone_sees(self) -> None:
        """A page follows the board, and is sent the HTML of each change."""
        page = self.client.get("/board/").content.decode()
        (signed,) = re.findall(r'signed="([^"]+)"', page)
        with self.client.websocket("/streams/") as ws:
            self.assertEqual(ws.request("follow", signed=signed)["in"], "board")
            with self.captureOnCommitCallbacks(execute=True):
                self.client.post("/board/", {"title": "tea <b>"})
            added = str(ws.receive())
            self.assertIn('<turbo-stream action="append" target="todo">', added)
            self.assertInHTML("tea &lt;b&gt;", added)
            card = Card.objects.get()
            with self.captureOnCommitCallbacks(execute=True):
                self.client.post(f"/board/{card.pk}/move/", {"column": "done"})
            self.assertIn(f'action="remove" target="card-{card.pk}"', ws.receive())
            self.assertIn('action="append" target="done"', ws.receive())

    def columns(self) -> dict[str, list[str]]:
        """Return the titles of the cards by column."""
        return {
            column.value: [card.title for card in Card.objects.filter(column=column)]
            for column in Card.Column
        }

    def test_a_card(self) -> None:
        """Forms add, move, rename and delete cards; the page shows titles as text."""
        self.assertRedirects(self.client.post("/board/", {"title": "tea <b>"}), "/board/")
        self.assertContains(self.client.get("/board/"), "tea &lt;b&gt;", 1)
        card = Card.objects.get()
        self.client.post(f"/board/{card.pk}/move/", {"column": "doing"})
        self.client.post(f"/board/{card.pk}/", {"title": "coffee"})
        self.assertEqual(self.columns(), {"todo": [], "doing": ["coffee"], "done": []})
        self.client.post(f"/board/{card.pk}/delete/")
        self.assertFalse(Card.objects.exists())

    def test_order(self) -> None:
        """A card goes to the end of its new column."""
        for title in ("one", "two"):
            self.client.post("/board/", {"title": title})
        for title in ("two", "one"):
            Card.objects.get(title=title).move_to("done")
        self.assertEqual(self.columns(), {"todo": [], "doing": [], "done": ["two", "one"]})

    def test_invalid(self) -> None:
        """An invalid form is shown again; a move to an unknown column does nothing."""
        response = self.client.post("/board/", {"title": "x" * 81})
        self.assertContains(response, "at most 80 characters", status_code=422)
        card = Card.objects.create(title="tea")
        self.client.post(f"/board/{card.pk}/move/", {"column": "nowhere"})
        response = self.client.post(f"/board/{card.pk}/", {"title": ""})
        self.assertContains(response, "This field is required.", status_code=422)
        self.assertEqual(self.columns(), {"todo": ["tea"], "doing": [], "done": []})

    def test_deleted_meanwhile(self) -> None:
        """A card that someone else has deleted stays deleted."""
        for action in ("move", "delete"):
            response = self.client.post(f"/board/17/{action}/", {"column": "done"})
            self.assertRedirects(response, "/board/")
        self.assertEqual(self.client.post("/board/17/", {"title": "tea"}).status_code, 404)
        self.assertFalse(Card.objects.exists())


class AuctionTests(WebSocketTestCase):
    """Everyone sees the highest bid."""

    def setUp(self) -> None:
        """Offer a bicycle."""
        with self.captureOnCommitCallbacks(execute=True):
            self.client.post("/auction/", {"title": "A <b> bicycle", "price": 10, "minutes": 5})
        self.lot = Lot.objects.get()
        self.url = f"/auction/{self.lot.pk}/"

    def end(self) -> None:
        """End the auction."""
        Lot.objects.update(ends=timezone.now() - timedelta(seconds=1))

    def test_plain_bids(self) -> None:
        """Pages and forms work without JavaScript; the highest bid is the price."""
        self.assertContains(self.client.get("/auction/"), "A &lt;b&gt; bicycle")
        self.assertContains(self.client.get("/auction/"), "no bids yet")
        response = self.client.post(self.url, {"bidder": "<i>Ada", "amount": 11})
        self.assertRedirects(response, self.url)
        for url in ("/auction/", self.url):
            self.assertContains(self.client.get(url), "bid by &lt;i&gt;Ada")
            self.assertContains(self.client.get(url), '<strong class="price">11 €</strong>')

    def test_everyone_sees(self) -> None:
        """A bid over the socket is shown in all windows; the bidder gets an empty form."""
        bid = {"type": "bid", "bidder": "Ada", "amount": "11", "headers": {"HX-Request": "true"}}
        with self.client.websocket(self.url) as ada, self.client.websocket(self.url) as grace:
            with self.captureOnCommitCallbacks(execute=True):
                ada.send_json(bid)
            for ws in (ada, grace):
                html = "".join(map(str, ws.peek()))
                self.assertIn('hx-swap-oob="afterbegin:#bids"', html)
                self.assertIn(f'hx-swap-oob="outerHTML:#lot-{self.lot.pk}"', html)
                self.assertIn("11 €", html)
                self.assertEqual('<form id="bid"' in html, ws is ada)
            ada.send_json(bid)
            self.assertIn("Bid more than 11.", str(ada.peek()[-1]))
            self.assertEqual(len(grace.peek()), 2)

    def test_invalid(self) -> None:
        """Lots and bids are checked."""
        response = self.client.post("/auction/", {"title": "x", "price": 0, "minutes": 61})
        self.assertContains(response, "greater than or equal to 1", status_code=422)
        self.assertContains(response, "less than or equal to 60", status_code=422)
        for amount, message in ((10, "Bid more than 10."), ("", "This field is required.")):
            response = self.client.post(self.url, {"bidder": "Ada", "amount": amount})
            self.assertContains(response, message, status_code=422)
        self.assertFalse(Bid.objects.exists())

    def test_end(self) -> None:
        """No bid is accepted after the end; the page says so."""
        self.end()
        response = self.client.post(self.url, {"bidder": "Ada", "amount": 11})
        self.assertContains(response, "The auction has ended.", status_code=422)
        self.assertContains(self.client.get("/auction/"), "has ended")

    def test_overtaken(self) -> None:
        """Of two bids that were valid at the same time, the first one counts."""
        first, second = (Bid(lot=self.lot, bidder=name, amount=11) for name in "AB")
        self.assertTrue(first.place())
        self.assertFalse(second.place())
        self.end()
        self.assertFalse(Bid(lot=self.lot, bidder="C", amount=12).place())
        self.lot.refresh_from_db()
        self.assertEqual((self.lot.price, self.lot.bidder), (11, "A"))
        self.assertEqual([bid.bidder for bid in self.lot.bids.all()], ["A"])


class RedisChatTests(SimpleWebSocketTestCase):
    """/redis-chat/ says so if Redis is not available."""

    def test_no_redis(self) -> None:
        """The handshake is refused with 503."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            with override_settings(REDIS_URL=f"redis://127.0.0.1:{port}/0"):
                response = self.assertRefused(503, "/redis-chat/")
        self.assertContains(response, "Redis is not available.", status_code=503)


class PageTests(SimpleWebSocketTestCase):
    """The same client requests pages."""

    def test_page_knows_its_socket(self) -> None:
        """{% websocket_url %} returns the URL of each page's socket."""
        for name in ("echo", "ping"):
            url = websocket_url(name)
            self.assertContains(self.client.get(url), f'"ws://testserver{url}"')

    def test_page_knows_its_position(self) -> None:
        """Lines from before the socket opened are sent when it opens."""
        page = self.client.get("/chat/").content.decode()
        Group("chat").send_json(LINE)
        (position,) = re.findall(r'data-at="([^"]+)"', page)
        with self.client.websocket(f"/chat/?at={position}") as ws:
            self.assertRecovered(ws)
            self.assertReceivesJSON(ws, LINE)
