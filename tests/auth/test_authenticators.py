"""Authentication by token and first message: which credentials are accepted, and as which user."""

from __future__ import annotations

import json
import logging
import re
import textwrap
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.conf import settings as project
from django.contrib.auth.models import User
from django.core.checks import run_checks
from django.test import override_settings
from django.views.debug import ExceptionReporter

from django_wsmux import conf
from django_wsmux.auth import ticket
from django_wsmux.auth.authenticators import (
    authentication,
    first_message,
)
from django_wsmux.exceptions import HandshakeRefused
from django_wsmux.groups import Group
from django_wsmux.groups.identity import expiry_of
from django_wsmux.groups.pubsub import members
from django_wsmux.monitoring.metrics import snapshot
from django_wsmux.test import ClientWebSocket, WebSocketClient
from tests.support import ROOT
from tests.testing.test_plugin import run_pytest

from .site import by_name, status_of

pytestmark = pytest.mark.django_db


def test_first_message_then_groups_seen(client: WebSocketClient, ann: User) -> None:
    """After a first message, a view with ``group_receive()`` handles groups' messages too."""
    with client.websocket("/first/watching/") as ws:
        ws.send("ann")
        assert ws.receive() == "user ann"
        Group("room").send("hello")
        assert ws.receive() == "seen 'hello'"


# Tickets


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


def jwt(claims: Any) -> str:
    """Return a token with these claims. The lookup accepts it as the name of its user."""
    encoded = urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"header.{encoded}.signature"


@pytest.mark.parametrize(
    ("token", "expires_at"),
    [
        (jwt({"sub": "ann", "exp": 4e9}), 4e9),
        (jwt({"exp": 4_000_000_000}), 4e9),
        (jwt({"exp": 0}), 0.0),
        ("ann", None),
        ("a.b", None),
        ("a.b.c.d", None),
        ("a.%.c", None),
        ("a.gw.c", None),  # not UTF-8
        (jwt({"sub": "ann"}), None),
        (jwt({"exp": "4000000000"}), None),
        (jwt({"exp": True}), None),
        (jwt({"exp": -1}), None),
        (jwt({"exp": 1e300}), None),
        (jwt({"exp": float("nan")}), None),
        (jwt([4e9]), None),
        (jwt("exp"), None),
        ("a." + urlsafe_b64encode(b"[" * 9999).decode() + ".c", None),
        ({"exp": 4e9}, 4e9),
        (None, None),
        (object(), None),
    ],
)
def test_claims(token: Any, expires_at: float | None) -> None:
    """Only a number of seconds in the claim exp is a time."""
    assert expiry_of(token) == expires_at


@pytest.mark.parametrize("path", ["/bearer/", "/by-claims/"])
def test_expiring_token(client: WebSocketClient, path: str, ann: User) -> None:
    """A socket expires with its token, whichever authenticator has accepted it."""
    token = jwt({"exp": 4e9})
    User.objects.update(username=token)
    with client.websocket(path, ["bearer", token]) as ws:
        assert ws.receive() == f"user {token}"
        (websocket,) = members.of(f"@user:{ann.pk}")
        assert websocket.expires_at == 4e9


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
    """The first message must arrive in time."""
    caplog.set_level(logging.INFO)
    seconds = conf.get("WEBSOCKET_TOKEN_TIMEOUT")
    assert waiting.peek(timeout=seconds) == []
    assert (waiting.close_code, waiting.close_reason) == (4401, "no first message in time")
    assert f"is closed with 4401: no message within {seconds} s" in caplog.text


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
    name = r"site\.py:\d+"
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
        "WEBSOCKET_TOKEN_TIMEOUT": 10.0,
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
