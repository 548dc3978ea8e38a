"""State that middleware sets around a request holds for all code of a socket."""

from __future__ import annotations

import http.client
import json
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from tests.test_views import ask, said

from ..conftest import StartServer, need
from ..gauges import open_sockets
from ..project.settings import MIDDLEWARE
from ..services import RedisServer
from ..support import HANDSHAKE_HEADERS, SERVERS, TIMEOUT, Server, frame

SETTINGS = {
    "MIDDLEWARE": [*MIDDLEWARE, "tests.project.context.middleware"],
    "ROOT_URLCONF": "tests.project.context",
    "WEBSOCKET_URLCONF": "tests.project.context",
    "WEBSOCKET_CONTEXT": ["tests.project.context.around"],
}


@pytest.fixture(scope="module", params=SERVERS)
def site(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """A site with such middleware, under each server."""
    return start_lasting_server(request.param, env={"TEST_SETTINGS": json.dumps(SETTINGS)})


def test_event_view(site: Server) -> None:
    """The state holds in handshake, messages, groups' messages, helpers and the end."""
    key = uuid4().hex
    with (
        site.connect(f"/event/?tenant=a&mark={key}") as first,
        site.connect("/event/?tenant=b") as second,
        site.connect("/event/") as third,
    ):
        assert first.recv(timeout=TIMEOUT) == "connect a a a"
        assert second.recv(timeout=TIMEOUT) == "connect b b b"
        assert third.recv(timeout=TIMEOUT) == "connect none none none"
        for _ in range(2):
            assert ask(first, "x") == "receive a a a"
            assert ask(second, "x") == "receive b b b"
            assert ask(third, "x") == "receive none none none"
        assert ask(first, "spawn") == "helper a a a"
        assert ask(third, "spawn") == "helper none none none"
        first.send("group")
        assert first.recv(timeout=TIMEOUT) == "group a a a"
        assert second.recv(timeout=TIMEOUT) == "group b b b"
        assert third.recv(timeout=TIMEOUT) == "group none none none"
    assert said(site, key) == "a a a;"


def test_function_view(site: Server) -> None:
    """The state holds in a function view, and in helpers that run concurrently."""
    with site.connect("/function/?tenant=a") as websocket:
        assert websocket.recv(timeout=TIMEOUT) == "function a a a"
        for name in ("one", "two"):
            websocket.send(name)
            for _ in range(2):
                assert websocket.recv(timeout=TIMEOUT) == f"{name} a a a"


def test_undecorated_view(site: Server) -> None:
    """An undecorated view runs inside its request; its helpers do not, and have the state too."""
    with site.connect("/undecorated/?tenant=a") as websocket:
        assert websocket.recv(timeout=TIMEOUT) == "undecorated a a a"
        assert ask(websocket, "x") == "helper a a a"


def test_previous_request(site: Server) -> None:
    """State that a page left behind on a persistent connection does not reach a socket."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=TIMEOUT)
    connection.request("GET", "/leave/")
    assert connection.getresponse().read() == b"left"
    sock = connection.sock
    headers = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE_HEADERS.items())
    sock.sendall(f"GET /event/ HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
    with sock.makefile("rb") as reader:
        assert reader.readline().startswith(b"HTTP/1.1 101 ")
        while reader.readline() != b"\r\n":
            pass
        assert reader.read(2 + 22)[2:] == b"connect none none none"
        sock.sendall(frame(0x81, b"x"))
        assert reader.read(2 + 22)[2:] == b"receive none none none"
    connection.close()


def test_shared(start_server: StartServer) -> None:
    """Sockets with equal values share one object; without values they hold none."""
    settings = {**SETTINGS, "WEBSOCKET_CONTEXT": []}
    site = start_server("own", env={"TEST_SETTINGS": json.dumps(settings)})
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(site.connect("/lean/"))
        assert json.loads(site.get("/around/")) == ["RequestContext"]


def test_idle_sockets_hold_no_connection_of_a_cache(
    start_server: StartServer, tmp_path: Path
) -> None:
    """A thousand sockets whose handshakes used the cache share the process's own connection."""
    need("redis-server")
    redis = RedisServer(tmp_path)
    try:
        settings = {
            "CACHES": {
                "default": {
                    "BACKEND": "django.core.cache.backends.redis.RedisCache",
                    "LOCATION": redis.url,
                }
            },
            **SETTINGS,
        }
        site = start_server("own", env={"TEST_SETTINGS": json.dumps(settings)})
        with ExitStack() as stack:
            for number in range(1000):
                path = "/lean/" if number % 2 else "/caching/"
                stack.enter_context(site.upgraded(f"{path}?tenant={number}"))
            assert open_sockets(site) == 1000
            site.get("/collect/")
            clients = redis.ask("CLIENT", "LIST").splitlines()
            assert len([each for each in clients if "cmd=client" not in each]) <= 2
    finally:
        redis.stop()
