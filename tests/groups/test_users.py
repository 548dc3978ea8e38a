"""Sessions that end during a handshake, in all session engines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth import login, logout
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.backends import file
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path

from django_wsmux.auth import authentication, bearer, first_message, issue_ticket, ticket
from django_wsmux.decorators import websocket
from django_wsmux.exceptions import BackendUnavailable, ConnectionClosed
from django_wsmux.groups import Group, users
from django_wsmux.groups.pubsub import members, pubsub
from django_wsmux.responses import WebSocketResponse
from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.views import WebSocketView
from tests.handlers.test_handshake import refusal

from .peers import Peer

#: Closing sockets on commit needs a transaction that commits.
committing = pytest.mark.django_db(transaction=True)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("signing_out")]

Meanwhile = Callable[[HttpRequest], object]

#: What happens while a view decides.
meanwhile: list[Meanwhile] = []

ENGINES = [
    "django.contrib.sessions.backends.db",
    "django.contrib.sessions.backends.cached_db",
    "django.contrib.sessions.backends.cache",
    "django.contrib.sessions.backends.file",
    "django.contrib.sessions.backends.signed_cookies",
    "tests.groups.test_users",
]


class SessionStore(file.SessionStore):
    """A custom engine; this module is a ``SESSION_ENGINE``."""


def decide(request: HttpRequest) -> HttpResponse | None:
    """Load the user, then let something happen."""
    assert request.user is not None
    str(request.user)
    for act in meanwhile:
        act(request)
    return HttpResponse("no", status=409) if "refuse" in request.GET else None


def tell(websocket: Any) -> None:
    for message in websocket:
        websocket.send(f"still there: {message}")


def function(request: HttpRequest) -> HttpResponse:
    return decide(request) or WebSocketResponse(tell)


def undecorated(request: Any) -> None:
    decide(request)
    tell(request.websocket)


class Event(WebSocketView):
    ends: list[int] = []  # noqa: RUF012

    def connect(self, request: HttpRequest) -> HttpResponse | None:
        self.send("private")
        return decide(request)

    def receive(self, message: str | bytes) -> None:
        self.send(f"still there: {message!r}")

    def disconnect(self, code: int, reason: str) -> None:
        self.ends.append(code)


def user_of(name: str) -> Any:
    user = User.objects.get(username=name)
    for act in meanwhile:
        act(None)  # type: ignore[arg-type]
    return user


def page(request: HttpRequest) -> HttpResponse:
    """Do what the query says, with the cookies of the request."""
    match request.GET["do"]:
        case "logout":
            logout(request)
        case "change":
            request.session["colour"] = "green"
        case "ticket":
            return HttpResponse(issue_ticket(request, "/ticket/"))
    return HttpResponse("done")


urlpatterns = [
    path("function/", function),
    path("undecorated/", undecorated),  # type: ignore[arg-type]  # returns None
    path("event/", Event.as_view()),
    path("ticket/", authentication(ticket)(function)),
    path("bearer/", authentication(bearer(user_of))(websocket(lambda _, each: tell(each)))),
    path("first/", authentication(first_message(user_of))(websocket(lambda _, each: tell(each)))),
    path("page/", page),
]


@pytest.fixture
def signing_out(tmp_path: Path) -> Iterator[None]:
    """Use the sockets and pages of this module."""
    meanwhile.clear()
    Event.ends.clear()
    cache.clear()
    with override_settings(
        WEBSOCKET_URLCONF=__name__, ROOT_URLCONF=__name__, SESSION_FILE_PATH=str(tmp_path)
    ):
        yield


@pytest.fixture
def ann() -> User:
    """A user."""
    return User.objects.create(username="ann")


def twin(client: WebSocketClient) -> WebSocketClient:
    """Return another window of the same browser."""
    other = WebSocketClient()
    other.cookies.update(client.cookies)
    return other


def end(ws: ClientWebSocket) -> int | None:
    """Send a message to be sure; read until the server closes; return the code."""
    try:
        ws.send("?")
        while not str(ws.receive()).startswith("still there"):
            pass
    except ConnectionClosed:
        pass
    return ws.close_code


@pytest.mark.parametrize("url", ["/function/", "/undecorated/", "/event/"])
@pytest.mark.parametrize("engine", ENGINES)
def test_in_handshake(client: WebSocketClient, ann: User, engine: str, url: str) -> None:
    """The socket is closed as soon as it is open, with every session engine."""
    with override_settings(SESSION_ENGINE=engine):
        client.force_login(ann)
        other = twin(client)
        meanwhile.append(lambda _: other.get("/page/?do=logout"))
        with client.websocket(url) as ws:
            assert end(ws) == 4401
        assert members.sizes() == []
        assert not members.of(f"@user:{ann.pk}")
        assert Event.ends == ([4401] if url == "/event/" else [])


@committing
@pytest.mark.parametrize("how", ["logout", "deactivate", "password", "close"])
def test_other_authenticators(client: WebSocketClient, ann: User, how: str) -> None:
    """Sockets by ticket, token and first message are closed too, and by ``Group.close()``."""
    with override_settings(SESSION_ENGINE=ENGINES[0]):
        client.force_login(ann)
        other = twin(client)
        given = client.get("/page/?do=ticket").content.decode()
        expected = 4401

        def act(request: HttpRequest) -> None:
            user = User.objects.get(pk=ann.pk)
            match how:
                case "logout":
                    other.get("/page/?do=logout")
                case "deactivate":
                    user.is_active = False
                    user.save()
                case "password":
                    user.set_password("another")
                    user.save()
                case "close":
                    Group.for_user(user).close(4000, "out")

        if how == "close":
            expected = 4000
        meanwhile.append(act)
        stranger = WebSocketClient()
        with stranger.websocket("/ticket/", ["bearer", given]) as ws:
            assert end(ws) == expected
        if how != "logout":
            User.objects.update(is_active=True)
            with stranger.websocket("/bearer/", ["bearer", "ann"]) as ws:
                assert end(ws) == expected
            User.objects.update(is_active=True)
            with stranger.websocket("/first/") as ws:
                ws.send("ann")
                assert end(ws) == expected
        assert not members.of(f"@user:{ann.pk}")


def test_refused(client: WebSocketClient, ann: User) -> None:
    """A refused handshake is not accepted only to close it."""
    client.force_login(ann)
    other = twin(client)
    meanwhile.append(lambda _: other.get("/page/?do=logout"))
    assert refusal(client, "/event/?refuse").status_code == 409
    assert not members.of(f"@user:{ann.pk}")
    assert not members.closings._began


@override_settings(SESSION_ENGINE=ENGINES[0])
def test_by_the_view(client: WebSocketClient, ann: User) -> None:
    """A view that signs in or out itself keeps its socket."""
    meanwhile.append(lambda request: login(request, ann, BACKEND))
    for _ in range(2):
        with client.websocket("/function/") as ws:
            assert end(ws) is None
            assert members.of(f"@user:{ann.pk}")
    meanwhile[:] = [logout]
    with client.websocket("/function/") as ws:
        assert end(ws) is None
        assert not members.of(f"@user:{ann.pk}")


BACKEND = "django.contrib.auth.backends.ModelBackend"


@committing
def test_deactivated_after_signing_in(client: WebSocketClient, ann: User) -> None:
    """A session that begins in the handshake may end before the 101, too."""

    def act(request: HttpRequest) -> None:
        login(request, ann, BACKEND)
        user = User.objects.get(pk=ann.pk)
        user.is_active = False
        user.save()

    meanwhile.append(act)
    with client.websocket("/event/") as ws:
        assert end(ws) == 4401


@committing
@override_settings(SESSION_ENGINE=ENGINES[2])
def test_between_signal_and_deletion(client: WebSocketClient, ann: User) -> None:
    """Django sends the signal before it deletes the session; a handshake between is closed too."""
    client.force_login(ann)
    other = twin(client)
    opened: list[ClientWebSocket] = []

    def connect(**kwargs: Any) -> None:
        opened.append(other.websocket("/event/"))

    user_logged_out.connect(connect)
    try:
        client.get("/page/?do=logout")
    finally:
        user_logged_out.disconnect(connect)
    (ws,) = opened
    assert end(ws) == 4401


@override_settings(SESSION_ENGINE=ENGINES[0])
def test_queries(client: WebSocketClient, ann: User, django_assert_num_queries: Any) -> None:
    """Session and user are loaded once."""
    client.force_login(ann)
    with django_assert_num_queries(2), client.websocket("/event/"):
        pass


@override_settings(SESSION_ENGINE=ENGINES[4])
def test_changed_cookie(client: WebSocketClient, ann: User) -> None:
    """With signed cookies the key changes with the content; the old key is not known."""
    client.force_login(ann)
    bob = WebSocketClient()
    bob.force_login(User.objects.create(username="bob"))
    with client.websocket("/event/") as ws, bob.websocket("/event/") as stays:
        client.get("/page/?do=change")
        client.get("/page/?do=logout")
        assert end(ws) == 4401
        assert end(stays) is None


@override_settings(SESSION_ENGINE=ENGINES[0])
def test_changed_session(client: WebSocketClient, ann: User) -> None:
    """With other engines the key stays, and other sessions of the user remain."""
    client.force_login(ann)
    other = WebSocketClient()
    other.force_login(ann)
    with client.websocket("/event/") as ws, other.websocket("/event/") as stays:
        client.get("/page/?do=change")
        client.get("/page/?do=logout")
        assert end(ws) == 4401
        assert end(stays) is None


@committing
@pytest.mark.usefixtures("history")
def test_deleted_user() -> None:
    """The history of a user's group is deleted with the user."""
    user = User.objects.create_user("ann")
    group = Group.for_user(user)
    group.send("secret")
    assert group.history().messages
    user.delete()
    assert not group.history().messages


@pytest.mark.usefixtures("history")
def test_broker_away(connect: Callable[[], Peer], monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that cannot join all of its groups is in none of them."""
    identity = SimpleNamespace(user=SimpleNamespace(pk=7), session_key="key")
    request: Any = SimpleNamespace(identity=identity)
    websocket = connect().websocket
    add_all = pubsub.add_all

    def add_some(keys: Collection[Any], *args: Any) -> None:
        add_all(keys, *args)
        if any("@session" in key for key in keys):
            raise BackendUnavailable("redis://", "down", "")

    monkeypatch.setattr(pubsub, "add_all", add_some)
    with pytest.raises(BackendUnavailable):
        users.join(websocket, request)
    assert members.of("@user:7") == []
