"""The scripts of the JavaScript client: their URLs, and the view that serves them."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import include, path

import django_wsmux
from django_wsmux import scripts, urls

STATIC = Path(django_wsmux.__file__).parent / "static" / "django_wsmux"


#: A URLconf that includes the scripts, and one that does not.
INCLUDING, OTHER = ModuleType("including"), ModuleType("other")
INCLUDING.urlpatterns = [path("scripts/", include("django_wsmux.urls"))]  # type: ignore[attr-defined]
OTHER.urlpatterns = []  # type: ignore[attr-defined]

WITH_SCRIPTS = override_settings(ROOT_URLCONF=INCLUDING)


def get(url: str, **headers: str) -> HttpResponse:
    """Request a URL of a site that serves the scripts itself."""
    with WITH_SCRIPTS:
        return Client().get(url, headers=headers)  # type: ignore[return-value]


class TestURL:
    """``url_of()``."""

    def test_static(self) -> None:
        """A site that does not serve the scripts itself has them in its static files."""
        with override_settings(ROOT_URLCONF=OTHER, STATIC_URL="https://cdn.example/static/"):
            url = scripts.url_of("client.js")
        base, _, version = url.partition("?v=")
        assert base == "https://cdn.example/static/django_wsmux/client.js"
        assert len(version) == 12

    def test_own(self) -> None:
        """A site that includes the URLs serves the scripts from there."""
        with WITH_SCRIPTS, override_settings(STATIC_URL="https://cdn.example/static/"):
            assert scripts.url_of("worker.js").startswith("/scripts/worker.js?v=")

    def test_versions(self) -> None:
        """Each content has another version."""
        versions = {scripts.url_of(name).partition("?v=")[2] for name in scripts.FILES}
        assert len(versions) == len(scripts.FILES)

    def test_signed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A URL with a query string, such as a signature of S3, stays as it is."""
        monkeypatch.setattr(scripts, "static", lambda name: f"https://s3.example/{name}?signature")
        with override_settings(ROOT_URLCONF=OTHER):
            url = scripts.url_of("client.js")
        assert url == "https://s3.example/django_wsmux/client.js?signature"


class TestView:
    """``serve()``."""

    @pytest.mark.parametrize("name", scripts.FILES)
    def test_content(self, name: str) -> None:
        """The content is that of the static file, with its type."""
        response = get(f"/scripts/{name}")
        assert response.status_code == 200
        assert response.content == (STATIC / name).read_bytes()
        kind = "application/json" if name.endswith(".map") else "text/javascript; charset=utf-8"
        assert response["Content-Type"] == kind

    def test_immutable(self) -> None:
        """With its version in the URL, a script is cached for a year."""
        with WITH_SCRIPTS:
            url = scripts.url_of("worker.js")
        assert get(url)["Cache-Control"] == "public, max-age=31536000, immutable"

    @pytest.mark.parametrize("query", ["", "?v=123456789abc"])
    def test_etag(self, query: str) -> None:
        """Without its version, a browser asks each time, and gets 304."""
        response = get(f"/scripts/worker.js{query}")
        assert response["Cache-Control"] == "no-cache"
        again = get(f"/scripts/worker.js{query}", if_none_match=response["ETag"])
        assert (again.status_code, again.content) == (304, b"")

    def test_others(self) -> None:
        """No other file is served, and no other method allowed."""
        assert get("/scripts/overview.js").status_code == 404
        with WITH_SCRIPTS:
            assert Client().post("/scripts/client.js").status_code == 405

    def test_without_login(self) -> None:
        """``LoginRequiredMiddleware`` lets everyone load the scripts, and no session is read."""
        middleware = [
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.auth.middleware.LoginRequiredMiddleware",
        ]
        with override_settings(MIDDLEWARE=middleware):
            assert get("/scripts/client.js").status_code == 200
        with override_settings(MIDDLEWARE=middleware[:2]):
            assert "Vary" not in get("/scripts/client.js")


def test_not_read_before_use() -> None:
    """``django_wsmux.urls`` reads no file when it is imported."""
    scripts._read.cache_clear()
    importlib.reload(urls)
    assert scripts._read.cache_info().currsize == 0
    assert scripts.serve(RequestFactory().get("/"), "client.js").status_code == 200
