"""Sockets that follow the groups whose signed names pages send."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
from django.contrib.auth.models import User
from django.test import override_settings
from django.urls import path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import Group
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.html import StreamView, names, send_stream
from django_wsmux.test import ClientWebSocket, WebSocketClient

from . import content
from .test_names import sign

URL = "/ws/streams/"


class Careful(StreamView):
    """Allows what ``allowed`` lists; one time less at each question."""

    allowed: ClassVar[list[str]] = []

    def may_follow(self, group: Group) -> bool:
        """Return whether the name is in the list, and remove it."""
        try:
            self.allowed.remove(group.name)
        except ValueError:
            return False
        return True


urlpatterns = [
    path("ws/careful/", Careful.as_view()),
    path("ws/streams/", StreamView.as_view()),
    path("ws/few/", StreamView.as_view(max_streams=2)),
]

HISTORY = {"kept.*": {"messages": 3, "seconds": 600}, "@user:*": {"messages": 3, "seconds": 600}}

SITE: dict[str, Any] = {
    "WEBSOCKET_URLCONF": __name__,
    "WEBSOCKET_HISTORY": HISTORY,
    "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
}


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    """A site whose groups ``kept.*`` keep messages."""
    with override_settings(**SITE):
        yield


def connect(url: str = URL, client: WebSocketClient | None = None) -> ClientWebSocket:
    """Return a socket that has got its welcome."""
    ws = (client or WebSocketClient()).websocket(url, ["wsmux.v1"])
    assert "welcome" in ws.receive_json()
    return ws


@pytest.fixture
def ws() -> Iterator[ClientWebSocket]:
    """A socket of an anonymous user."""
    with connect() as ws:
        yield ws


def own(name: str, **options: Any) -> str:
    """Return a name that is signed for an anonymous user."""
    return sign(name, "", **options)


def ask(ws: ClientWebSocket, signed: Any, **fields: Any) -> Any:
    """Follow; return the frames up to the answer, which is the last."""
    ws.send_json({"type": "follow", "ref": 1, "signed": signed, **fields})
    frames = [ws.receive_json()]
    while "ref" not in frames[-1]:
        frames.append(ws.receive_json())
    return frames


def follow(ws: ClientWebSocket, signed: Any, **fields: Any) -> Any:
    """Follow; return the reply, or the code of the error."""
    answer = ask(ws, signed, **fields)[-1]
    if "errors" not in answer:
        return answer["reply"]
    ((error,),) = answer["errors"].values()
    return error["code"]


def members(name: str) -> int:
    """Return how many sockets are in a group."""
    return len(Group(name).members())


def say(name: str, *texts: str) -> None:
    """Send HTML to a group."""
    for text in texts:
        send_stream(name, "update", target="t", html=text)


def shown(ws: ClientWebSocket, count: int) -> list[str]:
    """Return the texts of the next messages."""
    return [content(ws).split("<template>")[1].split("<")[0] for _ in range(count)]


def test_follow(ws: ClientWebSocket) -> None:
    """A socket that follows a group gets its messages, until it does not any more."""
    assert follow(ws, own("a")) == {"in": "a", "recovered": None}
    say("a", "1")
    assert shown(ws, 1) == ["1"]
    assert ws.request("unfollow", signed=own("a")) is None
    assert members("a") == 0
    say("a", "2")
    assert follow(ws, own("b")) == {"in": "b", "recovered": None}


def test_replay(ws: ClientWebSocket) -> None:
    """What follows the page's position comes after the answer, then what is sent later."""
    group = Group("kept.1")
    say("kept.1", "1")
    at = group.position()
    say("kept.1", "2", "3")
    joined, answer = ask(ws, own("kept.1"), at=at)
    assert joined["joined"]["kept.1"]["recovered"] is True
    assert answer["reply"] == {"in": "kept.1", "recovered": True}
    say("kept.1", "4")
    assert shown(ws, 3) == ["2", "3", "4"]


def test_again(ws: ClientWebSocket) -> None:
    """A follower that asks again gets again what follows the position, and nothing else twice."""
    at = Group("kept.1").position()
    say("kept.1", "1")
    follow(ws, own("kept.1"), at=at)
    say("kept.1", "2")
    assert shown(ws, 2) == ["1", "2"]
    assert follow(ws, own("kept.1"), at=at) == {"in": "kept.1", "recovered": True}
    say("kept.1", "3")
    assert shown(ws, 3) == ["1", "2", "3"]
    assert members("kept.1") == 1


def test_gap(ws: ClientWebSocket) -> None:
    """A position that is too old is a gap, and so is that of a group without a history."""
    at = Group("kept.1").position()
    say("kept.1", "1", "2", "3", "4")
    assert follow(ws, own("kept.1"), at=at) == {"in": "kept.1", "recovered": False}
    say("kept.1", "5")
    assert shown(ws, 1) == ["5"]
    assert follow(ws, own("b"), at=at) == {"in": "b", "recovered": False}
    assert members("b") == 1


def test_rejected(ws: ClientWebSocket) -> None:
    """Names of others, and forged and expired ones, are answered with errors; nothing is joined."""
    assert follow(ws, own("a", age=timedelta(days=8))) == "expired"
    assert follow(ws, sign("a", "user:1")) == "foreign"
    assert follow(ws, sign("a", "session:1")) == "foreign"
    assert follow(ws, own("a")[:-1]) == "invalid"
    assert follow(ws, own("kept.1"), at="nonsense") == "invalid"
    assert members("a") == members("kept.1") == 0
    assert not ws.closed


def test_most() -> None:
    """A socket follows so many groups and no more, however often it asks."""
    with connect("/ws/few/") as ws:
        for name in ("a", "b", "a", "b"):
            assert follow(ws, own(name))["in"] == name
        assert follow(ws, own("c")) == "too_many"
        assert members("c") == 0
        ws.request("unfollow", signed=own("a"))
        assert follow(ws, own("c"))["in"] == "c"


def test_permission() -> None:
    """A view may allow less; also if the permission ends while the socket joins."""
    with connect("/ws/careful/") as ws:
        Careful.allowed[:] = ["kept.1"] * 2 + ["kept.2"]
        at = Group("kept.1").position()
        say("kept.1", "1")
        say("kept.2", "secret")
        for name in ("kept.2", "kept.3"):
            assert follow(ws, own(name), at=at) == "denied"
            assert members(name) == 0
        while ws.peek():
            assert "content" not in ws.receive_json()
        assert follow(ws, own("kept.1"), at=at)["recovered"] is True
        assert shown(ws, 1) == ["1"]
        assert not Careful.allowed


def test_unfollow(ws: ClientWebSocket) -> None:
    """One can leave by an expired name, but not by a forged one; without ``ref`` too."""
    follow(ws, own("a"))
    ws.send_json({"type": "unfollow", "signed": "a:b:c:d"})
    assert ws.receive_json()["errors"]["signed"][0]["code"] == "invalid"
    assert members("a") == 1
    ws.send_json({"type": "unfollow", "signed": own("a", age=timedelta(days=8))})
    ws.send_json({"type": "unfollow", "signed": own("never")})
    assert follow(ws, own("b"))["in"] == "b"
    assert members("a") == 0


@pytest.mark.django_db
def test_users() -> None:
    """A signed-in user follows by names of any session; another user does not."""
    client = WebSocketClient()
    user = User.objects.create(username="ann")
    client.force_login(user)
    with connect(client=client) as ws:
        assert follow(ws, sign("a", f"user:{user.pk}"))["in"] == "a"
        assert follow(ws, sign("b", f"user:{user.pk + 1}")) == "foreign"
        assert follow(ws, own("b")) == "foreign"


@pytest.mark.django_db
def test_own_group() -> None:
    """The group of the user, which sockets are in anyway, is replayed and not left."""
    client = WebSocketClient()
    user = User.objects.create(username="ann")
    client.force_login(user)
    signed = sign("@user", f"user:{user.pk}")
    group = Group.for_user(user)
    at = group.position()
    send_stream(group, "update", target="t", html="1")
    with connect(client=client) as ws:
        assert follow(ws, signed, at=at) == {"in": "@user", "recovered": True}
        assert shown(ws, 1) == ["1"]
        assert follow(ws, signed) == {"in": "@user", "recovered": None}
        ws.request("unfollow", signed=signed)
        ws.handover()
        send_stream(group, "update", target="t", html="2")
        assert shown(ws, 1) == ["2"]
        assert len(group.members()) == 1
    assert len(group.members()) == 0


def test_sessions() -> None:
    """A name of an anonymous user's session is accepted from this session only."""
    owner = names.owner_of(SimpleNamespace(session=SimpleNamespace(session_key="k")))  # type: ignore[arg-type]
    with patch("django_wsmux.html.streams.names.owner_of", return_value=owner), connect() as ws:
        assert follow(ws, sign("a", owner))["in"] == "a"
        assert follow(ws, sign("a", "session:other")) == "foreign"


def test_handover(ws: ClientWebSocket) -> None:
    """Follows, and the right to leave, move with the socket to another process."""
    at = Group("kept.1").position()
    follow(ws, own("kept.1"), at=at)
    follow(ws, own("a"))
    ws.handover()
    say("kept.1", "1")
    say("a", "2")
    assert shown(ws, 2) == ["1", "2"]
    assert follow(ws, own("kept.1"), at=at)["recovered"] is True
    assert shown(ws, 1) == ["1"]
    ws.request("unfollow", signed=own("a"))
    assert members("a") == 0
    assert follow(ws, sign("b", "user:1")) == "foreign"


def test_unavailable(ws: ClientWebSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot receive from others says so."""

    def add(*args: Any) -> None:
        raise BackendUnavailable("local://", "away")

    with monkeypatch.context() as patched:
        patched.setattr(pubsub, "add", add)
        assert follow(ws, own("a")) == "unavailable"
    assert follow(ws, own("a"))["in"] == "a"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    kind=st.sampled_from(["follow", "unfollow"]),
    fields=st.dictionaries(st.sampled_from(["signed", "at", "ref", "more"]), VALUES),
    is_signed=st.booleans(),
)
def test_malformed(ws: ClientWebSocket, kind: str, fields: Any, is_signed: bool) -> None:
    """A malformed message is answered with an error, and joins nothing."""
    if is_signed:
        # Only the rest is malformed.
        fields["signed"] = own("kept.fuzzed") + ("" if "at" in fields else ":")
        if fields.get("at", "") is None:
            fields["at"] = 1
    ws.send_json({"type": kind, **fields})
    assert not ws.closed
    answers = ws.peek()
    if kind == "follow" or not is_signed:
        assert len(answers) == 1
        assert "errors" in ws.receive_json()
    else:
        for _ in answers:
            ws.receive_json()
    assert members("kept.fuzzed") == 0
