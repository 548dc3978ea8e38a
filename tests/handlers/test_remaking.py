"""Middleware runs once more for the request of a socket that has moved."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import gevent
import pytest
from django.contrib import auth
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.auth.models import Group as UserGroup
from django.core.signals import request_finished, request_started
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.test import override_settings
from django.urls import path
from django.utils import translation
from gevent.event import Event

from django_wsmux.auth import authentication, bearer, issue_ticket, ticket
from django_wsmux.exceptions import ConnectionClosed
from django_wsmux.groups.identity import Identity
from django_wsmux.handlers import context, remaking
from django_wsmux.handlers.handler import WebSocketHandler, installed
from django_wsmux.handlers.identities import pack_identity, unpack_identity
from django_wsmux.handlers.remaking import Origin
from django_wsmux.handlers.socket import DjangoHooks
from django_wsmux.handlers.view_state import CannotCarry
from django_wsmux.protocol.environ import wire_path
from django_wsmux.test import WebSocketClient
from django_wsmux.views import WebSocketView
from tests.support import ROOT

from .test_databases import IS_OPEN

Response = Callable[[HttpRequest], HttpResponse]

variable: ContextVar[str] = ContextVar("variable", default="unset")


class Board(WebSocketView):
    """Remembers its instances, and echoes."""

    opened: list[Any] = []  # noqa: RUF012

    def connect(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        Board.opened.append(self)

    def receive(self, message: str | bytes) -> None:
        self.send(message)


class Lean(Board):
    keep_request = False


def user_of(token: str) -> User:
    return User.objects.get(username=token)


urlpatterns = [
    path("board/", Board.as_view()),
    path("board/<str:name>/", Board.as_view()),
    path("lean/", Lean.as_view()),
    path("ticket/", authentication(ticket)(Board.as_view())),
    path("token/", authentication(bearer(user_of))(Board.as_view())),
]


class OtherUrls:
    """URLs that middleware may choose."""

    urlpatterns = (path("other/<int:number>/", Board.as_view()),)


SESSIONS = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

#: What middleware does after the move; without a function it only passes the request on.
behaviour: list[Callable[[Response, HttpRequest], HttpResponse]] = []
#: ``is_handover`` of each request that middleware saw.
seen: list[bool] = []


def middleware(get_response: Response) -> Response:
    """Note the request, and do what the test wants once the socket has moved."""

    def handle(request: Any) -> HttpResponse:
        if not hasattr(request, "websocket"):
            return get_response(request)  # a page
        seen.append(request.is_handover)
        if request.is_handover and behaviour:
            return behaviour[-1](get_response, request)
        return get_response(request)

    return handle


@pytest.fixture(autouse=True)
def _site(sockets: None) -> Iterator[None]:
    Board.opened.clear()
    behaviour.clear()
    seen.clear()
    with override_settings(
        WEBSOCKET_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.middleware", *SESSIONS]
    ):
        yield
    installed.clear()


def opened(client: WebSocketClient, url: str = "/board/", **options: Any) -> tuple[Any, Any]:
    """Open a socket; return its two ends."""
    ws = client.websocket(url, **options)
    return ws, Board.opened[-1]


def moved(view: Any, identity: Any = None, urlconf: Any = None) -> None:
    """Make a view look as if it had come from another process."""
    installed.append(WebSocketHandler())
    hooks = view.websocket.hooks
    assert isinstance(hooks, DjangoHooks)
    hooks.request = hooks.session = None
    hooks.origin = Origin(urlconf, identity)
    view.websocket.environ.pop("wsgi.websocket", None)
    del view.request
    seen.clear()


def test_what_middleware_sets(client: WebSocketClient) -> None:
    """The request has what middleware puts on it; the view's own context and signals do not."""
    sent: list[Any] = []

    def set_all(get_response: Response, request: Any) -> HttpResponse:
        request.tenant = request.headers["X-Tenant"]
        variable.set("of middleware")
        translation.activate("de")
        response = get_response(request)
        response.set_cookie("token", "rotated")
        return response

    def receive(**kwargs: Any) -> None:
        sent.append(kwargs)

    ws, view = opened(client, "/board/Zoë/?a=1", headers={"X-Tenant": "acme"})
    before = view.request
    behaviour.append(set_all)
    moved(view)
    language = translation.get_language()
    request_started.connect(receive)
    request_finished.connect(receive)
    try:
        request = view.request
    finally:
        request_started.disconnect(receive)
        request_finished.disconnect(receive)
    assert not sent
    assert seen == [True]
    assert request is not before
    assert request is view.request is view.websocket.hooks.request
    assert request.tenant == "acme"
    assert (request.path, request.GET["a"]) == ("/board/Zoë/", "1")
    assert request.resolver_match.kwargs == {"name": "Zoë"}
    assert wire_path(request.META) == wire_path(before.META) == "/board/Zo%C3%AB/"
    assert request.websocket is view.websocket
    assert request.META is view.websocket.environ
    assert request.META["wsgi.websocket"] is view.websocket
    assert (variable.get(), translation.get_language()) == ("unset", language)
    assert ws.peek() == []
    ws.send("still open")
    assert ws.receive() == "still open"


def test_wire_path(client: WebSocketClient) -> None:
    """The path in logs stays as the client sent it, also if it is not UTF-8."""
    _, view = opened(client, "/board/%FF%C3%AB/")
    before = wire_path(view.request.META)
    moved(view)
    assert view.request.path == "/board/%FFë/"
    assert wire_path(view.request.META) == before == "/board/%FF%C3%AB/"
    moved(view)
    assert view.request.path == "/board/%FFë/"


def test_handshake_is_no_handover(client: WebSocketClient) -> None:
    """At the handshake ``is_handover`` is false, and no view looks for a request afterwards."""
    opened(client)
    assert seen == [False]


@pytest.mark.django_db
def test_user(client: WebSocketClient) -> None:
    """The user is that of the session, as it now is."""
    ann = User.objects.create(username="ann")
    client.force_login(ann)
    _, view = opened(client)
    moved(view)
    User.objects.update(first_name="Ann")
    assert view.request.user == ann
    assert view.request.user.first_name == "Ann"
    assert view.websocket.hooks.session is view.request.session
    assert view.request.identity is None


def test_refresh(client: WebSocketClient) -> None:
    """``refresh_user()`` has nothing to do as long as there is no request."""
    _, view = opened(client)
    moved(view)
    view.websocket.refresh_user()
    assert seen == []
    _, lean = opened(client, "/lean/")
    lean.websocket.hooks.origin = Origin()
    with pytest.raises(RuntimeError, match="keep_request = False"):
        lean.websocket.refresh_user()


def test_copy(client: WebSocketClient) -> None:
    """The view's request is the one that arrives at the view, as at the handshake."""

    def pass_copy(get_response: Response, request: Any) -> HttpResponse:
        again = copy.copy(request)
        again.mark = "copy"
        return get_response(again)

    _, view = opened(client)
    behaviour.append(pass_copy)
    moved(view)
    assert view.request.mark == "copy"


def test_urlconf(client: WebSocketClient) -> None:
    """The URLconf that middleware had chosen is used again; middleware may choose once more."""
    _, view = opened(client)
    moved(view, urlconf=OtherUrls)
    view.websocket.environ["PATH_INFO"] = "/other/5/"
    assert view.request.resolver_match.kwargs == {"number": 5}


# Refusals


def answer(status: int, **headers: str) -> Callable[..., HttpResponse]:
    """Return what answers instead of the view."""
    return lambda get_response, request: HttpResponse(status=status, headers=headers)


def fail(get_response: Response, request: HttpRequest) -> HttpResponse:
    raise ValueError("middleware broke")


def replace(get_response: Response, request: HttpRequest) -> HttpResponse:
    get_response(request)
    return HttpResponse("a page")


REFUSALS = {
    "login": (lambda *args: HttpResponseRedirect("/login/?next=/x/"), 4401, "302 Found"),
    "redirect": (lambda *args: HttpResponseRedirect("/elsewhere/"), 4302, "302 Found"),
    "forbidden": (answer(403), 4403, "403 Forbidden"),
    "not found": (answer(404), 4404, "404 Not Found"),
    "error": (fail, 1011, "500 Internal Server Error"),
    "page": (replace, 4200, "200 OK"),
}


@pytest.mark.parametrize("how", REFUSALS)
def test_refusal(how: str) -> None:
    """A refusal closes the socket with the code of a refused handshake, and is raised again."""
    client = WebSocketClient(raise_request_exception=False)
    ws, view = opened(client)
    refuse, code, reason = REFUSALS[how]
    behaviour.append(refuse)
    moved(view)
    with pytest.raises(ConnectionClosed):
        view.request  # noqa: B018
    assert (ws.close_code, ws.close_reason) == (code, reason)
    with pytest.raises(ConnectionClosed):
        view.request  # noqa: B018
    assert seen == [True]


def test_refusal_in_a_view(caplog: pytest.LogCaptureFixture) -> None:
    """In a view it is no error of the view."""

    class Looking(Board):
        def receive(self, message: str | bytes) -> None:
            self.send(self.request.path)

    ws, view = opened(WebSocketClient())
    view.__class__ = Looking
    behaviour.append(answer(403))
    moved(view)
    ws.send("look")
    assert ws.close_code == 4403
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


@pytest.mark.parametrize("status", [429, 503])
def test_later(client: WebSocketClient, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 429 and 503 the middleware is asked again, and the socket stays open."""
    monkeypatch.setattr(remaking, "_PAUSE", 0.01)
    refusals = iter([answer(status), answer(status, **{"Retry-After": "0"})])

    def later(get_response: Response, request: HttpRequest) -> HttpResponse:
        refuse = next(refusals, None)
        return get_response(request) if refuse is None else refuse(get_response, request)

    pauses: list[float] = []
    monkeypatch.setattr(Origin, "pause", lambda self, seconds: pauses.append(seconds))
    ws, view = opened(client)
    behaviour.append(later)
    moved(view)
    assert view.request.path == "/board/"
    assert seen == [True] * 3
    assert pauses[1] == 0.01
    assert 0.01 < pauses[0] <= 60
    ws.send("still open")
    assert ws.receive() == "still open"


def test_pause() -> None:
    """A pause lets others run."""
    others = gevent.spawn(lambda: "ran")
    Origin().pause(0.01)
    assert others.value == "ran"


def test_too_late(client: WebSocketClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the end such a refusal closes the socket, too."""
    monkeypatch.setattr(Origin, "patience", 0.0)
    ws, view = opened(client)
    behaviour.append(answer(503))
    moved(view)
    with pytest.raises(ConnectionClosed):
        view.request  # noqa: B018
    assert ws.close_code == 1013


def test_closed_meanwhile(client: WebSocketClient) -> None:
    """The middleware is not asked again for a socket that is closed."""

    def close(get_response: Response, request: Any) -> HttpResponse:
        request.websocket.close(1000)
        return HttpResponse(status=503)

    _, view = opened(client)
    behaviour.append(close)
    moved(view)
    with pytest.raises(ConnectionClosed):
        view.request  # noqa: B018
    assert seen == [True]


# Two at the same time


class Gate:
    """Middleware that waits.

    Attributes:
        begun: set once it is called.
        go: lets it continue.
        where: the greenlet that it was called in.
    """

    def __init__(self) -> None:
        self.begun, self.go = Event(), Event()
        self.where: Any = None

    def __call__(self, get_response: Response, request: HttpRequest) -> HttpResponse:
        """Wait, then pass the request on."""
        self.where = gevent.getcurrent()
        self.begun.set()
        self.go.wait()
        return get_response(request)


def test_once(client: WebSocketClient) -> None:
    """Greenlets that use the request at the same time wait for one run of the middleware."""
    gate = Gate()
    _, view = opened(client)
    behaviour.append(gate)
    moved(view)
    looking = [gevent.spawn(lambda: view.request) for _ in range(3)]
    gate.begun.wait()
    gevent.sleep(0)
    assert not any(each.ready() for each in looking)
    gate.go.set()
    gevent.joinall(looking, raise_error=True)
    assert len({id(each.value) for each in looking}) == 1
    assert looking[0].value is view.request
    assert seen == [True]
    assert gate.where not in looking


def test_waiting_greenlet_is_killed(client: WebSocketClient) -> None:
    """If the first one that waits is killed, the others get the request all the same."""
    gate = Gate()
    _, view = opened(client)
    behaviour.append(gate)
    moved(view)
    first, second = (gevent.spawn(lambda: view.request) for _ in range(2))
    gate.begun.wait()
    gevent.sleep(0)
    first.kill()
    gate.go.set()
    assert second.get().path == "/board/"
    assert seen == [True]


# Context variables


def set_variable(get_response: Response) -> Response:
    """Middleware that sets a variable to a header."""

    def handle(request: HttpRequest) -> HttpResponse:
        token = variable.set(request.headers.get("X-Tenant", ""))
        try:
            return get_response(request)
        finally:
            variable.reset(token)

    return handle


entered: list[str] = []


def surround(request: HttpRequest) -> Callable[[], Any]:
    """Return a context manager for ``WEBSOCKET_CONTEXT``."""

    @contextmanager
    def enter() -> Iterator[None]:
        entered.append(f"{request.headers['X-Tenant']} {getattr(request, 'user', None)}")
        yield

    return enter


def test_variables(client: WebSocketClient) -> None:
    """What is active for the view after the move is what the middleware sets then."""
    entered.clear()
    with override_settings(
        MIDDLEWARE=[f"{__name__}.set_variable"], WEBSOCKET_CONTEXT=[f"{__name__}.surround"]
    ):
        _, view = opened(client, headers={"X-Tenant": "acme"})
        origin = Origin(None, pack_identity(Identity(AnonymousUser())))
        moved(view)
        _, around = origin.make(view.websocket)
    assert entered == []
    assert around.enter(variable.get) == "acme"
    assert entered == ["acme AnonymousUser"]
    assert variable.get() == "unset"
    assert around.has_values
    assert not context.named().has_values


# Tickets


@pytest.mark.django_db
@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db")
@pytest.mark.parametrize("kind", ["ticket", "token"])
def test_identity_beside_a_cookie(client: WebSocketClient, kind: str) -> None:
    """The user of a ticket or token stays the user, though the cookies are another user's."""
    ann, bob = (User.objects.create(username=name) for name in ("ann", "bob"))
    other = WebSocketClient()
    other.force_login(ann)
    session_key = other.session.session_key if kind == "ticket" else None
    client.force_login(bob)
    cookies = client.cookies.output(header="", sep=";")
    if kind == "ticket":
        page: Any = other.get("/login/").wsgi_request
        page.user, page.session = ann, other.session
        client.cookies.clear()  # a ticket and the cookies of another user are refused
        token = issue_ticket(page, "/ticket/")
    else:
        token = "ann"
    _, view = opened(client, f"/{kind}/", subprotocols=["bearer", token])
    assert view.request.user == ann
    packed = json.loads(json.dumps(pack_identity(view.request.identity)))
    moved(view, packed)
    view.websocket.environ["HTTP_COOKIE"] = cookies.strip()
    assert view.request.user == ann
    assert view.request.identity.session_key == session_key
    assert auth.get_user(view.request) == bob
    view.websocket.refresh_user()
    assert view.request.user == ann


@pytest.mark.django_db
def test_identities() -> None:
    """The user of a token is read when it is used; a user who is gone is anonymous."""
    ann = User.objects.create(username="ann")
    packed = pack_identity(Identity(ann))
    identity = unpack_identity(packed)
    User.objects.update(first_name="Ann")
    assert (identity.user, identity.user.first_name) == (ann, "Ann")
    assert identity.session_key is None
    for change in ({"is_active": False}, None):
        if change is None:
            User.objects.all().delete()
        else:
            User.objects.update(**change)
        assert unpack_identity(packed).user == AnonymousUser()
    assert unpack_identity(pack_identity(Identity(AnonymousUser()))).user == AnonymousUser()


@pytest.mark.django_db
def test_own_identities() -> None:
    """A project's own kind of user moves if it is stored in a database."""

    class Device(UserGroup):
        is_authenticated = True

        class Meta:
            proxy = True
            app_label = "auth"

    class Robot:
        is_authenticated = True

    device = Device.objects.create(name="device")
    packed = pack_identity(Identity(device))
    assert unpack_identity(packed).user == device
    device.delete()
    assert unpack_identity(packed).user == AnonymousUser()
    with pytest.raises(CannotCarry, match=r"^request.user is of type .*Robot"):
        pack_identity(Identity(Robot()))


@pytest.mark.django_db
@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.db")
def test_signed_out(client: WebSocketClient) -> None:
    """A ticket whose session has ended has an anonymous user."""
    ann = User.objects.create(username="ann")
    client.force_login(ann)
    packed = pack_identity(Identity(ann, client.session.session_key))
    assert unpack_identity(packed).user == ann
    client.logout()
    assert unpack_identity(packed).user == AnonymousUser()


#: A patched process like gunicorn's, with a view that uses its request inside a transaction.
PATCHED = (
    """
from gevent import monkey
monkey.patch_all()
import sys
import django
import gevent
from django.conf import settings
settings.configure(
    ALLOWED_HOSTS=["testserver"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    INSTALLED_APPS=["django_wsmux"],
    MIDDLEWARE=["__main__.middleware"],
    ROOT_URLCONF="__main__",
    WEBSOCKET_BACKEND="memory://",
    WEBSOCKET_URLCONF="__main__",
)
django.setup()
from django.db import DatabaseError, connection, transaction
from django.test import RequestFactory
from django.urls import path
from django_wsmux import conf
from django_wsmux.connection.websocket import WebSocket
from django_wsmux.handlers.handler import WebSocketHandler, installed
from django_wsmux.handlers.remaking import Origin
from django_wsmux.handlers.socket import DjangoHooks
from django_wsmux.views import WebSocketView

used = []

def middleware(get_response):
    def handle(request):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            used.append((connection.connection, connection.in_atomic_block))
            try:
                cursor.execute("SELECT * FROM nothing")
            except DatabaseError:
                request.failed = True
        return get_response(request)
    return handle

"""
    + IS_OPEN
    + """
urlpatterns = [path("board/", WebSocketView.as_view())]
installed.append(WebSocketHandler())

def view():
    hooks = DjangoHooks(None)
    websocket = WebSocket(RequestFactory().get("/board/").META, conf.options(), hooks)
    hooks.origin = Origin()
    view = WebSocketView()
    view.websocket = websocket
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE mine (number INTEGER)")
            assert view.request.failed
            cursor.execute("INSERT INTO mine VALUES (1)")
    ((raw, is_atomic),) = used
    assert raw is not connection.connection
    assert not is_atomic
    assert is_open(connection.connection)
    while is_open(raw):
        gevent.sleep(0.005)

gevent.spawn(view).get()
"""
)


def test_connections(tmp_path: Path) -> None:
    """Middleware has a connection of its own, outside of the view's transaction, that is closed."""
    result = subprocess.run(
        [sys.executable, "-c", PATCHED, str(tmp_path / "db.sqlite3")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
