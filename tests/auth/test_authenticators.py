"""Authentication by ticket, token and first message: what is accepted, and as which user."""

from __future__ import annotations

import json
import logging
import re
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.conf import settings as project
from django.contrib.auth.decorators import login_not_required, login_required
from django.contrib.auth.models import AnonymousUser, User
from django.core import signing
from django.core.cache import cache
from django.core.checks import run_checks
from django.http import HttpRequest
from django.template import engines
from django.template.exceptions import TemplateSyntaxError
from django.test import RequestFactory, override_settings
from django.urls import path
from django.views.debug import ExceptionReporter

from django_wsmux.auth import issue_ticket, ticket
from django_wsmux.auth.authenticators import (
    AuthenticationFailed,
    authentication,
    bearer,
    bearer_token,
    first_message,
)
from django_wsmux.decorators import websocket
from django_wsmux.exceptions import HandshakeRefused
from django_wsmux.groups import Group
from django_wsmux.monitoring.metrics import snapshot
from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket
from tests.support import ROOT
from tests.testing.test_plugin import run_pytest

pytestmark = pytest.mark.django_db

# The sockets under test; this module is their URLconf.


def by_name(token: str) -> Any:
    """Treat a user's name as the token; raise for some."""
    match token:
        case "nobody":
            return None
        case "key":
            return {"another": None}[token]
        case "value":
            return int(token)
        case "type":
            return token + 1  # type: ignore[operator]
        case "attribute":
            return token.nothing  # type: ignore[attr-defined]
        case "broken":
            raise RuntimeError("cannot look it up")
    return User.objects.get(username=token)


def by_json(message: str) -> Any:
    """As in the manual."""
    return by_name(json.loads(message)["token"])


@websocket
def echo(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send(f"user {request.user.get_username()}")
    for message in websocket:
        if message == "refresh":
            websocket.refresh_user()
            message = f"{request.user.is_authenticated} {request.user.get_username()}"
        websocket.send(message)


class Echo(WebSocketView):
    authenticators: Sequence[Any] = (ticket, bearer(by_name), first_message(by_name))
    subprotocols = ("chat.v1",)
    groups = ("room",)

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        if request.user.get_username() == "eve":
            raise AuthenticationFailed("not eve")
        self.send(f"user {request.user.get_username()}")

    def receive(self, message: str | bytes) -> None:
        self.send(message)


class Visitors(Echo):
    """A subclass without authenticators of its own."""

    authenticators = ()


class Watching(Echo):
    """A view with ``group_receive()``."""

    def group_receive(self, message: str | bytes) -> None:
        self.send(f"seen {message!r}")


class Unlike:
    """An authenticator of Django REST framework with a cookie instead of a header."""

    def authenticate_header(self, request: Any) -> None:
        return None

    def authenticate(self, request: Any) -> Any:
        from rest_framework.exceptions import AuthenticationFailed

        if "cid" in request.query_params:
            return User.objects.get(username="cid"), "by query"
        if "wrong" in request.query_params:
            raise AuthenticationFailed("wrong")
        return None


urlpatterns = [
    path("ticket/", authentication(ticket)(echo), name="ticket"),
    path("ticket/ü/", authentication(ticket)(echo), name="umlaut"),
    path("bearer/", authentication(bearer(by_name))(echo)),
    path("first/", Echo.as_view()),
    path("first/watching/", Watching.as_view()),
    path("first/json/", authentication(first_message(by_json))(echo)),
    path("first/echo/", authentication(first_message(by_name))(echo)),
    path("visitors/", Visitors.as_view()),
    path("wrapped/", authentication(bearer(by_name))(Visitors.as_view(groups=()))),
    path("unlike/", authentication(Unlike)(echo)),
    path("certain/", authentication(Unlike(), lambda request: User(pk=7, username="dan"))(echo)),
    path("plain/", echo),
    path("strict/", login_not_required(authentication(bearer(by_name))(login_required(echo)))),
]


@pytest.fixture(autouse=True)
def _own_sockets(sockets: None) -> Iterator[None]:
    with override_settings(
        WEBSOCKET_URLCONF=__name__,
        # The default hashers are slow.
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ):
        yield


@pytest.fixture
def ann() -> User:
    """A user."""
    return User.objects.create_user("ann", password="secret")


def request_of(client: WebSocketClient, user: Any = None) -> Any:
    """Return a request of a page, with the client's session or another user."""
    request: Any = RequestFactory().get("/")
    request.user = user or AnonymousUser()
    if client.cookies:
        request.session, request.user = client.session, user
    return request


def status_of(client: WebSocketClient, path: str, token: str, **options: Any) -> int:
    """Return the status of the refusal of a token."""
    with pytest.raises(HandshakeRefused) as refused:
        client.websocket(path, ["bearer", token], **options)
    return int(refused.value.response.status_code)


def test_first_message_then_groups_seen(client: WebSocketClient, ann: User) -> None:
    """After a first message, a view with ``group_receive()`` handles groups' messages too."""
    with client.websocket("/first/watching/") as ws:
        ws.send("ann")
        assert ws.receive() == "user ann"
        Group("room").send("hello")
        assert ws.receive() == "seen 'hello'"


# Tickets


def test_ticket_without_a_session(client: WebSocketClient, ann: User) -> None:
    """A ticket without a session belongs to the user and the user's group, and works once."""
    value = issue_ticket(request_of(client, ann), "ws://elsewhere/ticket/?a=b")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", value)
    with client.websocket("/ticket/?c=d", ["bearer", value]) as ws:
        assert ws.receive() == "user ann"
        Group.for_user(ann).send("parcel")
        assert ws.receive() == "parcel"
        ws.send("refresh")
        assert ws.receive() == "True ann"
        User.objects.update(is_active=False)
        ws.send("refresh")
        assert ws.receive() == "False "
    assert status_of(client, "/ticket/", value) == 403


def test_ticket_of_a_session(client: WebSocketClient, ann: User) -> None:
    """A ticket shares its session's group, end, and ``refresh_user()``."""
    client.force_login(ann)
    session = client.session
    page = request_of(client, ann)
    other = WebSocketClient()
    first, second, late = (issue_ticket(page, "/ticket/") for _ in range(3))
    with other.websocket("/ticket/", ["bearer", first]) as ws:
        ws.receive()
        assert "sessionid" not in other.cookies
        Group.for_session(session.session_key or "").send("to all windows")
        assert ws.receive() == "to all windows"
        assert status_of(other, "/ticket/", "ticket.guess") == 403
        ann.set_password("another")
        with override_settings(WEBSOCKET_CLOSE_SIGNED_OUT=False):
            ann.save()
            ws.send("refresh")
            assert ws.receive() == "False "
    assert status_of(other, "/ticket/", second) == 403
    client.logout()
    assert status_of(other, "/ticket/", late) == 403


@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db")
def test_ticket_of_a_stored_session(client: WebSocketClient, ann: User) -> None:
    """Deleting the session closes the socket and invalidates other tickets."""
    client.force_login(ann)
    page = request_of(client, ann)
    other = WebSocketClient()
    with other.websocket("/ticket/", ["bearer", issue_ticket(page, "/ticket/")]) as ws:
        ws.receive()
        late = issue_ticket(page, "/ticket/")
        client.logout()
        assert ws.close_code == 4401
    assert status_of(other, "/ticket/", late) == 403


def test_anonymous_ticket(client: WebSocketClient, ann: User) -> None:
    """A ticket of an anonymous visitor makes an anonymous socket, even with a user's cookies."""
    value = issue_ticket(RequestFactory().get("/"), "/ticket/")
    client.force_login(ann)
    with client.websocket("/ticket/", ["bearer", value]) as ws:
        assert ws.receive() == "user "
        ws.send("refresh")
        assert ws.receive() == "False "


def test_ticket_ignores_cookies(client: WebSocketClient, ann: User) -> None:
    """A ticket for a user of a token ignores the session of the request's cookies."""
    client.force_login(User.objects.create(username="root"))
    value = issue_ticket(request_of(client, ann), "/ticket/")
    with client.websocket("/ticket/", ["bearer", value]) as ws:
        assert ws.receive() == "user ann"


def tampered(value: str) -> str:
    """Return the ticket with another number."""
    return value.replace("ticket.", "ticket.x", 1)


@pytest.mark.parametrize(
    ("spoil", "path", "reason"),
    [
        (tampered, "/ticket/", "no valid signature"),
        (lambda value: f"{value[:-1]}{'B' if value[-1] == 'A' else 'A'}", "/ticket/", "no valid"),
        (lambda _: "ticket.", "/ticket/", "no valid signature"),
        (lambda _: "ticket.ü", "/ticket/", "no valid signature"),
        (lambda _: f"ticket.{signing.TimestampSigner(sep='.').sign('x')}", "/ticket/", "no valid"),
        (lambda value: value, "/ticket/ü/", "for another path, '/ticket/'"),
    ],
)
def test_wrong_tickets(
    client: WebSocketClient,
    ann: User,
    caplog: pytest.LogCaptureFixture,
    spoil: Any,
    path: str,
    reason: str,
) -> None:
    """A wrong ticket is refused with 403 and counted; the log says why, without the ticket."""
    value = spoil(issue_ticket(request_of(client, ann), "/ticket/"))
    before = snapshot()["authentication_failed"]
    assert status_of(client, quote(path), quote(value, encoding="latin-1")) == 403
    assert snapshot()["authentication_failed"] == before + 1
    assert reason in caplog.text
    assert value == "ticket." or value not in caplog.text


@pytest.mark.parametrize(("seconds", "status"), [(29, 101), (32, 403)])
def test_expired(
    client: WebSocketClient,
    ann: User,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    status: int,
) -> None:
    """A ticket expires after 30 seconds; the log names the setting."""
    value = issue_ticket(request_of(client, ann), "/ticket/")
    later = time.time() + seconds
    monkeypatch.setattr(time, "time", lambda: later)
    if status == 403:
        assert status_of(client, "/ticket/", value) == 403
        assert "ticket has expired, see WEBSOCKET_TICKET_SECONDS" in caplog.text
    else:
        client.websocket("/ticket/", ["bearer", value])


def test_unknown(client: WebSocketClient, ann: User, caplog: pytest.LogCaptureFixture) -> None:
    """For an unknown ticket, as in a worker with its own cache, the log names the cache."""
    value = issue_ticket(request_of(client, ann), "/ticket/")
    cache.clear()
    assert status_of(client, "/ticket/", value) == 403
    assert "ticket is not in CACHES['default'] (LocMemCache): all workers must" in caplog.text


def test_password_changed(client: WebSocketClient, ann: User) -> None:
    """Changing the password invalidates a ticket without a session too."""
    value = issue_ticket(request_of(client, ann), "/ticket/")
    ann.set_password("another")
    ann.save()
    assert status_of(client, "/ticket/", value) == 403


@pytest.mark.parametrize("change", [{"is_active": False}, None])
def test_user_gone(client: WebSocketClient, ann: User, change: dict[str, Any] | None) -> None:
    """A ticket of a deleted or inactive user is refused."""
    value = issue_ticket(request_of(client, ann), "/ticket/")
    if change is None:
        User.objects.all().delete()
    else:
        User.objects.update(**change)
    assert status_of(client, "/ticket/", value) == 403


def test_path_of_a_ticket(client: WebSocketClient, ann: User) -> None:
    """The path may be percent-encoded by reverse() or not."""
    for where in ("/ticket/ü/", "/ticket/%C3%BC/", "wss://example.com/ticket/%C3%BC/"):
        value = issue_ticket(request_of(client, ann), where)
        with client.websocket("/ticket/%C3%BC/", ["bearer", value]) as ws:
            assert ws.receive() == "user ann"
    with pytest.raises(ValueError, match=r"path must be that of a socket, .*, not 'ticket/'"):
        issue_ticket(request_of(client, ann), "ticket/")


def test_path_of_the_page(client: WebSocketClient) -> None:
    """Without a path, a ticket is for a socket at the path of the page."""
    value = issue_ticket(RequestFactory().get("/ticket/?a=b"))
    with client.websocket("/ticket/", ["bearer", value]):
        pass


def test_template_tag(client: WebSocketClient, ann: User) -> None:
    """The template tag takes the arguments of {% websocket_url %}."""
    template = engines["django"].from_string(
        "{% load websockets %}{% websocket_ticket 'umlaut' as value %}"
        "{% websocket_ticket 'ticket' %} {{ value }} {% websocket_ticket 'none' as no %}[{{ no }}]"
    )
    first, second, none = template.render({}, request_of(client, ann)).split(" ")
    assert none == "[]"
    for where, value in (("/ticket/", first), ("/ticket/%C3%BC/", second)):
        with client.websocket(where, ["bearer", value]) as ws:
            assert ws.receive() == "user ann"
    with pytest.raises(TemplateSyntaxError, match=r"context_processors\.request"):
        template.render({}, None)


# Tokens


@pytest.mark.parametrize("token", ["nobody", "key", "value", "stranger", "ü", "%0d%0ax: y"])
def test_wrong_tokens(
    client: WebSocketClient, caplog: pytest.LogCaptureFixture, token: str
) -> None:
    """A token that lookup does not know is a 401, and the log does not show it."""
    token = token if "%" in token else quote(token)
    assert status_of(client, "/bearer/", token) == 401
    assert "refused with 401: '/bearer/': unknown token" in caplog.text
    assert f"'{token}'" not in caplog.text


@pytest.mark.parametrize(("token", "error"), [("type", TypeError), ("attribute", AttributeError)])
def test_fault_of_lookup(client: WebSocketClient, token: str, error: type[Exception]) -> None:
    """With a token as argument, these exceptions are bugs of lookup: they are not hidden."""
    with pytest.raises(error):
        client.websocket("/bearer/", ["bearer", token])


def test_inactive(client: WebSocketClient, ann: User, caplog: pytest.LogCaptureFixture) -> None:
    """A token of an inactive user is refused, whatever lookup returns."""
    User.objects.update(is_active=False)
    assert status_of(client, "/bearer/", "ann") == 401
    assert "the user is not active" in caplog.text


def test_broken_lookup(client: WebSocketClient) -> None:
    """An exception in lookup is a 500, and its report does not show the token."""
    with pytest.raises(RuntimeError) as raised:
        client.websocket("/bearer/", ["bearer", "broken"])
    report = ExceptionReporter(None, raised.type, raised.value, raised.tb).get_traceback_html()
    (shown,) = re.findall(r"<td>token</td>\s*<td class=\"code\"><pre>(.*?)</pre>", report)
    assert "broken" not in shown
    with pytest.raises(HandshakeRefused) as refused:
        WebSocketClient(raise_request_exception=False).websocket("/bearer/", ["bearer", "broken"])
    assert refused.value.response.status_code == 500


@override_settings(DEBUG=True)
@pytest.mark.parametrize("path", ["/bearer/", "/plain/"])
def test_request_forgets(client: WebSocketClient, ann: User, path: str) -> None:
    """A used token is removed from the request; another stays in a header that reports hide."""
    with client.websocket(path, ["bearer", "ann"]) as ws:
        request = ws.response.wsgi_request
        assert request.META["HTTP_SEC_WEBSOCKET_PROTOCOL"] == "bearer"
        assert ws.subprotocol == "bearer"
        assert request.headers.get("Authorization") == (
            None if path == "/bearer/" else "Bearer ann"
        )
        shown = ExceptionReporter(request, None, None, None).get_traceback_html()
        assert "Bearer ann" not in shown


def test_list_before_header(client: WebSocketClient, ann: User) -> None:
    """A token in the list takes precedence over Basic credentials, which browsers send anyway."""
    headers = {"Authorization": "Basic YW5uOnNlY3JldA=="}
    with client.websocket("/bearer/", ["bearer", "ann"], headers=headers) as ws:
        assert ws.receive() == "user ann"
    with client.websocket("/bearer/", headers=headers) as ws:
        assert ws.receive() == "user "


def test_decorated_class(client: WebSocketClient, ann: User) -> None:
    """A URLconf may decorate a class-based view; an empty list of authenticators works too."""
    with client.websocket("/wrapped/", ["bearer", "ann"]) as ws:
        assert ws.receive() == "user ann"
    with client.websocket("/visitors/", ["bearer", "ann"]) as ws:
        assert ws.receive() == "user "


def test_login_required_middleware(client: WebSocketClient, ann: User) -> None:
    """The middleware knows cookies only; ``login_not_required`` exempts a view with decorators."""
    added = "django.contrib.auth.middleware.LoginRequiredMiddleware"
    with override_settings(MIDDLEWARE=[*project.MIDDLEWARE, added]):
        assert status_of(client, "/bearer/", "ann") == 302
        with client.websocket("/strict/", ["bearer", "ann"]) as ws:
            assert ws.receive() == "user ann"
        with pytest.raises(HandshakeRefused, match="302 Found"):
            client.websocket("/strict/")


def test_rest_framework_without_a_header(client: WebSocketClient) -> None:
    """Without a challenge the refusal is a 403; request.auth is what authenticate() returned."""
    User.objects.create(username="cid")
    with client.websocket("/unlike/?cid") as ws:
        assert ws.receive() == "user cid"
        assert vars(ws.response.wsgi_request)["auth"] == "by query"
    with client.websocket("/unlike/") as ws:
        assert ws.receive() == "user "
    with client.websocket("/certain/") as ws:
        assert ws.receive() == "user dan"
    assert status_of(client, "/unlike/?wrong", "ann") == 403


@pytest.mark.parametrize("chosen", [(), (first_message(by_name), ticket)])
def test_invalid_combination(chosen: tuple[Any, ...]) -> None:
    """authentication() needs authenticators, and first_message must be the last."""
    with pytest.raises(ValueError, match="first_message"):
        authentication(*chosen)


@pytest.mark.parametrize("wrong", ["ticket", User])
def test_invalid_authenticator(wrong: Any) -> None:
    """The error shows the wrong argument."""
    with pytest.raises(TypeError, match=r"is not an authenticator: use a function"):
        authentication(wrong)


def test_bearer_token() -> None:
    """bearer_token() parses the header, for custom authenticators."""
    requests = RequestFactory()
    assert bearer_token(requests.get("/")) is None
    assert bearer_token(requests.get("/", headers={"Authorization": "Basic x"})) is None
    assert bearer_token(requests.get("/", headers={"Authorization": "Bearer "})) is None
    assert bearer_token(requests.get("/", headers={"Authorization": "bearer  x y"})) == "x y"


# The first message


@pytest.fixture(params=["/first/", "/first/echo/"])
def waiting(request: pytest.FixtureRequest, client: WebSocketClient) -> ClientWebSocket:
    """A socket that has not authenticated yet, of both kinds of view."""
    return client.websocket(request.param)


def test_first_message(waiting: ClientWebSocket, ann: User) -> None:
    """Before the first message, nothing is sent to the client or received from groups."""
    Group("room").send("secret")
    Group.for_user(ann).send("secret")
    assert waiting.peek(timeout=9) == []
    waiting.send("ann")
    assert waiting.receive() == "user ann"
    Group.for_user(ann).send("parcel")
    waiting.send("hi")
    assert [waiting.receive(), waiting.receive()] == ["parcel", "hi"]
    waiting.close()
    assert Group.for_user(ann).count() == 0


def test_late(waiting: ClientWebSocket, caplog: pytest.LogCaptureFixture) -> None:
    """The first message must arrive within ten seconds."""
    caplog.set_level(logging.INFO)
    assert waiting.peek(timeout=10) == []
    assert (waiting.close_code, waiting.close_reason) == (4401, "no first message in time")
    assert "is closed with 4401: no message within 10.0 s" in caplog.text


def test_peer_leaves(waiting: ClientWebSocket) -> None:
    """A peer that leaves without a first message does not count as a failure."""
    before = snapshot()
    waiting.close(1001)
    assert waiting.close_code == 1001
    assert snapshot()["authentication_failed"] == before["authentication_failed"]
    assert snapshot()["token_timed_out"] == before["token_timed_out"]


@override_settings(WEBSOCKET_MAX_SOCKETS_PER_USER=1)
def test_one_too_many(client: WebSocketClient, ann: User) -> None:
    """The user is known only after the 101, and so is that the limit is exceeded."""
    first, second = client.websocket("/first/echo/"), client.websocket("/first/echo/")
    first.send("ann")
    assert first.receive() == "user ann"
    second.send("ann")
    assert second.closed
    assert (second.close_code, second.close_reason) == (1013, "429 Too Many Requests")
    assert Group.for_user(ann).count() == 1
    first.close()
    third = client.websocket("/first/echo/")
    third.send("ann")
    assert third.receive() == "user ann"


def test_cookies_and_first_message(client: WebSocketClient, ann: User) -> None:
    """Cookies do not replace the first message, and do not join their user's group."""
    root = User.objects.create(username="root")
    client.force_login(root)
    ws = client.websocket("/first/", ["chat.v1"])
    assert ws.subprotocol == "chat.v1"
    assert Group.for_user(root).count() == 0
    ws.send("ann")
    assert ws.receive() == "user ann"
    assert Group.for_user(root).count() == 0


def test_refused_after_first_message(client: WebSocketClient) -> None:
    """A refusal of the view after the first message is a close."""
    User.objects.create(username="eve")
    ws = client.websocket("/first/")
    ws.send("eve")
    assert (ws.close_code, ws.close_reason) == (1008, "403 Forbidden")
    assert Group("room").count() == 0


@pytest.mark.parametrize("message", ["[]", "5", "null", '"x"', "[" * 100_000, "{}", "no JSON"])
def test_malformed_first_message(
    client: WebSocketClient, caplog: pytest.LogCaptureFixture, message: str
) -> None:
    """A malformed first message is not an error that is logged or mailed."""
    ws = client.websocket("/first/json/")
    ws.send(message)
    assert (ws.close_code, ws.close_reason) == (4401, "authentication failed")
    assert "unknown token" in caplog.text


@pytest.mark.parametrize(
    ("message", "error"),
    [('{"token": "type"}', "TypeError"), ('{"token": "attribute"}', "AttributeError")],
)
def test_fault_of_lookup_of_first_message(
    client: WebSocketClient, caplog: pytest.LogCaptureFixture, message: str, error: str
) -> None:
    """The first message may have any shape, so these are not bugs; the log shows the place."""
    ws = client.websocket("/first/json/")
    ws.send(message)
    assert ws.close_code == 4401
    name = r"test_authenticators\.py:\d+"
    assert re.search(rf"unknown token: {error} in .*{name} > {name}$", caplog.text, re.MULTILINE)


def test_broken_lookup_of_first_message(waiting: ClientWebSocket) -> None:
    """An exception in lookup is one of the view."""
    with pytest.raises(RuntimeError, match="cannot look it up"):
        waiting.send("broken")
    assert waiting.close_code == 1011


# Checks


def warnings(**settings: Any) -> list[str]:
    """Return the warnings of the check of the ticket cache."""
    with override_settings(**settings):
        found = run_checks(include_deployment_checks=True)
    return [str(message.msg) for message in found if message.id == "django_wsmux.W013"]


def cached_by(backend: str, directory: Path) -> dict[str, Any]:
    """Return settings with one of Django's caches."""
    cache = {"BACKEND": f"django.core.cache.backends.{backend}", "LOCATION": str(directory)}
    return {"tickets": cache}


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("locmem.LocMemCache", "is local to each worker"),
        ("dummy.DummyCache", "every ticket is refused"),
        ("filebased.FileBasedCache", "may accept one ticket"),
    ],
)
def test_check(backend: str, said: str, tmp_path: Path) -> None:
    """Views that take tickets get W013 with this cache."""
    (text,) = warnings(CACHES=cached_by(backend, tmp_path), WEBSOCKET_TICKET_CACHE="tickets")
    assert text.startswith("Views accept tickets, but CACHES['tickets'] ")
    assert said in text


def test_check_passes(tmp_path: Path) -> None:
    """A shared cache, or views without tickets, get no warning."""
    caches = cached_by("db.DatabaseCache", tmp_path)
    assert not warnings(CACHES=caches, WEBSOCKET_TICKET_CACHE="tickets")
    assert not warnings(WEBSOCKET_URLCONF="tests.site.sockets")


# The manual


def test_examples(tmp_path: Path) -> None:
    """The examples of ``docs/authentication.rst`` pass unchanged."""
    page = (ROOT / "docs" / "authentication.rst").read_text()
    modules: dict[str, str] = {"mysite/__init__.py": ""}
    for block in re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", page):
        name, _, text = textwrap.dedent(block).partition("\n")
        assert name.startswith("# mysite/"), name
        modules[name[2:]] = modules.get(name[2:], "") + text
    modules["mysite/urls.py"] = textwrap.dedent("""
        from django.urls import path
        from mysite import sockets, views
        urlpatterns = [path("chat/<room>/ticket/", views.chat_ticket)]
    """)
    modules["mysite/websocket_urls.py"] = textwrap.dedent("""
        from django.urls import path
        from mysite import sockets
        urlpatterns = [
            path("chat/<room>/", sockets.Chat.as_view(), name="chat"),
            path("talk/<room>/", sockets.chat),
            path("prices/", sockets.prices),
            path("news/", sockets.News.as_view()),
            path("orders/", sockets.orders),
            path("control/", sockets.control),
        ]
    """)
    (tmp_path / "mysite").mkdir()
    for name, text in modules.items():
        (tmp_path / name).write_text(text)
    apps = ["auth", "contenttypes", "sessions", "messages"]
    settings = {
        "INSTALLED_APPS": [
            *(f"django.contrib.{app}" for app in apps),
            "rest_framework.authtoken",
            "django_wsmux",
        ],
        "ROOT_URLCONF": "mysite.urls",
        "WEBSOCKET_URLCONF": "mysite.websocket_urls",
    }
    output = run_pytest(
        tmp_path,
        "from mysite.tests import AuthenticationTests",
        "-p",
        "pytest_django.plugin",
        DJANGO_SETTINGS_MODULE="tests.project.settings",
        TEST_SETTINGS=json.dumps(settings),
    )
    assert re.search(r"\b3 passed in", output), output
