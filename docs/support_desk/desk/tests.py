from django.contrib.auth.models import User
from django_wsmux.groups import Group
from django_wsmux.test import RequestFailed, WebSocketClient, WebSocketTestCase

from desk.models import Ticket


class DeskTests(WebSocketTestCase):
    def setUp(self):
        self.ann, self.bob, self.eve = (WebSocketClient() for _ in range(3))
        self.ann.force_login(User.objects.create_user("ann"))
        self.bob.force_login(User.objects.create_user("bob", is_staff=True))
        self.eve.force_login(User.objects.create_user("eve"))
        self.path = self.open(self.ann, "No sound")

    def open(self, client, subject):
        with self.captureOnCommitCallbacks(execute=True):
            return client.post("/", {"subject": subject}).url

    def ask(self, ws, kind, **fields):
        with self.captureOnCommitCallbacks(execute=True):
            return ws.request(kind, **fields)

    def test_agents_see_a_new_ticket(self):
        with self.bob.websocket("/") as agent, self.eve.websocket("/") as other:
            self.open(self.ann, "No picture")
            self.assertIn("No picture", agent.receive_json()["html"])
            self.assertSilent(other)
        self.assertContains(self.bob.get("/"), "No picture")

    def test_the_customer_sees_who_answers(self):
        with self.ann.websocket("/") as home, self.bob.websocket(self.path) as agent:
            self.ask(agent, "claim")
            self.assertIn("bob answers", home.receive_json()["html"])

    def test_one_agent_claims_a_ticket(self):
        with self.bob.websocket(self.path) as agent, self.ann.websocket(self.path) as customer:
            self.assertRaises(RequestFailed, self.ask, customer, "claim")
            self.ask(agent, "claim", ref="a")
            self.ask(agent, "claim", ref="a")  # sent again: the same answer
            self.assertRaises(RequestFailed, self.ask, agent, "claim")

    def test_nothing_is_shown_before_the_commit(self):
        with self.bob.websocket(self.path) as agent, self.ann.websocket(self.path) as customer:
            with self.captureOnCommitCallbacks(execute=True):
                agent.request("say", text="hello")
                self.assertSilent(customer)
            self.assertIn("hello", customer.receive_json()["html"])

    def test_a_page_that_was_away_misses_nothing(self):
        with self.ann.websocket(self.path) as customer, self.bob.websocket(self.path) as agent:
            customer.cut()
            agent.handover()  # a deploy
            self.ask(agent, "say", text="Is it <plugged> in?")
            customer.resume()
            self.assertRecovered(customer)
            self.assertIn("Is it &lt;plugged&gt; in?", customer.receive_json()["html"])
        self.assertContains(self.ann.get(self.path), "Is it &lt;plugged&gt; in?")

    def test_who_is_present(self):
        def names(group):
            return [each.info["name"] for each in Group(group).present()]

        with self.ann.websocket("/"), self.bob.websocket(self.path):
            self.assertEqual(names("agents"), ["bob"])
            with self.ann.websocket(self.path):
                self.assertCountEqual(names(f"ticket.{Ticket.objects.get().pk}"), ["ann", "bob"])
        self.expire_presence()
        self.assertEqual(names("agents"), [])

    def test_customers_see_their_own_tickets_only(self):
        self.assertNotContains(self.eve.get("/"), "No sound")
        self.assertEqual(self.eve.get(self.path).status_code, 404)
        self.client = self.eve
        self.assertRefused(404, self.path)
