"""Presence: who is in a group, what members are told of it, and when someone leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.test import override_settings
from django.urls import path

from django_wsmux.connection.counters import counters
from django_wsmux.decorators import websocket
from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import Group, Present, presence_hooks
from django_wsmux.groups.presence import check_person, presence
from django_wsmux.groups.presence_jobs import jobs
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.groups.watching import watching
from django_wsmux.html import StreamView
from django_wsmux.presence import stores
from django_wsmux.presence.memory import MemoryPresence
from django_wsmux.presence.store import Entry
from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.testing.client import close_all
from django_wsmux.testing.present import expire_presence
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket
from tests.html.test_names import sign

ROOM = Group("room.1")


class Room(WebSocketView):
    """Is present in a room under the key of its URL."""

    def connect(self, request: HttpRequest, key: str) -> None:
        """Be present."""
        ROOM.presence(self.websocket, key, {"name": key.title()})

    def receive(self, message: str | bytes) -> None:
        """Do what the message names."""
        own = self.kwargs["key"]
        match str(message).split():
            case ["info", name]:
                ROOM.presence(self.websocket, own, {"name": name})
            case ["key", key]:
                ROOM.presence(self.websocket, key)
            case ["watch"]:
                ROOM.presence(self.websocket)
            case ["leave"]:
                ROOM.leave(self.websocket)
            case ["again"]:
                ROOM.presence(self.websocket, own, {"name": own.title()})


class Intercepting(Room):
    """Sees the messages of the room first."""

    def group_receive(self, message: str | bytes) -> None:
        """Send it on in brackets."""
        self.send(f"[{message!s}]")


class Named(WebSocketView):
    """Calls the room by another name."""

    def connect(self, request: HttpRequest, key: str) -> None:
        """Join, and be present."""
        ROOM.join(self.websocket, alias="here")
        ROOM.presence(self.websocket, key)


class Watcher(WebSocketView):
    """Is told who is present in the room."""

    def connect(self, request: HttpRequest) -> None:
        """Watch."""
        ROOM.presence(self.websocket)


class Refusing(WebSocketView):
    """Is present, and then refuses."""

    def connect(self, request: HttpRequest) -> None:
        """Be present; refuse."""
        ROOM.presence(self.websocket, "refused")
        self.close(4000)


class Streams(StreamView):
    """Is present in the streams that its page follows."""

    def may_follow(self, group: Group) -> bool:
        """Be present."""
        group.presence(self.websocket, "page")
        return True


@websocket
def function(request: HttpRequest, websocket: WebSocket, key: str) -> None:
    """Be present until "out" arrives."""
    with ROOM.joined(websocket):
        ROOM.presence(websocket, key, {"name": key})
        for message in websocket:
            if message == "out":
                break
    if not websocket.closed:
        websocket.send("out")
        websocket.receive()


urlpatterns = [
    path("room/<key>/", Room.as_view()),
    path("first/<key>/", Intercepting.as_view()),
    path("named/<key>/", Named.as_view()),
    path("watch/", Watcher.as_view()),
    path("refusing/", Refusing.as_view()),
    path("streams/", Streams.as_view()),
    path("function/<key>/", function),
]


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    """A site with a store of its own."""
    with override_settings(
        WEBSOCKET_URLCONF=__name__,
        WEBSOCKET_BACKEND="memory://",
        WEBSOCKET_HISTORY={"kept.*": {"messages": 2, "seconds": 600}},
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    ):
        yield
        close_all()


def connect(url: str) -> ClientWebSocket:
    """Return a socket of ``wsmux.v1`` that has got its welcome."""
    ws = WebSocketClient().websocket(url, ["wsmux.v1"])
    assert "welcome" in ws.receive_json()
    return ws


def told(ws: ClientWebSocket, name: str = "room.1") -> list[Any]:
    """Return what a client was told about a room."""
    found = []
    while ws.peek():
        frame = ws.receive_json()
        if frame == {"left": [name]}:
            found.append("left")
            continue
        assert frame.pop("in") == name
        found.append(frame.pop("presence"))
        assert not frame
    return found


def keys() -> list[str]:
    """Return the keys that are present."""
    return [each.key for each in ROOM.present()]


def info_of(key: str) -> Any:
    """Return what others see of a key that is present."""
    return {each.key: each.info for each in ROOM.present()}[key]


class Away:
    """A store that can be switched off."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.is_away = False
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        if self.is_away:
            raise BackendUnavailable("redis://x", "switched off")
        return getattr(self.store, name)


@pytest.fixture
def away() -> Away:
    """The store, which can be switched off."""
    store = Away(jobs.store())
    backend, url, _ = jobs._store or (None, "", None)
    jobs._store = backend, url, store  # type: ignore[assignment]
    return store


def test_list_and_changes() -> None:
    """Each new member gets the whole list; the others get one event."""
    ada = connect("/room/ada/")
    assert told(ada) == [{"all": {"ada": {"name": "Ada"}}}]
    bob = connect("/room/bob/")
    assert told(bob) == [{"all": {"ada": {"name": "Ada"}, "bob": {"name": "Bob"}}}]
    assert told(ada) == [{"joined": {"bob": {"name": "Bob"}}}]
    before = datetime.now(UTC)
    first, second = ROOM.present()
    assert (first.key, first.info) == ("ada", {"name": "Ada"})
    assert first.since <= second.since <= before
    assert isinstance(first, Present)
    bob.close()
    assert told(ada) == []
    assert keys() == ["ada", "bob"]
    expire_presence()
    assert told(ada) == [{"left": ["bob"]}]
    assert keys() == ["ada"]


def test_reload() -> None:
    """Someone whose page is loaded again does not leave; the new page gets the list."""
    ada, bob = connect("/room/ada/"), connect("/room/bob/")
    told(ada)
    bob.close()
    bob = connect("/room/bob/")
    assert told(bob)[0].keys() == {"all"}
    expire_presence()
    assert told(ada) == []
    assert keys() == ["ada", "bob"]


def test_returning_client() -> None:
    """A client that returns with its id is present once, and leaves once."""
    ada, bob = connect("/room/ada/"), connect("/room/bob/")
    told(ada)
    told(bob)
    bob.cut()
    bob.resume()
    assert "welcome" in bob.receive_json()
    expire_presence()
    assert [*told(ada), *keys()] == ["ada", "bob"]
    bob.close()
    expire_presence()
    assert told(ada) == [{"left": ["bob"]}]


def test_last_connection_of_a_process(away: Away) -> None:
    """Someone stays present for the whole time, even if the process has no other connection."""
    connect("/room/ada/").close()
    for _ in range(3):
        away.store.advance(10.0)
        presence._look()
    assert keys() == ["ada"]
    expire_presence()
    assert keys() == []


def test_two_tabs() -> None:
    """A second tab makes no event; the last one leaves."""
    ada, one, two = (connect(f"/room/{name}/") for name in ("ada", "bob", "bob"))
    assert told(ada)[-1] == {"joined": {"bob": {"name": "Bob"}}}
    one.close()
    expire_presence()
    assert told(ada) == []
    two.close()
    expire_presence()
    assert told(ada) == [{"left": ["bob"]}]


def test_changes_of_one_socket() -> None:
    """Another info is a join; another key leaves the old one; a watcher is not in the list."""
    ada, bob = connect("/room/ada/"), connect("/room/bob/")
    told(ada)
    bob.send("info Robert")
    assert told(ada) == [{"joined": {"bob": {"name": "Robert"}}}]
    bob.send("key rob")
    assert told(ada) == [{"joined": {"rob": None}, "left": ["bob"]}]
    told(bob)
    bob.send("watch")
    assert told(ada) == [{"left": ["rob"]}]
    assert told(bob) == [{"all": {"ada": {"name": "Ada"}}}]
    bob.send("again")
    assert [*told(ada)[0], *told(bob)[0]] == ["joined", "all"]
    ada.send("again")
    assert [told(ada)[0].keys(), told(bob)] == [{"all"}, []]


def test_newest_info() -> None:
    """Of several sockets with one key, the newest info counts."""
    ada, one, two = (connect(f"/room/{name}/") for name in ("ada", "bob", "bob"))
    told(ada)
    one.send("info One")
    assert told(ada) == [{"joined": {"bob": {"name": "One"}}}]
    two.send("info Two")
    assert told(ada) == [{"joined": {"bob": {"name": "Two"}}}]


def test_leaving_while_open() -> None:
    """Who leaves the group, or is removed, leaves at once; it is told so, and nothing more."""
    ada, bob, eve = (connect(f"/room/{name}/") for name in ("ada", "bob", "eve"))
    for ws in (ada, bob, eve):
        told(ws)
    bob.send("leave")
    assert keys() == ["ada", "eve"]
    assert told(ada) == [{"left": ["bob"]}]
    assert told(bob) == ["left"]
    bob.send("again")
    assert keys() == ["ada", "eve", "bob"]
    told(ada)
    with WebSocketClient().websocket("/function/tim/", ["wsmux.v1"]) as tim:
        told(ada)
        tim.send("out")
        assert told(ada) == [{"left": ["tim"]}]


@pytest.mark.django_db
def test_removal() -> None:
    """``remove(user=)`` lets the user leave at once."""
    from django.contrib.auth.models import User

    user = User.objects.create_user("kim")
    client = WebSocketClient()
    client.force_login(user)
    ada, kim = connect("/room/ada/"), client.websocket("/room/kim/", ["wsmux.v1"])
    told(ada)
    ROOM.remove(user=user)
    assert told(ada) == [{"left": ["kim"]}]
    assert not kim.closed
    mine = Group.for_user(user)
    mine.presence(pubsub_member(mine), "kim")
    assert [each.key for each in mine.present()] == ["kim"]
    frames = [kim.receive_json() for _ in kim.peek()]
    assert frames[-1] == {"in": "@user", "presence": {"all": {"kim": None}}}


def pubsub_member(group: Group) -> Any:
    """Return the only member of a group."""
    from django_wsmux.groups.pubsub import members

    (member,) = members.of(group.key())
    return member


def test_closed_group() -> None:
    """The sockets that ``Group.close()`` closes leave later, like any that ends."""
    watcher, ada = connect("/room/watcher/"), connect("/room/ada/")
    told(watcher)
    Group.for_connection(pubsub_client("ada")).close()
    assert ada.closed
    assert told(watcher) == []
    expire_presence()
    assert told(watcher) == [{"left": ["ada"]}]


def pubsub_client(key: str) -> str:
    """Return the id of the client that is present under a key."""
    (member,) = [each for each, entry in presence._own["room.1"].items() if entry.key == key]
    assert isinstance(member, WebSocket)
    return member.client_id


def test_kinds_of_views() -> None:
    """Function views, aliases, views that see messages first, watchers, plain sockets, streams."""
    ada = connect("/first/ada/")
    assert told(ada) == [{"all": {"ada": {"name": "Ada"}}}]
    ROOM.send("hi")
    assert ada.receive_json() == {"text": "[hi]"}
    watcher, named = connect("/watch/"), connect("/named/bob/")
    assert told(named, "here")[0]["all"].keys() == {"ada", "bob"}
    assert [list(each) for each in told(watcher)] == [["all"], ["joined"]]
    fun = connect("/function/fun/")
    assert told(fun)[0]["all"].keys() == {"ada", "bob", "fun"}
    assert told(named, "here") == [{"joined": {"fun": {"name": "fun"}}}]
    with WebSocketClient().websocket("/room/plain/") as plain:
        assert told(watcher)[-1] == {"joined": {"plain": {"name": "Plain"}}}
        assert plain.peek() == []


def test_streams() -> None:
    """The socket of the streams of a page may be present in them."""
    page = connect("/streams/")
    page.request("follow", signed=sign("room.1", ""))
    frames = [page.receive_json() for _ in page.peek()]
    (found,) = [frame["presence"] for frame in frames if "presence" in frame]
    assert found == {"all": {"page": None}}


def test_refused_handshake() -> None:
    """A view that closes in ``connect()`` was present for a moment; then it leaves."""
    with WebSocketClient().websocket("/refusing/") as ws:
        assert ws.close_code == 4000
    expire_presence()
    assert keys() == []


def test_tenants() -> None:
    """Groups of tenants are separate, and so is their presence."""
    ada = connect("/room/ada/")
    told(ada)
    with override_settings(WEBSOCKET_GROUP_PREFIX="tests.groups.test_moving.prefix"):
        blue = connect("/room/bob/")
        assert told(blue) == [{"all": {"bob": {"name": "Bob"}}}]
        assert keys() == ["bob"]
        blue.send("leave")
        assert keys() == []
    assert keys() == ["ada"]
    assert told(ada) == []


def test_gap() -> None:
    """A client that is told of a gap gets the whole list again."""
    with override_settings(WEBSOCKET_HISTORY={"room.*": {"messages": 2, "seconds": 600}}):
        ada = connect("/room/ada/")
        told(ada)
        ROOM.send("hi")
        assert ada.receive_json()["text"] == "hi"
        ROOM.forget()
        frames = [ada.receive_json() for _ in ada.peek()]
        assert frames[0].keys() == {"gap"}
        assert frames[1]["presence"].keys() == {"all"}


def test_history() -> None:
    """With a history, a client is told once that it has left, and the list under a new name."""
    with override_settings(WEBSOCKET_HISTORY={"room.*": {"messages": 2, "seconds": 600}}):
        ada = connect("/room/ada/")
        told(ada)
        ROOM.join(pubsub_member(ROOM), alias="here")
        assert [ada.receive_json().keys() for _ in "12"] == [{"left"}, {"joined"}]
        assert told(ada, "here") == [{"all": {"ada": {"name": "Ada"}}}]
        ada.send("leave")
        assert keys() == []
        assert told(ada, "here") == ["left"]


def test_arguments() -> None:
    """Bad keys and infos are refused, whether the socket is open or not."""
    key = UUID(int=1)
    assert check_person(7, None) == ("7", "null")
    assert check_person(key, {"a": "é"}) == (str(key), '{"a":"\\u00e9"}')
    assert check_person(None, None) is None
    assert check_person("k", {"a": "x" * 4088}) is not None
    for wrong in ("", "x" * 201, "a\nb", "\ud800"):
        with pytest.raises(ValueError, match="1 to 200 characters"):
            check_person(wrong, None)
    with pytest.raises(ValueError, match="4097 bytes"):
        check_person("k", {"a": "x" * 4089})
    assert check_person(None, {"name": "of no one"}) is None
    with pytest.raises(ValueError, match="JSON compliant"):
        check_person("k", {"a": float("nan")})
    for info in ("text", [1]):
        with pytest.raises(TypeError, match="mapping"):
            check_person("k", info)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ROOM.presence(None, "k")  # type: ignore[arg-type]
    ada = connect("/room/ada/")
    member = pubsub_member(ROOM)
    with pytest.raises(ValueError, match="one connection"):
        Group.for_connection(member.client_id).presence(member, "k")
    ada.close()
    ROOM.presence(member, "late")
    expire_presence()
    assert keys() == []


def test_store_away(away: Away, caplog: pytest.LogCaptureFixture) -> None:
    """While the store is away, nothing raises or closes; afterwards everything is right."""
    ada, bob, tim = (connect(f"/room/{name}/") for name in ("ada", "bob", "tim"))
    told(ada)
    before = counters["presence_failed"]
    away.is_away = True
    bob.send("info Robert")
    tim.send("leave")
    eve = connect("/room/eve/")
    with pytest.raises(BackendUnavailable):
        ROOM.present()
    assert told(eve) == told(ada) == []
    assert counters["presence_failed"] > before
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    away.is_away = False
    presence._look()
    assert keys() == ["ada", "bob", "eve"]
    (changes,) = told(ada)
    assert changes == {
        "joined": {"bob": {"name": "Robert"}, "eve": {"name": "Eve"}},
        "left": ["tim"],
    }
    assert told(eve)[0].keys() == {"all"}
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_interrupted_view(away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a view is interrupted while the store is busy, the sweep enters its socket."""

    class Interrupted(BaseException):
        pass

    def interrupt(*args: Any) -> None:
        raise Interrupted

    ada = connect("/room/ada/")
    member = pubsub_member(ROOM)
    with monkeypatch.context() as patch:
        patch.setattr(away, "enter", interrupt, raising=False)
        with pytest.raises(Interrupted):
            ROOM.presence(member, "bob")
    told(ada)
    presence._look()
    assert keys() == ["bob"]


def test_bug_with_one_group(away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that cannot be stored does not hold up the others."""
    connect("/room/ada/")
    member = pubsub_member(ROOM)
    away.is_away = True
    for name in ("a", "b"):
        Group(name).presence(member, "ada")
    away.is_away = False
    enter = away.store.enter

    def choosy(group: str, *args: Any) -> Any:
        if group == "a":
            raise ValueError("a bug")
        return enter(group, *args)

    with monkeypatch.context() as patch:
        patch.setattr(away.store, "enter", choosy)
        presence._look()
    assert [len(away.store.read(name).joined) for name in ("a", "b")] == [0, 1]
    presence._look()
    assert [len(away.store.read(name).joined) for name in ("a", "b")] == [1, 1]


def test_order() -> None:
    """Another ``info`` changes the order of the list no more than another page does."""
    ada, _, _ = (connect(f"/room/{name}/") for name in ("ada", "bob", "ada"))
    ada.send("info Augusta")
    assert keys() == ["ada", "bob"]


def test_lost_store(away: Away) -> None:
    """A store that has lost everything gets all rows again; watchers get the whole list."""
    ada = connect("/room/ada/")
    told(ada)
    away.store = MemoryPresence()
    presence._look()
    assert keys() == ["ada"]
    assert told(ada) == [{"all": {"ada": {"name": "Ada"}}}]


def test_older_info(away: Away) -> None:
    """A socket that is entered again, or moves, does not bring back an older ``info``."""
    ada, one, two = (connect(f"/room/{name}/") for name in ("ada", "bob", "bob"))
    one.send("info Robert")
    told(ada)
    member = next(m for m, e in presence._own["room.1"].items() if "Robert" not in e.info)
    state = presence.state_of("room.1", member)
    assert state is not None
    presence.restore("room.1", member, state)
    presence.take_turn()
    assert [told(ada), info_of("bob")] == [[], {"name": "Robert"}]
    two.send("info Bobby")
    assert told(ada) == [{"joined": {"bob": {"name": "Bobby"}}}]
    away.store = MemoryPresence()
    presence._look()
    assert info_of("bob") == {"name": "Bobby"}
    told(ada)
    presence._enter_all()
    away.is_away = True
    presence._change("room.1")
    away.is_away = False
    presence._look()
    assert [told(ada), info_of("bob")] == [[], {"name": "Bobby"}]


def test_other_process(away: Away) -> None:
    """What other processes change is found by a hint, or else by the sweep; they may die."""
    ada = connect("/room/ada/")
    told(ada)
    store = jobs.store()
    version = store.enter("room.1", [Entry("x.1", "eve", "null")], "x")
    assert told(ada) == []
    presence_hooks.installed.hinted("room.1", version)  # type: ignore[union-attr]
    assert told(ada) == [{"joined": {"eve": None}}]
    store.enter("room.1", [Entry("x.2", "mia", "null")], "x")
    presence._look()
    assert told(ada) == [{"joined": {"mia": None}}]
    away.store.advance(15.0)
    presence._look()
    (changes,) = told(ada)
    assert sorted(changes["left"]) == ["eve", "mia"]
    assert keys() == ["ada"]


def test_no_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """``present()`` reads the store and asks no process."""

    def refuse(*args: Any) -> None:
        raise AssertionError("asked")

    connect("/room/ada/")
    monkeypatch.setattr(pubsub, "ask_all", refuse)
    assert keys() == ["ada"]


def test_nothing_is_kept() -> None:
    """Once all have left, this process keeps nothing about them."""
    for name in ("ada", "bob"):
        connect(f"/room/{name}/").close()
    expire_presence()
    presence.take_turn()
    assert not {**presence._own, **presence._new, **presence._gone}
    assert watching.is_idle
    assert not watching._latest
    assert not watching._stale


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child() -> None:
    """A forked child has no entries of its parent."""
    connect("/room/ada/")
    process = presence._process
    pid = os.fork()
    if not pid:
        try:
            is_new = presence._process != process and not presence._own and watching.is_idle
            os._exit(0 if is_new else 1)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == 0
    assert presence._own


def test_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend without a store is an error that names the setting."""
    monkeypatch.delitem(stores._chosen._kinds, "memory")
    with pytest.raises(ImproperlyConfigured, match="WEBSOCKET_HISTORY_STORE"):
        ROOM.present()
