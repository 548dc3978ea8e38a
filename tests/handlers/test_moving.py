"""Sockets that move to another process, here within one: records, views, requests, users."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from ..conftest import StartServer
from ..moved import SETTINGS, ask, code
from ..services import wait_until_said as wait_until
from ..support import TIMEOUT, Server


@pytest.fixture(scope="module")
def site(start_lasting_server: StartServer) -> Server:
    """A site whose sockets move at a request."""
    return start_lasting_server("own", env={"TEST_SETTINGS": json.dumps(SETTINGS)})


@pytest.fixture(params=["", "?back=1"], ids=["taken", "taken-back"])
def move(request: pytest.FixtureRequest, site: Server) -> Callable[[], dict[str, Any]]:
    """Moves all sockets."""
    return lambda: json.loads(site.get(f"/move/{request.param}"))


def codes(site: Server, name: str) -> list[int]:
    """Return the close codes with which ``disconnect()`` has run for sockets of that name."""
    found: list[int] = sorted(json.loads(site.get(f"/reported/{name}/"))["codes"])
    return found


@pytest.mark.parametrize("kind", ["board", "lean", "listening"])
def test_view(site: Server, move: Callable[[], Any], kind: str) -> None:
    """A view goes on with what it remembers, several times; disconnect() runs once."""
    x = uuid4().hex
    with site.connect(f"/{kind}/{x}/7/") as websocket:
        assert ask(websocket, "one") == [x, 7, [7], ["one"]]
        for number in range(3):
            assert move() == {"moved": 1, "refused": []}
            assert ask(websocket, f"{number}")[3][-1] == f"{number}"
        assert ask(websocket, "last") == [x, 7, [7], ["one", "0", "1", "2", "last"]]
        assert not codes(site, x)
    wait_until(lambda: codes(site, x) == [1000])


def test_quiet(site: Server, move: Callable[[], Any]) -> None:
    """A socket that has never spoken moves, and its view learns of the close."""
    name = uuid4().hex
    with site.connect(f"/board/{name}/1/"):
        for _ in range(2):
            assert move()["moved"] == 1
    wait_until(lambda: codes(site, name) == [1000])


def test_groups(site: Server, move: Callable[[], Any]) -> None:
    """It stays in its groups, once, with its info."""
    with site.connect("/board/g/1/") as one, site.connect("/listening/g/2/") as two:
        assert ask(one, "say first") == "first"
        assert two.recv(timeout=TIMEOUT) == "g: first"
        assert move()["moved"] == 2
        two.send("say second")
        assert one.recv(timeout=TIMEOUT) == "second"
        assert two.recv(timeout=TIMEOUT) == "g: second"
        assert ask(one, "x") == ["g", 1, [1], ["x"]]


def test_identity(site: Server, move: Callable[[], Any]) -> None:
    """The user of the cookies is the user afterwards; client and process stay the same."""
    cookie = {"Cookie": site.sign_in("ann")}
    with site.connect("/board/i/1/", additional_headers=cookie) as websocket:
        before = ask(websocket, "who")
        assert before[0] == "ann"
        move()
        assert ask(websocket, "who") == before


def test_anonymous(site: Server, move: Callable[[], Any]) -> None:
    """A view that has stored request.user moves, whether the user was read or not."""
    with site.connect("/board/a/1/") as websocket:
        for _ in range(2):
            assert move() == {"moved": 1, "refused": []}
            assert ask(websocket, "who")[0] == "AnonymousUser"


def test_request(site: Server) -> None:
    """The request is made again by the project's middleware, and says so."""
    with site.connect("/board/r/1/?tenant=t") as websocket:
        assert ask(websocket, "again") == [False, "t t none"]
        json.loads(site.get("/move/"))
        assert ask(websocket, "again") == [True, "t t none"]


def test_loop(site: Server, move: Callable[[], Any]) -> None:
    """A function view that is called for each message goes on, with the same user and context."""
    cookie = {"Cookie": site.sign_in("ann")}
    with site.connect("/loop/l/?tenant=t", additional_headers=cookie) as websocket:
        for number in range(3):
            assert ask(websocket, f"{number}") == f"l ann {number} t"
            assert move() == {"moved": 1, "refused": []}
        assert ask(websocket, "last") == "l ann last t"


def test_unmovable(site: Server, move: Callable[[], Any]) -> None:
    """What cannot move stays, and goes on here: an object, a helper, a view that says so."""
    with (
        site.connect("/board/object/1/") as first,
        site.connect("/board/helper/1/") as second,
        site.connect("/staying/s/1/") as third,
        site.connect("/function/") as fourth,
    ):
        assert ask(first, "remember") == "remembered"
        assert ask(second, "spawn") == "spawned"
        assert fourth.recv(timeout=TIMEOUT) == "function none none none"
        assert sorted(move()["refused"]) == [
            "a helper of spawn() runs",
            "its state cannot move",
            "unwilling",
            "unwilling",
        ]
        assert ask(first, "x")[0] == "object"
        assert ask(second, "x")[0] == "helper"
        assert ask(third, "x")[0] == "s"
        assert ask(fourth, "x") == "x none none none"
    assert "Board are closed with 1012 instead of moving" in site.log
    assert site.log.count("Board.object is of type builtins.object") == 1


def test_rows(site: Server) -> None:
    """A row is read again; if it is gone, the socket is closed with 1012, also a silent one."""
    for name in ("here", "gone"):
        site.get(f"/act/create/{name}/")
    with site.connect("/row/here/") as here, site.connect("/row/gone/") as gone:
        assert ask(here, "x") == ["here", "", "none none none"]
        site.get("/act/rename/here/")
        site.get("/act/delete/gone/")
        json.loads(site.get("/move/"))
        assert ask(here, "x") == ["here", "Renamed", "none none none"]
        assert code(gone) == 1012


def test_failing(site: Server) -> None:
    """A view that cannot be restored gets 1012 and no disconnect(); others are not affected."""
    with site.connect("/failing/") as failing, site.connect("/board/f/1/") as other:
        json.loads(site.get("/move/"))
        failing.send("x")
        assert code(failing) == 1012
        assert ask(other, "x")[0] == "f"
    wait_until(lambda: codes(site, "f") == [1000])
    assert not codes(site, "failing")
    wait_until(lambda: site.log.count("restoring its state raised LookupError") == 1)


@pytest.mark.parametrize("how", ["signed out", "deactivated"])
@pytest.mark.parametrize("path", ["/board/{}/1/", "/lean/{}/1/", "/board/{}/1/?tenant=t"])
def test_user_ends(site: Server, how: str, path: str) -> None:
    """A user who left during the move gets 4401 without speaking; another one stays."""
    name = uuid4().hex
    ann = {"Cookie": site.sign_in("ann")}
    bob = {"Cookie": site.sign_in("bob")}
    with (
        site.connect(path.format(name), additional_headers=ann) as first,
        site.connect(f"/board/{name}/2/", additional_headers=bob) as second,
    ):
        # Changes in the database alone, as if the signals had come during the move.
        site.get(f"/act/{'deactivate' if how == 'deactivated' else 'forget'}/ann/")
        json.loads(site.get("/move/"))
        assert code(first) == 4401
        assert ask(second, "who")[0] == "bob"
    site.get("/act/activate/ann/")
    wait_until(lambda: codes(site, name) == [1000, 4401])


def test_token(site: Server, move: Callable[[], Any]) -> None:
    """A socket that a token opened stays that user's, whatever the cookies say."""
    cookie = {"Cookie": site.sign_in("bob"), "Authorization": "Bearer ann"}
    site.sign_in("ann")
    with site.connect("/bearer/t/1/", additional_headers=cookie) as websocket:
        assert ask(websocket, "who")[0] == "ann"
        move()
        assert ask(websocket, "who")[0] == "ann"


def test_binary_and_close(site: Server, move: Callable[[], Any]) -> None:
    """Messages of any kind are answered once, and the server can close."""
    with site.connect("/board/b/1/") as websocket:
        for size in (0, 1, 100_000):
            websocket.send(bytes(size))
            assert websocket.recv(timeout=TIMEOUT) == bytes(size)
            move()


def test_context_managers(start_server: StartServer) -> None:
    """Context managers of the project surround a moved view, and what it reads when it settles."""
    settings = {**SETTINGS, "WEBSOCKET_CONTEXT": ["tests.project.context.around"]}
    site = start_server("own", env={"TEST_SETTINGS": json.dumps(settings)})
    for name in ("here", "gone"):
        site.get(f"/act/delete/{name}/")
        site.get(f"/act/create/{name}/")
    with (
        site.connect("/row/here/?tenant=a") as first,
        site.connect("/row/here/?tenant=b") as second,
        site.connect("/lean/c/1/?tenant=c") as lean,
        site.connect("/row/gone/?tenant=d") as gone,
    ):
        site.get("/act/delete/gone/")
        assert json.loads(site.get("/move/"))["moved"] == 4
        assert code(gone) == 1012
        for _ in range(2):
            assert ask(first, "x") == ["here", "", "a a a"]
            assert ask(second, "x") == ["here", "", "b b b"]
            assert ask(lean, "x")[0] == "c"
            assert json.loads(site.get("/move/"))["moved"] == 3
