"""Runs the examples of the pages of the manual without a test module of their own."""

from __future__ import annotations

import ast
import doctest
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django import forms
from django.contrib.auth.models import Permission, User
from django.db.utils import ConnectionHandler
from django.test import override_settings
from django.urls import clear_url_caches, include, path, resolve
from websockets.sync.client import connect

from django_wsmux import conf
from django_wsmux.connection.counters import COUNTERS
from django_wsmux.decorators import websocket
from django_wsmux.groups import Group
from django_wsmux.models import Outbox
from django_wsmux.signals import backend_gap
from django_wsmux.test import ClientWebSocket, HandshakeRefused, RequestFailed, WebSocketClient
from django_wsmux.testing.client import close_all
from django_wsmux.testing.present import expire_presence
from django_wsmux.wsgi import WebSocketDispatcher
from tests.functional.test_matrix import live_port
from tests.manual import blocks
from tests.support import LOCAL, ROOT, TIMEOUT, Server
from tests.testing.test_plugin import run_pytest

__all__ = ["live_port"]

#: Pages whose Python blocks all run here.
PAGES = tuple(
    f"docs/{name}.rst"
    for name in (
        *("backends", "databases", "development", "groups", "monitoring", "proxies"),
        *("requests", "security", "signals", "view_rules", "views"),
    )
)


def example(page: str, words: str, language: str | None = "python") -> str:
    """Return the block of a page that contains these words."""
    found = [each.text for each in blocks(ROOT / page) if each.language == language]
    (block,) = (text for text in found if words in text)
    return block


def run(block: str, **names: Any) -> dict[str, Any]:
    """Run a block, with names that the page assumes; return the names that exist afterwards."""
    namespace = {"__name__": "page", **names}
    exec(block, namespace)
    return namespace


def test_nothing_is_left_out() -> None:
    """Each Python block of these pages is in an example of this module."""
    calls = [
        [ast.literal_eval(argument) for argument in node.args]
        for node in ast.walk(ast.parse(Path(__file__).read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "example"
        if isinstance(node.args[0], ast.Constant)
    ]
    run_here = {(page, example(page, *rest)) for page, *rest in calls}
    for page in PAGES:
        for block in blocks(ROOT / page):
            if block.language == "python":
                assert (page, block.text) in run_here, f"{page}: {block.text}"


urlpatterns: list[Any] = []


@pytest.fixture(autouse=True)
def sockets() -> Iterator[None]:
    """Use the URLs of this module."""
    with override_settings(WEBSOCKET_URLCONF=__name__, WEBSOCKET_BACKEND="memory://"):
        yield
        close_all()
    urlpatterns.clear()
    clear_url_caches()


Open = Callable[..., ClientWebSocket]


@pytest.fixture
def ann(client: WebSocketClient, db: None) -> User:
    """The user that the client is signed in as."""
    user = User.objects.create(username="ann")
    client.force_login(user)
    return user


@pytest.fixture
def view(client: WebSocketClient) -> Callable[[Any], Open]:
    """Serve a view; return a function that opens a socket to it."""

    def serve(view: Any, route: str = "view/") -> Open:
        urlpatterns.append(path(route, view))
        clear_url_caches()

        def open_socket(url: str = "/view/", *arguments: Any, **more: Any) -> ClientWebSocket:
            return client.websocket(url, *arguments, **more)

        return open_socket

    return serve


class Rooms:
    """A model of rooms, with one room."""

    class DoesNotExist(Exception):
        """The room does not exist."""

    def __init__(self) -> None:
        self.model = self._default_manager = self
        self._meta = SimpleNamespace(object_name="Room")
        self.codes: list[int] = []
        self.slug = "lobby"
        self.visits = SimpleNamespace(create=lambda code: self.codes.append(code))

    def all(self) -> Rooms:
        """Return the set of rooms."""
        return self

    def get(self, slug: str) -> Rooms:
        """Return the room."""
        if slug != "lobby":
            raise self.DoesNotExist
        return self


class TestViews:
    """``docs/views.rst``."""

    def test_function(self, view: Any) -> None:
        """The function view echoes."""
        open_socket = view(
            run(example("docs/views.rst", "while (message := websocket.receive())"))["chat"],
            "<room>/",
        )
        ws = open_socket("/lobby/")
        ws.send("hello")
        assert ws.receive() == "hello"

    def test_loop(self, view: Any) -> None:
        """The loop view is called for each message."""
        ws = view(run(example("docs/views.rst", "def ping(request"))["ping"])()
        for text in ("what", "ping", "ping"):
            ws.send(text)
        assert ws.peek() == ["pong", "pong"]

    def test_event(self, view: Any, ann: User) -> None:
        """A signed-in user can enter existing rooms; others get a redirect or a 404."""
        rooms = Rooms()
        names = run(example("docs/views.rst", "class Chat(LoginRequiredMixin"), Room=rooms)
        urlpatterns.extend(names["urlpatterns"])
        open_socket = view(names["Chat"].as_view(), "unused/")
        ws = open_socket("/chat/lobby/", ["chat.v2", "chat.v1"])
        assert (ws.receive(), ws.subprotocol) == ("welcome, ann", "chat.v1")
        ws.send("hello")
        assert ws.receive() == "hello"
        ws.close(1001)
        assert rooms.codes == [1001]
        for client, url, status in (
            (WebSocketClient(), "/chat/lobby/", 302),
            (None, "/chat/nowhere/", 404),
        ):
            with pytest.raises(HandshakeRefused) as refused:
                (client.websocket if client else open_socket)(url)
            assert refused.value.response.status_code == status

    def test_requests(self, view: Callable[..., Open]) -> None:
        """Requests are answered by each kind of view."""
        ws = view(run(example("docs/requests.rst", "free of charge"))["Chat"].as_view())()
        for line in (1, 2, 3):
            assert ws.request("say", text="hi") == {"line": line}
            assert ws.receive_json() == {"type": "said", "text": "hi"}
        for text, code in (("hi", "full"), ("", "required")):
            with pytest.raises(RequestFailed) as failed:
                ws.request("say", text=text)
            assert failed.value.codes == [code]
        names = run(example("docs/requests.rst", "def calculator"))
        ws = view(names["calculator"], "calculator/")("/calculator/")
        assert ws.request("sum", a=2, b=3) == 5
        for kind, code in (("sum", "required"), ("product", "unknown_type")):
            with pytest.raises(RequestFailed) as failed:
                ws.request(kind, a=2)
            assert failed.value.codes == [code]

    def test_once(self, view: Callable[[Any], Open]) -> None:
        """A request that is sent again is handled once."""
        orders: list[str] = []

        def create(article: str) -> SimpleNamespace:
            orders.append(article)
            return SimpleNamespace(pk=len(orders))

        order = SimpleNamespace(objects=SimpleNamespace(create=create))
        ws = view(
            run(example("docs/requests.rst", "class OrderForm"), Order=order)["Shop"].as_view()
        )()
        for _ in range(2):
            assert ws.request("order", article="tea", ref="a") == {"order": 1}
        assert orders == ["tea"]

    def test_limits(self, view: Any) -> None:
        """More messages of a type than its limit are refused; those of another are handled."""

        class Form(forms.Form):
            """A message without fields."""

        block = example("docs/requests.rst", "TypingForm")
        chat = run(block, SayForm=Form, TypingForm=Form)["Chat"]
        chat.say_valid = lambda self, form: "said"
        chat.typing_valid = lambda self, form: "typed"
        ws = view(chat.as_view())()
        replies: list[str] = []
        with pytest.raises(RequestFailed) as failed:
            replies.extend(iter(lambda: ws.request("say"), None))
        assert failed.value.codes == ["rate_limited"]
        assert len(replies) >= 10
        assert [ws.request("typing") for _ in range(3)] == ["typed"] * 3

    def test_forms(self, view: Any) -> None:
        """Each type of message has its form."""
        ws = view(run(example("docs/requests.rst", "class SayForm"))["Chat"].as_view())()
        ws.send_json({"type": "rename", "name": "Ann"})
        ws.send_json({"type": "say", "text": "hello"})
        assert ws.receive_json() == {"type": "said", "by": "Ann", "text": "hello"}
        ws.send_json({"type": "say"})
        assert list(ws.receive_json()["errors"]) == ["text"]

    def test_refusing(self, view: Any, ann: User) -> None:
        """``login_required`` redirects."""
        block = example("docs/views.rst", "def private(request")
        open_socket = view(run(block, websocket=websocket)["private"])
        assert open_socket().receive() == "hello ann"
        with pytest.raises(HandshakeRefused):
            WebSocketClient().websocket("/view/")

    def test_looking_first(self, view: Any) -> None:
        """A missing room is a 404 before the socket opens."""
        block = example("docs/views.rst", "def room(request, slug)")
        talk = lambda request, websocket, room: websocket.send(room.slug)  # noqa: E731
        open_socket = view(run(block, Room=Rooms(), talk=talk)["room"], "<slug>/")
        assert open_socket("/lobby/").receive() == "lobby"
        with pytest.raises(HandshakeRefused):
            open_socket("/nowhere/")

    def test_form_of_a_function(self, view: Any) -> None:
        """A form validates a message."""
        ws = view(run(example("docs/requests.rst", "user = forms.CharField"))["chat"])()
        for value in ({"user": "Ann", "text": "hello"}, {"user": "Ann"}):
            ws.send_json(value)
        assert ws.receive_json() == {"user": "Ann", "text": "hello"}
        assert list(ws.receive_json()["errors"]) == ["text"]

    @pytest.mark.django_db
    def test_groups(self, view: Any, django_capture_on_commit_callbacks: Any) -> None:
        """Messages from views and from elsewhere reach the members; the group can be closed."""
        block = example("docs/views.rst", "group.send(message, exclude=websocket)")
        open_socket = view(run(block)["chat"], "<room>/")
        one, two = open_socket("/lobby/"), open_socket("/lobby/")
        one.send("hello")
        assert (one.peek(), two.receive()) == ([], "hello")
        assert [member.info for member in Group("room.lobby").members()] == [
            {"name": "AnonymousUser"}
        ] * 2
        with django_capture_on_commit_callbacks(execute=True):
            run(example("docs/views.rst", 'Group("room.lobby").close(4000'))
            assert two.receive() == "hello"
        assert (two.close_code, two.close_reason) == (4000, "closing time")

    @pytest.mark.django_db
    def test_on_commit(self, view: Any, django_capture_on_commit_callbacks: Any) -> None:
        """A message with ``on_commit`` is sent on commit, to the members of that moment."""
        block = example("docs/views.rst", 'Group("room.lobby").close(4000')
        member = run(example("docs/views.rst", "group.send(message, exclude=websocket)"))["chat"]
        ws = view(member, "<room>/")("/lobby/")
        with django_capture_on_commit_callbacks(execute=True):
            run(block.replace('Group("room.lobby").close(4000, "closing time")', ""))
            assert ws.peek() == ["hello"]
        assert ws.peek() == ["hello", '{"type": "price", "value": 42}']

    def test_seen_first(self, view: Any) -> None:
        """A window receives only what it has chosen."""
        ws = view(run(example("docs/views.rst", "class Prices"))["Prices"].as_view())()
        ws.send('["A"]')
        for symbol in "BA":
            Group("prices").send_json({"symbol": symbol})
        assert ws.peek() == ['{"symbol": "A"}']

    def test_people(self, view: Any, ann: User, client: WebSocketClient) -> None:
        """A user's and a session's sockets receive messages and can be disconnected."""
        ws = view(run(example("docs/views.rst", "while (message :="))["chat"], "<room>/")("/x/")
        order, request = SimpleNamespace(customer=ann), SimpleNamespace(session=client.session)
        run(example("docs/views.rst", "disconnect(user)"), user=ann, order=order, request=request)
        assert ws.receive_json() == {"type": "shipped"}
        assert ws.receive() == "to all windows of this browser"
        assert ws.close_code == 4401

    def test_two_sources(self, view: Any, live_port: int) -> None:
        """Each side receives what the other sends."""
        ours, theirs = socket.socketpair()
        block = example("docs/view_rules.rst", "def relay(request")
        view(run(block, connect_somewhere=lambda: ours)["relay"])
        url = f"ws://127.0.0.1:{live_port}/view/"
        with ours, theirs, connect(url, **LOCAL) as ws:
            theirs.settimeout(TIMEOUT)
            for data in (b"hello", b"again"):
                ws.send(data)
                assert theirs.recv(100) == data
                theirs.sendall(data)
                assert ws.recv(timeout=TIMEOUT) == data


class TestGroups:
    """``docs/groups.rst``."""

    def test_gap(self, view: Any) -> None:
        """Pages learn that they may have missed messages."""
        receivers = list(backend_gap.receivers)
        names = run(example("docs/groups.rst", "def ask_again"))
        try:
            ws = view(run(example("docs/requests.rst", "class SayForm"))["Chat"].as_view())()
            backend_gap.send(None, reason="lost", seconds=1.0, missed=None)
            assert ws.receive_json() == {"type": "ask again"}
            assert names["ask_again"]
        finally:
            backend_gap.receivers = receivers
            backend_gap.sender_receivers_cache.clear()

    @pytest.mark.django_db
    def test_presence(self) -> None:
        """Members are told who comes and goes."""
        page = run(example("docs/groups.rst", "def here(name)"))
        urlpatterns.append(path("room/<name>/", page["Room"].as_view()))
        opened = []
        for name in ("ann", "bob"):
            client = WebSocketClient()
            client.force_login(User.objects.create_user(name))
            opened.append(client.websocket("/room/lobby/", ["wsmux.v1"]))
        ann, bob = opened
        assert page["here"]("lobby") == ["ann", "bob"]
        sockets = run(example("docs/groups.rst", "members.complete"))["sockets"]
        assert sockets("lobby") == {"open": 2, "certain": True}
        bob.close()
        assert page["here"]("lobby") == ["ann", "bob"]
        expire_presence()
        assert page["here"]("lobby") == ["ann"]
        frames = [json.loads(text).get("presence") for text in ann.peek()]
        assert [list(frame) for frame in frames if frame] == [["all"], ["left"]]

    @pytest.mark.django_db
    def test_outbox(self, django_capture_on_commit_callbacks: Any) -> None:
        """The message is sent after the commit, and its row is deleted."""
        pay = run(example("docs/groups.rst", "stored=True"))["pay"]
        saved: list[bool] = []
        order = SimpleNamespace(pk=17, save=lambda: saved.append(True))
        keep = {"room.*": {"messages": 10, "seconds": 600}}
        with override_settings(WEBSOCKET_HISTORY=keep, WEBSOCKET_OUTBOX=True):
            with django_capture_on_commit_callbacks(execute=True):
                pay(order)
                assert Group("room.17").history().messages == []
            (message,) = Group("room.17").history().messages
        assert message.data == '{"type": "paid"}'
        assert (saved, Outbox.objects.count()) == ([True], 0)

    def test_prefix(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tenant's schema is the prefix of its groups."""
        names = run(example("docs/groups.rst", "def group_prefix"))
        monkeypatch.setattr(names["connection"], "schema_name", "red", raising=False)
        assert names["group_prefix"]() == "red"


def test_tenant() -> None:
    """Code that runs for a socket runs as the tenant of its handshake."""
    names = run(example("docs/view_rules.rst", "WEBSOCKET_CONTEXT = "))
    made = names["tenant"](SimpleNamespace(tenant="red"))
    assert (made.func, made.args) == (names["tenant_context"], ("red",))


class TestDatabases:
    """``docs/databases.rst``."""

    @pytest.mark.django_db
    def test_helper(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The helper sends until the socket is closed, and holds no connection while it sleeps."""
        names = run(
            example("docs/databases.rst", "def send_prices"),
            Price=SimpleNamespace(objects=SimpleNamespace(values=lambda *names: [names])),
        )
        events: list[Any] = []
        ws: Any = SimpleNamespace(closed=False, send_json=events.append)

        def sleep(seconds: int) -> None:
            events.append(seconds)
            ws.closed = True

        monkeypatch.setattr("time.sleep", sleep)
        monkeypatch.setattr(names["connections"], "close_all", lambda: events.append("closed"))
        names["send_prices"](ws)
        assert events == [[("symbol", "value")], "closed", 10]

    def test_pool(self) -> None:
        """Django makes a pool of the setting."""
        databases = run(example("docs/databases.rst", "DATABASES = {"))["DATABASES"]
        pool = ConnectionHandler(databases)["default"].pool  # type: ignore[attr-defined]
        assert (pool.min_size, pool.max_size, pool.timeout) == (2, 20, 10)
        pool.close()

    @pytest.mark.django_db
    def test_transaction(self, view: Any, django_capture_on_commit_callbacks: Any) -> None:
        """The group receives the message when the transaction is committed."""
        create = lambda text: SimpleNamespace(pk=f"order of {text}")  # noqa: E731
        order = SimpleNamespace(objects=SimpleNamespace(create=create))
        names = run(example("docs/databases.rst", "class Orders"), Order=order)
        names["Orders"].groups = ["orders"]
        ws = view(names["Orders"].as_view())()
        with django_capture_on_commit_callbacks(execute=True):
            ws.send_json({"text": "tea"})
            assert ws.peek() == []
        assert ws.receive_json() == {"id": "order of tea"}


#: Logs a line to each logger, with these settings.
LOGS = """
import logging, django
from django.conf import settings
settings.configure(**{settings!r})
django.setup()
logging.getLogger("django_wsmux.connection").info("closed")
logging.getLogger("django_wsmux.handshake").warning("refused")
logging.getLogger("django.request").warning("not found")
"""


def shown(**settings: Any) -> list[str]:
    """Return the lines that a process with these settings logs."""
    program = LOGS.format(settings=settings)
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    return result.stderr.split("\n")[:-1]


def test_logging() -> None:
    """``docs/signals.rst``: the log with Django's default settings, and with these."""
    logging_settings = run(example("docs/signals.rst", "LOGGING = {"))["LOGGING"]
    assert shown() == ["refused"]
    assert shown(LOGGING=logging_settings) == ["closed", "refused", "not found"]


class TestMonitoring:
    """``docs/monitoring.rst``."""

    def test_access_log(self, environment: dict[str, str]) -> None:
        """Each line is JSON."""
        settings = run(example("docs/monitoring.rst", "WEBSOCKET_ACCESS_LOG_FORMAT"))
        line = settings["WEBSOCKET_ACCESS_LOG_FORMAT"]
        env = {**environment, "TEST_SETTINGS": json.dumps({"WEBSOCKET_ACCESS_LOG_FORMAT": line})}
        server = Server.gunicorn("own", "--access-logfile", "-", env=env)
        try:
            with server.connect("/rooms/lobby/") as ws:
                ws.recv(timeout=TIMEOUT)
            (found,) = server.wait_for_log(r'(?m)^(\{"path": .*\})$').groups()
        finally:
            server.stop()
        value = json.loads(found)
        assert list(value) == ["path", "user", "code", "seconds", "reason"]
        assert (value["path"], value["code"]) == ("/rooms/lobby/", 1000)

    @pytest.mark.django_db
    def test_admin(self, ann: User, client: WebSocketClient) -> None:
        """The admin's page can open its socket at that URL."""
        names = run(example("docs/monitoring.rst", "admin/sockets/"))
        urlpatterns.append(path("", include((names["urlpatterns"], "mysite"))))
        with pytest.raises(HandshakeRefused) as refused:
            client.websocket("/admin/sockets/")
        assert refused.value.response.status_code == 403
        ann.is_staff = True
        ann.save()
        ann.user_permissions.add(Permission.objects.get(codename="view_socket"))
        assert not client.websocket("/admin/sockets/").closed

    def test_traces(self, environment: dict[str, str], tmp_path: Path) -> None:
        """Each worker exports its spans, at its end at the latest; here to the log."""
        site, exporters = tmp_path / "mysite", tmp_path / "opentelemetry/exporter/otlp/proto/http"
        for folder in (site, exporters):
            folder.mkdir(parents=True)
        (exporters / "trace_exporter.py").write_text(
            "from opentelemetry.sdk.trace.export import ConsoleSpanExporter as OTLPSpanExporter\n"
        )
        configuration = example("docs/monitoring.rst", "def post_worker_init")
        (tmp_path / "gunicorn.conf.py").write_text(configuration.replace("(0.01)", "(1)"))
        (site / "wsgi.py").write_text(example("docs/monitoring.rst", "DjangoInstrumentor()"))
        settings = run(example("docs/monitoring.rst", "WEBSOCKET_TRACING"))
        env = {
            **environment,
            "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))),
            "TEST_SETTINGS": json.dumps({"WEBSOCKET_TRACING": settings["WEBSOCKET_TRACING"]}),
        }
        command = ("-m", "gunicorn", "-c", "gunicorn.conf.py", "-b", "127.0.0.1:0")
        server = Server(*command, "mysite.wsgi", env=env, cwd=tmp_path)
        try:
            with server.connect("/events/echo/") as ws:
                ws.send("hi")
                assert ws.recv(timeout=TIMEOUT) == "hi"
        finally:
            server.stop()
        assert '"name": "receive"' in server.log
        assert '"kind": "SpanKind.SERVER"' in server.log
        assert '"service.name": "mysite"' in server.log

    @pytest.mark.django_db
    def test_prometheus(self, client: WebSocketClient) -> None:
        """The page shows the metrics."""
        names = run(example("docs/monitoring.rst", "metrics_view"))
        urlpatterns.extend(names["urlpatterns"])
        match = resolve("/metrics", __name__)
        assert match.func is names["metrics_view"]
        with override_settings(ROOT_URLCONF=__name__):
            assert b"django_wsmux_open_sockets" in client.get("/metrics").content

    @pytest.mark.django_db
    def test_names(self, client: WebSocketClient) -> None:
        """Each metric that the page queries in Prometheus exists."""
        with override_settings(ROOT_URLCONF="tests.project.urls"):
            given = client.get("/prometheus/").content.decode()
        page = (ROOT / "docs" / "monitoring.rst").read_text()
        names = set(re.findall(r"\b(django_wsmux_\w+)[\[) ]", page))
        assert len(names) >= 6
        for name in names:
            assert re.search(rf"^{name}\b", given, re.MULTILINE), name

    def test_python(self) -> None:
        """The calls work."""
        run(example("docs/monitoring.rst", "collect(limit=10)"))


def test_server(live_port: int) -> None:
    """``docs/development.rst``: another threaded server, on another port."""
    block = example("docs/development.rst", "class Server(WebSocketServerMixin")

    @websocket
    def echo(request: Any, websocket: Any) -> None:
        for message in websocket:
            websocket.send(message)

    urlpatterns.append(path("echo/", echo))
    names: dict[str, Any] = {"application": WebSocketDispatcher(lambda *arguments: [])}
    names["__name__"] = "page"
    ready = block.replace("8000", "0").replace("server.serve_forever()", "ready.set()\n")
    assert ready.count("ready.set()") == 1
    is_ready = threading.Event()
    code = ready + "server.serve_forever()\n"
    names["ready"] = is_ready
    thread = threading.Thread(target=exec, args=(code, names))
    thread.start()
    try:
        assert is_ready.wait(TIMEOUT)
        port = names["server"].server_port
        with connect(f"ws://127.0.0.1:{port}/echo/", **LOCAL) as ws:
            ws.send("hello")
            assert ws.recv(timeout=TIMEOUT) == "hello"
    finally:
        names["server"].shutdown()
        thread.join(TIMEOUT)
        names["server"].server_close()


@pytest.mark.parametrize(
    "block",
    [
        example("docs/security.rst", "WEBSOCKET_MAX_SOCKETS ="),
        example("docs/proxies.rst", "SECURE_PROXY_SSL_HEADER"),
    ],
)
def test_settings(block: str) -> None:
    """The settings exist, and their values are valid."""
    names = {name: value for name, value in run(block).items() if name.startswith("WEBSOCKET_")}
    assert names
    for name, value in names.items():
        assert conf.SETTINGS[name].problem(value) is None


def test_counters() -> None:
    """``docs/settings.rst``: the session in a shell."""
    (session,) = (
        block.text for block in blocks(ROOT / "docs" / "settings.rst") if ">>>" in block.text
    )
    test = doctest.DocTestParser().get_doctest(session, {}, "settings.rst", None, None)
    name = re.findall(r'snapshot\(\)\["(\w+)"\]', session)[0]
    assert name in COUNTERS
    # In a new process.
    program = "\n".join(each.source for each in test.examples[:-1])
    program += f"print({test.examples[-1].source.strip()})"
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.project.settings"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(
        command, check=True, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    )
    assert result.stdout == test.examples[-1].want


#: A custom backend that delegates to another one.
NATS = """
from django_wsmux.backends.local import LocalBackend

class NatsBackend(LocalBackend):
    def __init__(self, url, **options):
        assert url.partition("?")[0] == "mysite.nats.NatsBackend://127.0.0.1:4222"
        super().__init__("local://", **options)
"""


def test_backend(tmp_path: Path) -> None:
    """``docs/backends.rst``: the contract's tests run against a custom backend."""
    (tmp_path / "mysite").mkdir()
    (tmp_path / "mysite" / "__init__.py").touch()
    (tmp_path / "mysite" / "nats.py").write_text(NATS)
    tests = example("docs/backends.rst", "class TestMyBackend")
    output = run_pytest(tmp_path, tests, "-k", "order or itself")
    assert re.search(r"\b[1-9]\d* passed", output), output
    assert "failed" not in output


def test_application() -> None:
    """``docs/servers.rst``: an existing application can be wrapped."""
    own = lambda environ, start_response: [b"own"]  # noqa: E731
    block = example("docs/servers.rst", "WebSocketDispatcher(application)")
    wrapped = run(block, application=own)["application"]
    assert wrapped({}, None) == [b"own"]
