"""The handshake of the test client: users, headers, refusals, the 101."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import override_settings
from django.urls import path as django_path

from django_wsmux.connection.connection import Connection
from django_wsmux.exceptions import HandshakeRefused
from django_wsmux.groups import users
from django_wsmux.groups.members import Key
from django_wsmux.server import dismissal
from django_wsmux.test import WebSocketClient
from django_wsmux.views import WebSocketView
from tests.site import sockets as site

pytestmark = pytest.mark.usefixtures("sockets")


def refusal(client: WebSocketClient, path: str, **options: Any) -> Any:
    """Return the response of a refused handshake."""
    with pytest.raises(HandshakeRefused) as refused:
        client.websocket(path, **options)
    return refused.value.response


# Users


def test_anonymous(client: WebSocketClient, path: str) -> None:
    """login_required redirects, and the response has ``url`` as in Django's client."""
    with pytest.raises(HandshakeRefused) as refused:
        client.websocket(f"{path}private/")
    response = refused.value.response
    assert response.status_code == 302
    assert response.url == f"/login/?next={path}private/"
    assert response.client is client
    assert str(refused.value) == (
        f"handshake of '{path}private/' refused with 302 Found, redirect to "
        f"'/login/?next={path}private/'"
    )


@pytest.mark.django_db
def test_signed_in(client: WebSocketClient, path: str) -> None:
    """force_login(), login() and logout() work as for pages."""
    user = User.objects.create_user("ann", password="secret")
    client.force_login(user)
    with client.websocket(f"{path}private/") as ws:
        assert ws.receive() == "ann"
    client.logout()
    assert refusal(client, f"{path}private/").status_code == 302
    assert client.login(username="ann", password="secret")
    with client.websocket(f"{path}private/") as ws:
        assert ws.receive() == "ann"
        assert ws.response.wsgi_request.user == user


@pytest.mark.django_db
@override_settings(WEBSOCKET_MAX_SOCKETS_PER_USER=1)
def test_cap(client: WebSocketClient, path: str) -> None:
    """Limits apply in tests; a closed socket releases its place."""
    client.force_login(User.objects.create(username="ann"))
    for _ in range(2):
        with client.websocket(f"{path}private/"):
            response = refusal(client, f"{path}private/")
            assert (response.status_code, response.headers["Retry-After"]) == (429, "10")


@pytest.mark.django_db
@override_settings(WEBSOCKET_CLOSE_SIGNED_OUT=False, WEBSOCKET_MAX_SOCKETS_PER_USER=None)
def test_user_is_not_read(
    client: WebSocketClient, path: str, django_assert_num_queries: Any
) -> None:
    """Without a limit, the handshake does not load the user."""
    client.force_login(User.objects.create(username="ann"))
    with django_assert_num_queries(0), client.websocket(path):
        pass


@pytest.mark.django_db
@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db")
def test_signing_out(client: WebSocketClient, path: str) -> None:
    """Signing out, here by the test's own client, closes the user's sockets."""
    client.force_login(User.objects.create(username="ann"))
    with client.websocket(path) as ws:
        client.logout()
        assert (ws.close_code, ws.close_reason) == (4401, "signed out")
    assert site.ends == ["4401 signed out"]


def test_session(client: WebSocketClient, path: str) -> None:
    """The client keeps a session that the handshake began."""
    with client.websocket(f"{path}refusing/?how=session") as ws:
        assert "sessionid" in ws.response.cookies
    assert client.session["seen"] is True


# What the client sends


def test_headers(client: WebSocketClient, path: str) -> None:
    """Headers of the client and of the call, cookies and further environ arrive."""
    client = WebSocketClient(headers={"X-Colour": "red"}, REMOTE_ADDR="192.0.2.1")
    client.cookies["flavour"] = "vanilla"
    with client.websocket(f"{path}refusing/?how=meta") as ws:
        assert ws.receive_json() == ["http://testserver", "red", "192.0.2.1", "flavour=vanilla"]
    options: dict[str, Any] = {"headers": {"X-Colour": "blue"}, "REMOTE_ADDR": "192.0.2.2"}
    with client.websocket(f"{path}refusing/?how=meta", **options) as ws:
        assert ws.receive_json()[1:3] == ["blue", "192.0.2.2"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "http://testserver"),
        ({"secure": True}, "https://testserver"),
        ({"headers": {"Host": "127.0.0.1:8000"}}, "http://127.0.0.1:8000"),
        ({"origin": "https://friend.example"}, "https://friend.example"),
        ({"headers": {"origin": "https://friend.example"}}, "https://friend.example"),
        ({"origin": ""}, None),
    ],
)
def test_origin(client: WebSocketClient, path: str, options: Any, expected: str | None) -> None:
    """The origin is this site by default, can be set, and can be left out."""
    with client.websocket(f"{path}refusing/?how=meta", **options) as ws:
        assert ws.receive_json()[0] == expected


def test_foreign_origin(client: WebSocketClient, path: str) -> None:
    """The origin is checked as under a server."""
    assert refusal(client, path, origin="https://evil.example").status_code == 403
    with override_settings(WEBSOCKET_REQUIRE_ORIGIN=True):
        assert refusal(client, path, origin="").status_code == 403


@override_settings(ALLOWED_HOSTS=["site.example"])
def test_foreign_host(client: WebSocketClient, path: str) -> None:
    """The host is checked as under a server."""
    assert refusal(client, path).status_code == 400
    with client.websocket(path, headers={"Host": "site.example"}):
        pass


def test_subprotocols(client: WebSocketClient, path: str) -> None:
    """The server selects its first subprotocol that the client offers, or none."""
    for offered, chosen in (
        (["chat.v1", "chat.v2"], "chat.v2"),
        (("x", "chat.v1"), "chat.v1"),
        (["x"], None),
        ([], None),
    ):
        with client.websocket(path, subprotocols=offered) as ws:
            assert ws.subprotocol == chosen
            assert ws.response.headers.get("Sec-WebSocket-Protocol") == chosen


# What the client receives


def test_switching_protocols(client: WebSocketClient, path: str) -> None:
    """The response is the 101 with headers of the middleware; cookies are kept."""
    with client.websocket(path) as ws:
        assert ws.response.status_code == 101
        assert ws.response.headers["X-Mixed-Case"] == "KeepMyCase"
        assert ws.response.headers["Upgrade"] == "websocket"
        assert ws.response.cookies["flavour"].value == "Chocolate"
        assert ws.response.resolver_match.route == path.lstrip("/")
    assert client.cookies["flavour"].value == "Chocolate"


@pytest.mark.parametrize(("how", "status"), [("missing", 404), ("page", 429)])
def test_refused(client: WebSocketClient, path: str, how: str, status: int) -> None:
    """Any other response of Django is a refusal."""
    assert refusal(client, f"{path}refusing/?how={how}").status_code == status
    assert refusal(client, "/nowhere/").status_code == 404


def test_rendered_refusal(client: WebSocketClient, path: str) -> None:
    """A rendered refusal has context and templates, and its cookies are kept."""
    response = refusal(client, f"{path}refusing/?how=page")
    assert response.context["reason"] == "full"
    assert [template.name for template in response.templates] == ["refusal.html"]
    assert response.content == b"Sorry: full\n"
    assert client.cookies["flavour"].value == "Chocolate"


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({"Sec-WebSocket-Version": "8"}, 426, b"Only Sec-WebSocket-Version 13"),
        ({"Connection": "keep-alive"}, 400, b"lacks the token Upgrade"),
    ],
)
def test_malformed(client: WebSocketClient, headers: Any, status: int, text: bytes) -> None:
    """A malformed handshake is refused before Django runs, as under a server."""
    response = refusal(client, "/function/", headers=headers)
    assert (response.status_code, text in response.content) == (status, True)


def test_exception(client: WebSocketClient, path: str) -> None:
    """An exception in connect() is raised in the test, or becomes a 500."""
    with pytest.raises(ValueError, match="it broke before") as raised:
        client.websocket(f"{path}refusing/?how=crash")
    assert raised.traceback[-1].name == "answer"
    client = WebSocketClient(raise_request_exception=False)
    response = refusal(client, f"{path}refusing/?how=crash")
    assert response.status_code == 500
    assert response.exc_info[0] is ValueError


def test_refused_handshake_leaves_nothing(client: WebSocketClient, path: str) -> None:
    """After a refusal, the client can be used again."""
    assert refusal(client, "/nowhere/").status_code == 404
    with client.websocket(path) as ws:
        ws.send("hi")
        assert ws.receive() == "hi"
    assert site.ends == ["1000 "]


class Early(WebSocketView):
    """Send before the 101: text that cannot be encoded, or after a close."""

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        if "surrogate" in request.GET:
            self.send("\ud800")
        self.send("first")
        self.close(4001, "no")
        self.send("second")

    def disconnect(self, code: int, reason: str) -> None:
        site.ends.append(f"{code} {reason}")


urlpatterns = [django_path("early/", Early.as_view())]


@override_settings(WEBSOCKET_URLCONF=__name__)
def test_early_after_a_close(client: WebSocketClient) -> None:
    """Messages that ``connect()`` sends after its close are dropped; ``disconnect()`` runs once."""
    with client.websocket("/early/") as ws:
        assert ws.receive() == "first"
        assert (ws.close_code, ws.close_reason) == (4001, "no")
    assert site.ends == ["4001 no"]


@override_settings(WEBSOCKET_URLCONF=__name__)
def test_early_and_impossible(client: WebSocketClient) -> None:
    """A lone surrogate is an error in ``connect()``, while the answer can still be a 500."""
    client.raise_request_exception = False
    assert refusal(client, "/early/?surrogate").status_code == 500
    assert site.ends == []


def test_closed_while_it_joins(
    client: WebSocketClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that ends while the socket joins its groups closes it as soon as it is open."""
    join, joined = users.join, []

    def join_slowly(websocket: Connection, request: HttpRequest) -> tuple[Key, ...]:
        joined.append(websocket)
        if len(joined) == 1:
            websocket.close(4401, "signed out")
        return join(websocket, request)

    monkeypatch.setattr(users, "join", join_slowly)
    with client.websocket(path) as ws:
        assert (ws.close_code, ws.close_reason) == (4401, "signed out")
    assert site.ends == ["4401 signed out"]
    assert len(joined) == 1


def test_refused_by_code(client: WebSocketClient, path: str) -> None:
    """A client of wsmux.v1 sees a close code, or HTTP if too many such sockets are closing."""
    with client.websocket(f"{path}private/", ["wsmux.v1"]) as ws:
        assert (ws.close_code, ws.close_reason) == (4401, "302 Found")
    slots = [slot for _ in range(256) if (slot := dismissal.enter()) is not None]
    try:
        response = refusal(client, f"{path}private/", subprotocols=["wsmux.v1"])
        assert response.status_code == 302
    finally:
        for slot in slots:
            slot.release()
