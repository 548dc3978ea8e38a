"""Groups as views and pages use them: names, prefixes of tenants, JSON, commits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.http import HttpResponse
from django.test import override_settings
from django.urls import path

from django_wsmux.connection.counters import counters
from django_wsmux.decorators import websocket
from django_wsmux.groups import Group, Member
from django_wsmux.groups.pubsub import members, pubsub
from django_wsmux.test import WebSocketClient
from django_wsmux.views import WebSocketView

pytestmark = pytest.mark.usefixtures("sockets")

#: Created at import, when no tenant is active.
LOBBY = Group("lobby")

VALUE = {"when": date(2026, 5, 1), "price": Decimal("1.50"), "id": UUID(int=7)}
WRITTEN = {"when": "2026-05-01", "price": "1.50", "id": str(UUID(int=7))}

#: The active tenant; an exception is raised.
tenant: list[Any] = ["a"]


#: The same, set by middleware during a request.
requested: ContextVar[str | None] = ContextVar("requested", default=None)


def middleware(get_response: Any) -> Any:
    """Set the tenant that the query names."""

    def set_tenant(request: Any) -> Any:
        token = requested.set(request.GET.get("tenant"))
        try:
            return get_response(request)
        finally:
            requested.reset(token)

    return set_tenant


def prefix() -> Any:
    """Return the prefix of the active tenant."""
    if (name := requested.get()) is not None:
        return name
    if isinstance(tenant[0], Exception):
        raise tenant[0]
    return tenant[0]


@contextmanager
def active(name: Any) -> Iterator[None]:
    """Activate a tenant."""
    before, tenant[0] = tenant[0], name
    try:
        yield
    finally:
        tenant[0] = before


@websocket
def lobby(request: Any, websocket: Any) -> None:
    """Join the lobby until a message says "leave"; send JSON messages as JSON."""
    LOBBY.join(websocket, {"name": request.GET.get("name"), "since": date(2026, 5, 1)})
    for message in websocket:
        if message == "leave":
            LOBBY.leave(websocket)
            websocket.send("left")
        elif message == "json":
            websocket.send_json(VALUE)
        elif message == "group json":
            LOBBY.send_json(VALUE)


@websocket
def visitor(request: Any, websocket: Any) -> None:
    """Join the lobby within a block."""
    with LOBBY.joined(websocket):
        websocket.receive()
    websocket.send("left")
    websocket.receive()


class Event(WebSocketView):
    """Receives the messages to its user."""


def undecorated(request: Any) -> HttpResponse:
    """Accept with the first use of the socket."""
    request.websocket.receive()
    return HttpResponse()


urlpatterns = [
    path("lobby/", lobby),
    path("visitor/", visitor),
    path("event/", Event.as_view()),
    path("undecorated/", undecorated),
]

SITE = override_settings(WEBSOCKET_URLCONF=__name__)
PREFIXED = override_settings(
    WEBSOCKET_URLCONF=__name__, WEBSOCKET_GROUP_PREFIX="tests.groups.test_group.prefix"
)


@pytest.mark.parametrize(
    "name",
    ["josé", "房间 1", "x" * 200, "😀" * 200, "a@b.example", "{slot}", " ", "<b>&'\"", "\u2028"],
)
@SITE
def test_names(name: str, client: WebSocketClient) -> None:
    """A name may be any text."""
    with client.websocket("/lobby/") as ws:
        group = Group(name)
        group.join(ws_of("lobby"))
        group.send("hello")
        assert ws.peek() == ["hello"]
        assert (group.name, group.count()) == (name, 1)


def ws_of(name: str) -> Any:
    """Return the server's end of the only socket in a group."""
    (websocket,) = members.of(name)
    return websocket


@pytest.mark.parametrize(
    "name",
    [
        "",
        "@people",
        "@user:1",
        "x" * 201,
        "a\nb",
        "a\x00",
        "a\x1fb",
        "\x7f",
        "\x85",
        "\ud800",
        7,
        None,
    ],
)
def test_bad_names(name: Any) -> None:
    """Control characters, lone surrogates and the groups of users are refused."""
    with pytest.raises(ValueError, match="use 1 to 200 characters, no control characters"):
        Group(name)


@PREFIXED
def test_tenants(client: WebSocketClient) -> None:
    """One Group object is a separate group in each tenant, with the same name."""
    with ExitStack() as stack:
        of_a = stack.enter_context(client.websocket("/lobby/?name=a"))
        with active("b"):
            of_b = stack.enter_context(client.websocket("/lobby/?name=b"))
            LOBBY.send("to b")
            assert LOBBY.members() == [Member(None, {"name": "b", "since": "2026-05-01"})]
        LOBBY.send("to a")
        assert LOBBY.count() == 1
        assert (of_a.peek(), of_b.peek()) == (["to a"], ["to b"])
        with active(""):
            LOBBY.send("to no one")
        with active("b"):
            LOBBY.close(4000, "closed")
        assert of_b.close_code == 4000
        assert of_a.peek() == ["to a"]
    assert (LOBBY.name, repr(LOBBY), Group("lobby") == LOBBY) == ("lobby", "<Group lobby>", True)
    assert not members._groups
    assert not members._infos


@pytest.mark.parametrize("url", ["/lobby/", "/visitor/"])
@PREFIXED
def test_leave_under_another_prefix(client: WebSocketClient, url: str) -> None:
    """A member leaves the group that it joined, whichever tenant is active, or none."""
    with client.websocket(url) as ws:
        with active(LookupError("no tenant")):
            ws.send("leave")
            assert ws.receive() == "left"
        LOBBY.send("after")
        assert ws.peek() == []
        assert not members._groups


@PREFIXED
def test_member_of_two_tenants(client: WebSocketClient) -> None:
    """A socket in the groups of two tenants leaves that of the active one."""
    with client.websocket("/lobby/") as ws:
        socket = ws_of(("a", "lobby"))  # type: ignore[arg-type]
        with active("b"):
            LOBBY.join(socket)
            LOBBY.send("from b")
        LOBBY.send("from a")
        LOBBY.leave(socket)
        LOBBY.send("from a, too late")
        with active("b"):
            LOBBY.send("from b again")
        assert ws.peek() == ["from b", "from a", "from b again"]
    assert not members._groups


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (LookupError("no tenant"), "raised LookupError: no tenant"),
        (None, "must return a string, not None"),
        (b"a", "must return a string, not b'a'"),
        ("a\nb", "no control characters"),
        ("x" * 201, "at most 200 characters"),
    ],
)
@PREFIXED
def test_bad_prefix(returned: Any, said: str) -> None:
    """The error names the setting, its value and the problem."""
    with active(returned), pytest.raises(ImproperlyConfigured) as caught:
        LOBBY.send("x")
    assert said in str(caught.value)
    assert "WEBSOCKET_GROUP_PREFIX ('tests.groups.test_group.prefix')" in str(caught.value)


@pytest.mark.django_db
@PREFIXED
def test_bad_prefix_and_a_user(caplog: pytest.LogCaptureFixture) -> None:
    """Without a prefix, a user can still be saved and deleted; the failure is logged."""
    user = User.objects.create(username="ann")
    user.is_active = False
    with active(LookupError("no tenant")):
        user.save()
        user.delete()
    assert caplog.text.count("not closed: WEBSOCKET_GROUP_PREFIX") == 2


@SITE
def test_connection(client: WebSocketClient) -> None:
    """A group of one connection reaches one socket, of any kind, as long as it is open."""
    with client.websocket("/lobby/") as first, client.websocket("/lobby/") as second:
        ids = [each.client_id for each in members.of("lobby")]  # type: ignore[attr-defined]
        assert ids[0] != ids[1]
        group = Group.for_connection(ids[1])
        group.send("to the second")
        Group.for_connection(f"{ids[0]}.page").send_json({"to": "the first"})
        assert (first.peek(), second.peek()) == (['{"to": "the first"}'], ["to the second"])
        assert group.count() == 1
        group.send("excluded", exclude=ids[1])
        group.close(4000, "done")
        assert second.close_code == 4000
        assert group.count() == 0
        group.send("nowhere")
        assert first.peek() == ['{"to": "the first"}']
    assert not members._groups


@PREFIXED
def test_connection_of_a_tenant(client: WebSocketClient) -> None:
    """The id of a client needs no prefix."""
    with client.websocket("/lobby/") as ws:
        group = Group.for_connection(ws_of(("a", "lobby")).client_id)  # type: ignore[arg-type]
        with active("b"):
            group.send("from b")
        assert ws.peek() == ["from b"]


@pytest.mark.parametrize("client_id", ["", "a b", "ü", "x" * 101, None, 7])
def test_bad_connection(client_id: Any) -> None:
    """The error says where an id comes from."""
    with pytest.raises(ValueError, match=r"not the id of a client: use websocket\.client_id"):
        Group.for_connection(client_id)


@override_settings(WEBSOCKET_HISTORY={"@*": {"messages": 5, "seconds": 60}})
def test_connection_without_history() -> None:
    """Messages to one connection are never kept."""
    assert Group.for_user(7).has_history
    assert not Group.for_connection("x").has_history


@pytest.mark.django_db(transaction=True)
@SITE
def test_remove(client: WebSocketClient) -> None:
    """The sockets of a user leave one group when the transaction commits, and stay open."""
    user = User.objects.create(pk=7, username="ann")
    with client.websocket("/lobby/") as other:
        client.force_login(user)
        with client.websocket("/lobby/") as first, client.websocket("/lobby/") as second:
            with transaction.atomic():
                LOBBY.remove(user=user, on_commit=True)
                LOBBY.send("before")
            LOBBY.remove(user=8)
            Group("elsewhere").remove(user=7)
            LOBBY.send("after")
            Group.for_user(user).send("still here")
            assert first.peek() == second.peek() == ["before", "still here"]
            assert other.peek() == ["before", "after"]
            assert LOBBY.members() == [Member(None, {"name": None, "since": "2026-05-01"})]
            # The view may join again.
            LOBBY.join(ws_of_user(7))
            LOBBY.send("again")
            assert "again" in [*first.peek(), *second.peek()]


def ws_of_user(user_id: int) -> Any:
    """Return the server's end of a socket of a user."""
    return members.of(f"@user:{user_id}")[0]


@pytest.mark.django_db(transaction=True)
@PREFIXED
def test_commit_in_another_tenant(client: WebSocketClient) -> None:
    """A message that waits for the commit goes to the tenant that was active when it was sent."""
    with client.websocket("/lobby/") as of_a, active("b"), client.websocket("/lobby/") as of_b:
        with transaction.atomic():
            with active("a"):
                LOBBY.send("to a", on_commit=True)
            assert of_a.peek() == []
        assert (of_a.peek(), of_b.peek()) == (["to a"], [])


@pytest.mark.django_db
@PREFIXED
def test_users_and_sessions() -> None:
    """A user's group has the tenant's prefix; a session's key is unique without one."""
    assert Group.for_user(7).key() == ("a", "@user:7")
    assert Group.for_session("s" * 32).key() == Group.for_session("s" * 32).name
    with active("b"):
        assert Group.for_user(7).key() == ("b", "@user:7")
    assert Group.for_user(7) == Group.for_user("7")


@pytest.mark.django_db
@pytest.mark.parametrize("url", ["/event/", "/visitor/", "/undecorated/"])
@PREFIXED
def test_tenant_of_the_middleware(client: WebSocketClient, url: str) -> None:
    """A user's socket is in the group of the tenant that the view has seen."""
    client.force_login(User.objects.create(pk=7, username="ann"))
    chain = [*settings.MIDDLEWARE, "tests.groups.test_group.middleware"]
    with override_settings(MIDDLEWARE=chain), client.websocket(f"{url}?tenant=c") as ws:
        Group.for_user(7).send("to a")
        with active("c"):
            Group.for_user(7).send("to c")
        assert ws.receive() == "to c"
    assert not members._groups


AWAY = "redis://127.0.0.1:1"


@pytest.mark.django_db(transaction=True)
def test_commit_without_a_broker(caplog: pytest.LogCaptureFixture) -> None:
    """The commit succeeds; the failure is logged and counted, and later hooks run."""
    done: list[str] = []
    before = counters["group_publish_failed"]
    with override_settings(WEBSOCKET_BACKEND=AWAY):
        with transaction.atomic():
            User.objects.create(username="ann")
            Group("room").send("stored", on_commit=True)
            Group("room").close(4000, on_commit="default")
            transaction.on_commit(lambda: done.append("later"))
        pubsub.backend()
    pubsub.backend()
    assert User.objects.filter(username="ann").exists()
    assert done == ["later"]
    assert counters["group_publish_failed"] == before + 2
    assert caplog.text.count("<Group room>: other processes cannot be reached: redis://") == 2


@pytest.mark.django_db(transaction=True)
def test_error_after_commit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error after the commit is logged, and later hooks run."""

    def fail(*args: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Group, "_publish", fail)
    done: list[str] = []
    with transaction.atomic():
        Group("room").send("x", on_commit=True)
        transaction.on_commit(lambda: done.append("later"))
    assert done == ["later"]
    assert "in on_commit()" in caplog.text
