"""``websocket_url()`` and its template tag."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ImproperlyConfigured
from django.test import RequestFactory, override_settings
from django.urls import NoReverseMatch, include, path, set_script_prefix

from django_wsmux.auth import bearer
from django_wsmux.urls import url_of, websocket_url
from django_wsmux.views import WebSocketView
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


class Wanted(WebSocketView):
    """The view that is looked for."""


class More(Wanted):
    """A view of a subclass."""


def urlconf(*patterns: Any) -> ModuleType:
    """Return a module with URL patterns."""
    module = ModuleType("urlconf")
    vars(module)["urlpatterns"] = list(patterns)
    return module


def included(view: Any, name: str | None = None) -> Any:
    """Return patterns in two namespaces."""
    inner = include(([path("b/", view, name=name)], "inner"))
    return path("a/", include(([path("x/", inner)], "outer")))


class TestView:
    """The URL of the only view of a class."""

    @pytest.mark.parametrize(
        ("pattern", "url"),
        [
            (path("ws/", Wanted.as_view()), "/ws/"),
            (path("ws/", login_required(More.as_view())), "/ws/"),
            (path("ws/", Wanted.as_view(authenticators=[bearer(lambda token: None)])), "/ws/"),
            (path("a/", include([path("b/", Wanted.as_view())])), "/a/b/"),
            (included(Wanted.as_view(), "name"), "/a/x/b/"),
        ],
    )
    def test_found(self, pattern: Any, url: str) -> None:
        """It needs no name, decorators do not matter, and it may be in a namespace."""
        other = path("other/", WebSocketView.as_view())
        with override_settings(WEBSOCKET_URLCONF=urlconf(other, pattern)):
            assert url_of(Wanted) == url
            with override_settings(WEBSOCKET_SERVER="wss://sockets.example.com"):
                assert url_of(Wanted) == f"wss://sockets.example.com{url}"

    @pytest.mark.parametrize(
        ("patterns", "problem"),
        [
            ([], "has no view of Wanted: add one"),
            (
                [path("a/", Wanted.as_view()), path("b/", More.as_view())],
                "has 2 views of Wanted: only one can be used",
            ),
            ([path("<name>/", Wanted.as_view())], "must have no arguments"),
            ([included(Wanted.as_view())], "a name if it is in a namespace"),
        ],
    )
    def test_problems(self, patterns: list[Any], problem: str) -> None:
        """The error says what is missing."""
        with (
            override_settings(WEBSOCKET_URLCONF=urlconf(*patterns)),
            pytest.raises(ImproperlyConfigured, match=problem),
        ):
            url_of(Wanted)
