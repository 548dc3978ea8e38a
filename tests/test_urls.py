"""``websocket_url()`` and its template tag."""

from __future__ import annotations

import pytest
from django.test import RequestFactory, override_settings
from django.urls import NoReverseMatch, set_script_prefix

from django_wsmux.urls import websocket_url
from tests.project import websocket_urls

ROOM = {"slug": "lobby"}


@pytest.fixture
def rf() -> RequestFactory:
    return RequestFactory(headers={"host": "example.com:8000"})


class TestFunction:
    """Reversed in WEBSOCKET_URLCONF, on this request's host."""

    def test_same_host_and_port(self, rf: RequestFactory) -> None:
        """The URL has the scheme ws:// and the host of the page."""
        url = websocket_url("rooms:room", kwargs=ROOM, request=rf.get("/"))
        assert url == "ws://example.com:8000/rooms/lobby/"

    def test_secure(self, rf: RequestFactory) -> None:
        """The URL has the scheme wss:// if the page came over https."""
        assert websocket_url("echo", request=rf.get("/", secure=True)).startswith("wss://")

    def test_behind_a_proxy(self, rf: RequestFactory) -> None:
        """X-Forwarded-Proto counts only if Django is configured to trust it."""
        request = rf.get("/", headers={"x-forwarded-proto": "https"})
        assert websocket_url("echo", request=request).startswith("ws://")
        with override_settings(SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https")):
            assert websocket_url("echo", request=request).startswith("wss://")

    def test_without_a_request(self) -> None:
        """Without a request, the URL is the path alone."""
        assert websocket_url("rooms:room", args=["lobby"]) == "/rooms/lobby/"

    @pytest.mark.parametrize(
        ("server", "url"),
        [
            ("wss://ws.example.com", "wss://ws.example.com/echo/"),
            ("wss://ws.example.com/", "wss://ws.example.com/echo/"),
            ("ws.example.com:8001", "ws://ws.example.com:8001/echo/"),
        ],
    )
    def test_split_set_up(self, rf: RequestFactory, server: str, url: str) -> None:
        """WEBSOCKET_SERVER names another host, with a request or without."""
        with override_settings(WEBSOCKET_SERVER=server):
            assert websocket_url("echo", request=rf.get("/")) == url
            assert websocket_url("echo") == url

    def test_script_prefix(self) -> None:
        """A site below a prefix has its sockets below it too."""
        set_script_prefix("/below/")
        try:
            assert websocket_url("echo") == "/below/echo/"
        finally:
            set_script_prefix("/")

    def test_pages_are_not_found(self) -> None:
        """Names of ROOT_URLCONF are unknown."""
        for urlconf in ("tests.project.websocket_urls", websocket_urls):
            with (
                override_settings(WEBSOCKET_URLCONF=urlconf),
                pytest.raises(NoReverseMatch) as caught,
            ):
                websocket_url("only-a-page")
            assert "only-a-page" in str(caught.value)
            assert "WEBSOCKET_URLCONF (tests.project.websocket_urls) was" in str(caught.value)
