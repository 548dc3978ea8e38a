"""Tickets and tokens on the wire: who gets in, only once, and that no log shows them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.conftest import StartServer, need
from tests.gauges import wait_until
from tests.sample_site.conftest import OpenWindow, open_window, wait_for
from tests.services import RedisServer
from tests.support import ROOT, SERVERS, TIMEOUT, Server, handshake

__all__ = ["open_window"]

#: A token that appears nowhere else; of a user, and of no one.
TOKEN = "d15t1nct1ve.T0ken"
NOBODYS = "unkn0wn.T0ken"

APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "rest_framework.authtoken",
    "django_wsmux",
]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A cache that all workers share."""
    need("redis-server")
    redis = RedisServer(tmp_path_factory.mktemp("redis"))
    yield redis
    redis.stop()


@pytest.fixture(scope="module")
def site(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of servers with the sockets of ``tests.project.tokens``, logging a lot."""
    settings = {
        "INSTALLED_APPS": APPS,
        "ROOT_URLCONF": "tests.project.tokens",
        "WEBSOCKET_URLCONF": "tests.project.tokens",
        "CACHES": {
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": redis.url,
            }
        },
    }
    env = {
        "TEST_DATABASE": str(tmp_path_factory.mktemp("tokens") / "db.sqlite3"),
        "TEST_SETTINGS": json.dumps(settings),
        "TEST_DEBUG": "1",
    }
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "-v0", "--settings=tests.project.settings"],
        env={**os.environ, **env},
        cwd=ROOT,
        check=True,
    )
    return env


LOUD = ("--access-logfile", "-", "--log-level", "debug")


@pytest.fixture(scope="module", params=SERVERS)
def door(
    request: pytest.FixtureRequest, start_lasting_server: StartServer, site: dict[str, str]
) -> Server:
    """Every server, with verbose logs."""
    options = () if request.param == "runserver" else LOUD
    server = start_lasting_server(request.param, *options, env=site)
    server.get(f"/token/?user=bob&token={TOKEN}")
    return server


def sign_in(server: Server, user: str = "ann") -> dict[str, str]:
    """Return the headers of a user's browser."""
    headers = server.request(f"/login/?user={user}").headers.get_all("Set-Cookie")
    return {"Cookie": "; ".join(header.partition(";")[0] for header in headers or ())}


def ticket_for(server: Server, path: str, headers: dict[str, str]) -> str:
    """Return a ticket for the user of these headers."""
    response = server.request(f"/ticket/?path={path}", headers)
    assert response.status == 200, response.text
    return response.text


def enter(server: Server, path: str, token: str, *others: str, **options: Any) -> ClientConnection:
    """Connect with a ticket or token."""
    return server.connect(path, subprotocols=[*others, "bearer", token], **options)


def status_of(server: Server, path: str, token: str, **headers: str) -> int:
    """Return the status of the response to a ticket or token."""
    try:
        with enter(server, path, token, additional_headers=headers):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def read(websocket: ClientConnection) -> Any:
    """Return the next message."""
    return json.loads(websocket.recv(timeout=TIMEOUT))


def counted(server: Server, name: str) -> int:
    """Return one of the counters."""
    return int(json.loads(server.get("/metrics/"))[name])


PATHS = ["/function/", "/event/"]


@pytest.mark.parametrize("path", PATHS)
class TestTickets:
    """A ticket in the list of subprotocols."""

    def test_refusal_ends(self, door: Server, path: str) -> None:
        """The refusal has a length: some clients wait for the end of the connection otherwise."""
        answer = door.refused(path, {"Sec-WebSocket-Protocol": "bearer, ticket.wrong"})
        assert answer.status == 403
        assert int(answer.headers["Content-Length"]) == len(answer.text.encode())

    def test_single_use(self, door: Server, path: str) -> None:
        """A ticket authenticates its user without cookies, once; a second use is refused."""
        ticket = ticket_for(door, path, sign_in(door))
        with enter(door, path, ticket) as websocket:
            seen = read(websocket)
            assert seen["user"] == "ann"
            # Chromium requires the server to select a subprotocol; the view does not.
            assert websocket.subprotocol == "bearer"
            websocket.send("who")
            assert websocket.recv(timeout=TIMEOUT) == "ann None"
        assert ticket not in json.dumps(seen)
        before = counted(door, "authentication_failed")
        assert status_of(door, path, ticket) == 403
        assert counted(door, "authentication_failed") == before + 1
        door.wait_for_log(rf"refused with 403: '{path}': ticket was already used")
        assert ticket not in door.log

    def test_beside_a_subprotocol(self, door: Server, path: str) -> None:
        """The view chooses a subprotocol as if there were no ticket."""
        ticket = ticket_for(door, path, sign_in(door))
        with enter(door, path, ticket, "chat.v1") as websocket:
            read(websocket)
            websocket.send("who")
            assert (
                websocket.recv(timeout=TIMEOUT) == f"ann {websocket.subprotocol}" == "ann chat.v1"
            )

    def test_signing_out_ends_the_socket(self, door: Server, path: str) -> None:
        """The end of the session in which a ticket was issued ends its socket."""
        headers = sign_in(door)
        with enter(door, path, ticket_for(door, path, headers)) as websocket:
            read(websocket)
            late = ticket_for(door, path, headers)
            door.get("/logout/", headers)
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv(timeout=TIMEOUT)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "signed out")
        assert status_of(door, path, late) == 403
        door.wait_for_log("the user or session of the ticket no longer exists")

    def test_of_another_user(self, door: Server, path: str) -> None:
        """A ticket with the cookies of another user is refused."""
        ticket = ticket_for(door, path, sign_in(door, "ann"))
        assert status_of(door, path, ticket, **sign_in(door, "eve")) == 403
        door.wait_for_log("ticket and cookies belong to different users")
        # That does not use up the ticket.
        assert status_of(door, path, ticket) == 101


@pytest.mark.parametrize("path", PATHS)
class TestTokens:
    """A token in the list of subprotocols, or in the header."""

    def test_in_the_list(self, door: Server, path: str) -> None:
        """The user is set before login_required runs."""
        with enter(door, path, TOKEN) as websocket:
            seen = read(websocket)
            assert seen["user"] == "bob"
        assert TOKEN not in json.dumps(seen)

    def test_in_the_header(self, door: Server, path: str) -> None:
        """Clients other than browsers can send a header."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with door.connect(path, additional_headers=headers) as websocket:
            seen = read(websocket)
            assert seen["user"] == "bob"
            assert websocket.subprotocol is None
        assert TOKEN not in json.dumps(seen)

    def test_goes_before_cookies(self, door: Server, path: str) -> None:
        """A token takes precedence over cookies."""
        with enter(door, path, TOKEN, additional_headers=sign_in(door)) as websocket:
            assert read(websocket)["user"] == "bob"

    def test_joins_the_groups_of_its_user(self, door: Server, path: str) -> None:
        """Messages to the user arrive, and disconnect(user) closes; no session is needed."""
        with enter(door, path, TOKEN) as websocket:
            read(websocket)
            door.get("/tell/?user=bob&say=parcel")
            assert str(websocket.recv(timeout=TIMEOUT)).endswith(" parcel")
            websocket.send("refresh")
            assert websocket.recv(timeout=TIMEOUT) == "bob None"
            door.get("/change-user/disconnect/?user=bob")
            with pytest.raises(ConnectionClosed, match="disconnected"):
                websocket.recv(timeout=TIMEOUT)

    def test_unknown_token(self, door: Server, path: str) -> None:
        """An unknown token gets a 401 before the 101, with what to do."""
        before = counted(door, "authentication_failed")
        with pytest.raises(InvalidStatus) as refused, enter(door, path, NOBODYS):
            pass
        assert refused.value.response.status_code == 401
        challenge = refused.value.response.headers["WWW-Authenticate"]
        assert challenge == 'Bearer error="invalid_token"'
        assert counted(door, "authentication_failed") == before + 1
        door.wait_for_log(rf"refused with 401: '{path}': unknown token: DoesNotExist")

    def test_without_a_token(self, door: Server, path: str) -> None:
        """Without a token, cookies authenticate; without both, the user is anonymous."""
        with door.connect(path, additional_headers=sign_in(door)) as websocket:
            assert read(websocket)["user"] == "ann"
        assert door.refused(path).status == 302


class TestRestFramework:
    """An authenticator of Django REST framework."""

    def test_header(self, door: Server) -> None:
        """The authenticator finds the header that it expects."""
        headers = {"Authorization": f"Token {TOKEN}"}
        with door.connect("/rest/", additional_headers=headers) as websocket:
            assert read(websocket)["user"] == "bob"

    def test_list(self, door: Server) -> None:
        """A browser can send the token in the list of subprotocols."""
        with enter(door, "/rest/", TOKEN) as websocket:
            seen = read(websocket)
            assert seen["user"] == "bob"
        assert TOKEN not in json.dumps(seen)

    def test_refused(self, door: Server) -> None:
        """AuthenticationFailed becomes a response before the 101, with its challenge."""
        with pytest.raises(InvalidStatus) as refused, enter(door, "/rest/", NOBODYS):
            pass
        assert refused.value.response.status_code == 401
        assert refused.value.response.headers["WWW-Authenticate"] == "Token"
        door.wait_for_log("'/rest/': TokenAuthentication: authentication_failed")


@pytest.mark.parametrize("path", PATHS)
def test_expired(door: Server, path: str) -> None:
    """The socket of a token whose time is over is closed with 4401, under every server."""
    token = "a.eyJleHAiOjF9.c"  # {"exp":1}
    door.get(f"/token/?user=eva&token={token}")
    with enter(door, path, token) as websocket:
        # The close may come before what the view sends.
        with suppress(ConnectionClosed):
            assert read(websocket)["user"] == "eva"
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(timeout=TIMEOUT)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "expired")


@pytest.mark.parametrize("path", ["/first/function/", "/first/event/", "/first/lean/"])
class TestFirstMessage:
    """Nothing happens before the client has authenticated."""

    def test_right(self, door: Server, path: str) -> None:
        """The view starts after the token, with the messages behind it, in its user's groups."""
        with door.connect(path, subprotocols=["chat.v1"]) as websocket:
            assert websocket.subprotocol == "chat.v1"
            websocket.send(json.dumps({"token": TOKEN}))
            websocket.send("behind it")
            assert read(websocket)["user"] == "bob"
            assert websocket.recv(timeout=TIMEOUT) == "behind it"
            door.get("/tell/?user=bob&say=parcel")
            assert str(websocket.recv(timeout=TIMEOUT)).endswith(" parcel")
            websocket.send("and on")
            assert websocket.recv(timeout=TIMEOUT) == "and on"

    @pytest.mark.parametrize("message", [NOBODYS, json.dumps({"token": NOBODYS}), "", b"\xff"])
    def test_wrong(self, door: Server, path: str, message: str | bytes) -> None:
        """Any wrong first message closes with 4401, and the log says no more than that."""
        before = counted(door, "authentication_failed")
        with door.connect(path) as websocket:
            websocket.send(message)
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv(timeout=TIMEOUT)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "authentication failed")
        assert counted(door, "authentication_failed") == before + 1
        door.wait_for_log(rf"<WebSocket '{path}' open> is closed with 4401: unknown token")

    def test_in_no_group_before(self, door: Server, path: str) -> None:
        """Messages to groups do not reach a socket that has not authenticated."""
        with door.connect(path) as websocket:
            assert json.loads(door.get("/tell/?group=first&say=secret"))["count"] == 0
            websocket.send(json.dumps({"token": TOKEN}))
            assert read(websocket)["user"] == "bob"
            if path != "/first/function/":
                assert json.loads(door.get("/tell/?group=first&say=told"))["count"] == 1
                assert str(websocket.recv(timeout=TIMEOUT)).endswith(" told")

    def test_not_needed(self, door: Server, path: str) -> None:
        """A client that sent a token in the handshake needs no first message."""
        with enter(door, path, TOKEN) as websocket:
            assert read(websocket)["user"] == "bob"


@pytest.mark.parametrize("name", ["own", "runserver"])
def test_no_first_message(start_server: StartServer, site: dict[str, str], name: str) -> None:
    """A socket without a first message is closed in time, in greenlets and in threads."""
    settings = {**json.loads(site["TEST_SETTINGS"]), "WEBSOCKET_TOKEN_TIMEOUT": 0.2}
    server = start_server(name, env={**site, "TEST_SETTINGS": json.dumps(settings)})
    for path in ("/first/function/", "/first/event/"):
        with server.connect(path) as websocket, pytest.raises(ConnectionClosed) as closed:
            websocket.recv(timeout=TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
        assert closed.value.rcvd.reason == "no first message in time"
    assert counted(server, "token_timed_out") == 2


class TestSecrecy:
    """No log, page or reason shows a ticket or token."""

    @pytest.mark.parametrize("token", [f"crash.{TOKEN}", quote(f"crash/={TOKEN}", safe="")])
    @pytest.mark.parametrize("path", ["/function/", "/crash/"])
    def test_pages_of_errors(self, door: Server, path: str, token: str) -> None:
        """DEBUG's error pages of a view and of an authenticator show no token."""
        headers = {"Sec-WebSocket-Protocol": f"chat.v1, bearer, {token}"}
        response = door.refused(path, headers)
        assert response.status == 500
        assert "HTTP_SEC_WEBSOCKET_PROTOCOL" in response.text
        if path == "/crash/":
            assert TOKEN not in response.text
        headers = {"Authorization": f"Bearer {token}"}
        assert door.refused(path, headers).status == 500

    def test_nothing_is_logged(self, door: Server) -> None:
        """Nothing that the tests of this module did is in the logs."""
        assert door.refused("/function/", {"Sec-WebSocket-Protocol": f"bearer, {NOBODYS}"})
        with door.connect("/first/function/") as websocket:
            websocket.send(json.dumps({"token": f"crash.{TOKEN}"}))
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv(timeout=TIMEOUT)
        assert "T0ken" not in str(closed.value)
        door.wait_for_log("RuntimeError: no way to look it up")
        # These URLs contain the token that a test hands to the site.
        lines = [line for line in door.log.splitlines() if "/token/?" not in line]
        assert not re.search("T0ken|ticket[.]", "\n".join(lines))


class TestTwoWorkers:
    """Single use holds across processes that share a cache."""

    def test_one_of_many(self, start_server: StartServer, site: dict[str, str]) -> None:
        """Of fifty clients with the same ticket at two workers, one is let in."""
        server = start_server("own", "-w", "2", env=site)
        wait_until(lambda: len(server.workers) == 2, "two workers")
        headers = sign_in(server)
        for _ in range(3):
            ticket = ticket_for(server, "/function/", headers)
            raw = handshake("/function/", f"Sec-WebSocket-Protocol: bearer, {ticket}\r\n")
            with ExitStack() as stack:
                wires = [stack.enter_context(server.wire()) for _ in range(50)]
                for wire in wires:
                    wire.send(raw)
                heads = sorted(wire.head().split()[1] for wire in wires)
            assert heads == ["101"] + ["403"] * 49


class TestBrowser:
    """Tickets in Chromium."""

    @pytest.fixture
    def here(self, start_server: StartServer, site: dict[str, str]) -> str:
        """An address of the site whose cookies are not sent to the sockets."""
        return f"http://localhost:{start_server('own', env=site).port}/browser/"

    def test_ticket(self, here: str, open_window: OpenWindow) -> None:
        """The server selects the subprotocol before the ticket, or that of the view."""
        # Chromium fails the connection if the server selects none.
        window = open_window(f"{here}?unknown")
        wait_for(window, "#state", "not connected")
        window.get(here.replace("browser/", "login/"))
        window.get(f"{here}?ticket")
        wait_for(window, "#said", "ann bearer")
        window.get(f"{here}?both")
        wait_for(window, "#said", "ann chat.v1")
