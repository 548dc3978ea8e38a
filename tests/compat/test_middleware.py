"""Django middleware that replaces responses and chooses URLconfs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.conf import settings
from websockets.sync.client import ClientConnection

from tests.compat.conftest import StartServer, start_site
from tests.compat.test_wrappers import VIEWS, worker_of
from tests.support import SERVERS, TIMEOUT, Server, frame, handshake

MORE = {
    "MIDDLEWARE": ["tests.compat.middleware.choosing", *settings.MIDDLEWARE],
    "TEMPLATES": [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "DIRS": [str(Path(__file__).parent / "templates")],
        }
    ],
    "WEBSOCKET_URLCONF": "tests.compat.sockets",
    "WSGI_APPLICATION": "tests.compat.site.application",
}


@pytest.fixture(scope="module", params=SERVERS)
def site(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """Every server, with a middleware that does what a request says."""
    return start_site(start_lasting_server, request.param, TEST_SETTINGS=json.dumps(MORE))


def opened(site: Server, path: str, how: str) -> ClientConnection:
    """Open a socket."""
    return site.connect(path, additional_headers={"X-Meddle": how})


class TestResponses:
    """A socket that the view accepted opens, even if middleware replaces the response."""

    @pytest.mark.parametrize("how", ["copied", "streamed"])
    @pytest.mark.parametrize("path", VIEWS)
    def test_copy(self, site: Server, path: str, how: str) -> None:
        """The socket opens."""
        with opened(site, path, how) as websocket:
            websocket.send("hello")
            assert websocket.recv(timeout=TIMEOUT) == "hello"

    def test_headers_of_copy(self, site: Server) -> None:
        """The 101 has the headers of the last response."""
        with site.wire() as wire:
            wire.send(handshake("/echo/", "X-Meddle: copied\r\n"))
            head = wire.head()
        assert "X-Copied: yes\r\n" in head
        assert "Sec-WebSocket-Accept:" in head

    @pytest.mark.parametrize("path", ["/echo/", "/events/echo/"])
    def test_other_status(self, site: Server, path: str) -> None:
        """A refusal of the middleware counts."""
        assert site.refused(path, {"X-Meddle": "refused"}).status == 403

    @pytest.mark.parametrize("path", ["/status/200/", "/nowhere/"])
    def test_101_without_accept(self, site: Server, path: str) -> None:
        """A status 101 without an accepting view becomes a 500; the log names the class."""
        assert site.refused(path, {"X-Meddle": "switched"}).status == 500
        site.wait_for_log(r"not accepted: HttpResponse has status 101, but no view")


class TestRequests:
    """Middleware that changes the request."""

    @pytest.mark.parametrize("path", VIEWS)
    def test_taken_out_of_meta(self, site: Server, path: str) -> None:
        """A socket needs no more values of the server in META than a page does."""
        with opened(site, path, "bare") as websocket:
            websocket.send("hello")
            assert websocket.recv(timeout=TIMEOUT) == "hello"

    @pytest.mark.parametrize("path", VIEWS)
    def test_replaced(self, site: Server, path: str) -> None:
        """Replacing the request is an error, and the log says what to do."""
        assert site.refused(path, {"X-Meddle": "replaced"}).status == 500
        site.wait_for_log(r"TypeError: middleware has passed on .*WSGIRequest.* instead of")


class TestContext:
    """A socket sees the context variables that WSGI middleware sets for its request."""

    @pytest.mark.parametrize("path", ["/tag/", "/events/tag/"])
    def test_tag(self, site: Server, path: str) -> None:
        """It does not see those that an earlier request on the same connection has left."""
        # gunicorn's own worker does not say where a request begins.
        mine = "none" if worker_of(site) == "gevent" else "mine"
        for tag, expected in ("mine", mine), ("", "none"):
            more = f"X-Around: tagging\r\nX-Tag: {tag}\r\n" if tag else ""
            with site.wire() as wire:
                wire.send(
                    b"GET /only-a-page/ HTTP/1.1\r\nHost: localhost\r\n"
                    b"X-Around: tagging\r\nX-Tag: left\r\n\r\n"
                )
                assert wire.response().status == 200
                wire.send(handshake(path, more))
                assert wire.head().startswith("HTTP/1.1 101 ")
                wire.send(frame(0x81, b"x"))
                assert wire.frame() == (1, expected.encode())


class TestURLconfs:
    """Sockets have their own URLconf; reverse() uses the pages that middleware chose."""

    @pytest.mark.parametrize("how", ["page", "tenant", "default", "forgotten"])
    @pytest.mark.parametrize("path", VIEWS)
    def test_chosen(self, site: Server, path: str, how: str) -> None:
        """Sockets are found with every choice."""
        with opened(site, path, how) as websocket:
            websocket.send("hello")
            assert websocket.recv(timeout=TIMEOUT) == "hello"

    @pytest.mark.parametrize(
        ("how", "found"),
        [
            ("", "/only-a-page/"),
            ("page", "/only-a-page/"),
            ("default", "/only-a-page/"),
            ("tenant", "/tenant/only-a-page/"),
        ],
    )
    def test_reverse(self, site: Server, how: str, found: str) -> None:
        """The error page of a missing socket reverses in the chosen URLconf."""
        answer = site.refused("/nowhere/", {"X-Meddle": how})
        assert (answer.status, answer.text) == (404, f"{found} has no such page\n")

    @pytest.mark.parametrize(
        ("how", "found"),
        [
            ("", "/only-a-page/"),
            ("page", "/only-a-page/"),
            ("default", "/only-a-page/"),
            ("tenant", "/tenant/only-a-page/"),
        ],
    )
    def test_reverse_in_conversation(self, site: Server, how: str, found: str) -> None:
        """reverse() uses the pages of the handshake in views of each kind and in helpers."""
        with opened(site, "/reverse/", how) as websocket:
            assert websocket.recv(timeout=TIMEOUT) == found
        with opened(site, "/events/reverse/", how) as websocket:
            for message in ("one", "helper"):
                websocket.send(message)
                assert websocket.recv(timeout=TIMEOUT) == f"{message} {found}"

    def test_sockets(self, site: Server) -> None:
        """Middleware can choose the URLconf of sockets, too."""
        with opened(site, "/talk/", "sockets") as websocket:
            assert websocket.recv(timeout=TIMEOUT) == "a socket of the tenant"
        assert site.refused("/loop/", {"X-Meddle": "sockets"}).status == 404

    def test_pages_are_no_sockets(self, site: Server) -> None:
        """A handshake never gets a page of the site."""
        for how in ("", "page", "tenant"):
            assert site.refused("/only-a-page/", {"X-Meddle": how}).status == 404
            assert site.refused("/tenant/only-a-page/", {"X-Meddle": how}).status == 404
