"""``handover()`` moves a view, as a deploy does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from django.utils import timezone, translation

from django_wsmux.decorators import websocket_loop
from django_wsmux.exceptions import ConnectionClosed
from django_wsmux.groups import Group
from django_wsmux.test import WebSocketClient, WebSocketTestCase
from django_wsmux.views import WebSocketView
from tests.site import sockets as site

pytestmark = pytest.mark.usefixtures("sockets")

Response = Callable[[HttpRequest], HttpResponse]

#: The views that were opened or restored, and what happened to them.
views: list[Any] = []
events: list[str] = []

tenant: ContextVar[str] = ContextVar("tenant", default="no tenant")

#: The status with which middleware answers after the move; 101 for none.
refusal = [101]


class Board(WebSocketView):
    """Remembers its messages, and answers with what the message asks for."""

    groups = ("board",)
    colours = ("of the class",)

    def connect(self, request: HttpRequest, name: str) -> None:
        self.name = name
        self.seen: list[Any] = []
        self._at = timezone.now()
        views.append(self)

    def receive(self, message: str | bytes) -> None:
        self.seen.append(message)
        match message:
            case "keep a lock":
                self.lock = threading.Lock()
            case "user":
                self.user = self.request.user
                self.send(self.user.get_username())
            case "help":
                self.websocket.spawn(self.websocket.wait)
            case "path":
                self.send(f"{self.request.path} {self.kwargs} {self.colours}")
            case "tenant":
                self.send(f"{tenant.get()} {translation.get_language()}")
            case _:
                self.send_json(self.seen)

    def disconnect(self, code: int, reason: str) -> None:
        events.append(f"disconnect {code}")

    def restore_handover(self, state: Any) -> None:
        super().restore_handover(state)
        events.append("restored")
        views.append(self)


class Lean(Board):
    keep_request = False


class Staying(Board):
    handover = False


class Querying(Board):
    """Uses the database when it must not."""

    def handover_state(self) -> Any:
        return User.objects.count()


class Failing(Board):
    """Does not understand its own state."""

    def restore_handover(self, state: Any) -> None:
        raise ValueError("too old")


class Listening(Board):
    """Handles messages of groups itself."""

    def group_receive(self, message: str | bytes) -> None:
        self.send(f"{len(self.seen)} {message!r}")


def hiding(request: Any) -> Any:
    """A view that hides the class."""
    return Board.as_view()(request, name="hidden")


@websocket_loop
def loop(request: Any, websocket: Any) -> None:
    websocket.send(websocket.receive())


urlpatterns = [
    path("board/<name>/", Board.as_view(colours=("of the URL",))),
    path("lean/<name>/", Lean.as_view()),
    path("staying/<name>/", Staying.as_view()),
    path("querying/<name>/", Querying.as_view()),
    path("failing/<name>/", Failing.as_view()),
    path("listening/<name>/", Listening.as_view()),
    path("hiding/", hiding),
    path("function/", site.function),
    path("loop/", loop),
]


def middleware(get_response: Response) -> Response:
    """Refuse after the move, if the test says so."""

    def handle(request: Any) -> HttpResponse:
        if request.is_handover:
            events.append("middleware")
            if refusal[0] != 101:
                return HttpResponse(status=refusal[0])
        response = get_response(request)
        response.set_cookie("token", "rotated")
        return response

    return handle


def set_tenant(get_response: Response) -> Response:
    """Set a context variable to a header."""

    def handle(request: HttpRequest) -> HttpResponse:
        tenant.set(request.headers["X-Tenant"])
        return get_response(request)

    return handle


def read_user(get_response: Response) -> Response:
    """Read the user, as middleware does that looks for permissions."""

    def handle(request: HttpRequest) -> HttpResponse:
        events.append(request.user.get_username())
        return get_response(request)

    return handle


@pytest.fixture(autouse=True)
def _site(sockets: None) -> Iterator[None]:
    views.clear()
    events.clear()
    refusal[:] = [101]
    with override_settings(
        WEBSOCKET_URLCONF=__name__,
        MIDDLEWARE=[
            f"{__name__}.middleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
    ):
        yield


@pytest.mark.parametrize("kind", ["board", "lean"])
def test_state(client: WebSocketClient, kind: str) -> None:
    """The attributes move to another instance; nothing else happens, and the socket stays."""
    with client.websocket(f"/{kind}/one/") as ws:
        ws.send("a")
        assert ws.receive_json() == ["a"]
        ws.handover()
        assert events == ["restored"]
        old, new = views
        assert new is not old
        assert new.name == "one"
        assert new._at == old._at
        assert (new.args, new.kwargs) == ((), {"name": "one"})
        assert new.seen is not old.seen
        ws.send("b")
        assert ws.receive_json() == ["a", "b"]
        Group("board").send("to all")
        assert ws.receive() == "to all"
        ws.handover()
        ws.send("c")
        assert ws.receive_json() == ["a", "b", "c"]
        assert events == ["restored"] * 2
    assert events == ["restored", "restored", "disconnect 1000"]


def test_request(client: WebSocketClient) -> None:
    """The request is made at its first use, once; options come from the URL."""
    with client.websocket("/board/Zoë/?a=1") as ws:
        ws.handover()
        for _ in range(2):
            ws.send("path")
            assert ws.receive() == "/board/Zoë/ {'name': 'Zoë'} ('of the URL',)"
            assert events == ["restored", "middleware"]
        assert "token" in ws.response.cookies
        ws.handover()
        ws.send("path")
        ws.receive()
    assert events == ["restored", "middleware"] * 2 + ["disconnect 1000"]


def test_group_receive(client: WebSocketClient) -> None:
    """The new view handles the messages of groups."""
    with client.websocket("/listening/one/") as ws:
        ws.send("a")
        ws.receive()
        ws.handover()
        Group("board").send("to all")
        assert ws.receive() == "1 'to all'"


def test_failing(client: WebSocketClient) -> None:
    """What restoring raises is raised here; the socket is closed and its view not told."""
    with client.websocket("/failing/one/") as ws:
        with pytest.raises(ValueError, match="too old"):
            ws.handover()
        assert (ws.close_code, ws.close_reason) == (1012, "service restart")
        with pytest.raises(ConnectionClosed):
            ws.handover()
    assert events == []


def test_attribute(client: WebSocketClient) -> None:
    """An attribute that cannot move is named, and the view continues."""
    with client.websocket("/board/one/") as ws:
        ws.send("keep a lock")
        with pytest.raises(AssertionError, match=r"cannot move: Board.lock is of type "):
            ws.handover()
        ws.send("on")
        assert ws.receive_json() == ["keep a lock", "on"]
    assert events == ["disconnect 1000"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/staying/one/", r"Staying.handover is False"),
        ("/hiding/", r"from which Board cannot be learned: decorators must use functools.wraps"),
        ("/function/", r"is a function view"),
        ("/loop/", r"is a function view.*@websocket_loop"),
    ],
)
def test_views_that_stay(client: WebSocketClient, path: str, reason: str) -> None:
    """A view that does not move is an error that gives the reason; the socket stays open."""
    with client.websocket(path) as ws:
        with pytest.raises(AssertionError, match=reason):
            ws.handover()
        assert not ws.closed


def test_helper(client: WebSocketClient) -> None:
    """A helper cannot move."""
    with client.websocket("/board/one/") as ws:
        websocket = views[0].websocket
        end = threading.Event()
        websocket.on_close(end.set, end.set)  # as spawn() does for a helper that waits
        with pytest.raises(AssertionError, match=r"cannot move: a helper of spawn\(\) runs"):
            ws.handover()


@pytest.mark.django_db
def test_queries(client: WebSocketClient) -> None:
    """A query in ``handover_state()`` is an error here, as it would wait on a server."""
    with client.websocket("/querying/one/") as ws:
        with pytest.raises(AssertionError, match=r"must not wait, but uses the database"):
            ws.handover()
        assert User.objects.count() == 0


@pytest.mark.parametrize(("status", "code"), [(403, 4403), (503, 1013)])
def test_refusal(client: WebSocketClient, status: int, code: int) -> None:
    """Middleware that refuses the request closes the socket when the view looks."""
    with client.websocket("/board/one/") as ws:
        ws.handover()
        refusal[0] = status
        ws.send("unseen")
        assert not ws.closed
        ws.send("path")
        assert ws.close_code == code
    assert events == ["restored", "middleware", f"disconnect {code}"]


@contextmanager
def entering() -> Iterator[None]:
    """A context manager of WEBSOCKET_CONTEXT."""
    events.append("entered")
    yield


def surround(request: HttpRequest) -> Callable[[], Any]:
    """Return it for a request."""
    events.append(f"surround {request.headers['X-Tenant']}")
    return entering


@pytest.mark.parametrize("kind", ["board", "lean"])
def test_context(kind: str) -> None:
    """Where the view depends on the context, it is made again before the state is restored."""
    with override_settings(
        MIDDLEWARE=[f"{__name__}.middleware", f"{__name__}.set_tenant"],
        WEBSOCKET_CONTEXT=[f"{__name__}.surround"],
    ):
        client = WebSocketClient()
        with (
            translation.override("de"),
            client.websocket(f"/{kind}/one/", headers={"X-Tenant": "acme"}) as ws,
        ):
            events.clear()
            ws.handover()
            assert events == ["middleware", "surround acme", "entered", "restored"]
            ws.send("tenant")
            assert ws.receive() == "acme de"


def test_refused_context() -> None:
    """If that is refused, the socket is closed at once."""
    with override_settings(MIDDLEWARE=[f"{__name__}.middleware", f"{__name__}.set_tenant"]):
        client = WebSocketClient()
        with client.websocket("/board/one/", headers={"X-Tenant": "acme"}) as ws:
            refusal[0] = 403
            ws.handover()
            assert ws.close_code == 4403


def test_realtime(client: WebSocketClient) -> None:
    """A socket of ``wsmux.v1`` moves, too."""
    with client.websocket("/board/one/", ["wsmux.v1"]) as ws:
        ws.receive()  # the welcome
        ws.handover()
        ws.send("a")
        assert ws.receive_json() == {"data": ["a"]}


@override_settings(WEBSOCKET_URLCONF=__name__)
class Tests(WebSocketTestCase):
    """Inside the transaction of a test case."""

    def test_user(self) -> None:
        """The user is read again, by view and middleware, with the connection of the test."""
        ann = User.objects.create(username="ann")
        self.client.force_login(ann)
        with self.client.websocket("/board/one/") as ws:
            ws.send("user")
            self.assertReceives(ws, "ann")
            User.objects.update(username="anna")
            ws.handover()
            self.assertEqual(views[-1].user, ann)
            self.assertEqual(views[-1].user.username, "anna")
            ws.send("user")
            self.assertReceives(ws, "anna")

    def test_middleware(self) -> None:
        """Middleware has the connection of the test, too."""
        self.client.force_login(User.objects.create(username="ann"))
        with (
            override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, f"{__name__}.read_user"]),
            self.client.websocket("/board/one/") as ws,
        ):
            ws.handover()
            events.clear()
            ws.send("path")
            self.assertEqual(events, ["middleware", "ann"])

    def test_gone(self) -> None:
        """A row that is gone closes the socket."""
        User.objects.create(username="ann")
        with self.client.websocket("/board/one/") as ws:
            views[-1].other = User.objects.get()
            User.objects.all().delete()
            with self.assertRaisesMessage(LookupError, "is not in the database"):
                ws.handover()
            self.assertClosed(ws, 1012)
