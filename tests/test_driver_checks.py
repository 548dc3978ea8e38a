"""Checks of the environment of sockets: drivers, middleware, views, origins."""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.machinery import ModuleSpec
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.checks import run_checks
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import include, path

from django_wsmux import checks

POSTGRES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "x"}}
MYSQL = {"default": {"ENGINE": "django.db.backends.mysql", "NAME": "x"}}


def installed(monkeypatch: pytest.MonkeyPatch, version: str, *modules: str) -> None:
    """Pretend that only these modules are installed, psycopg in this version."""

    def find(name: str) -> ModuleSpec | None:
        return ModuleSpec(name, None) if name in modules else None

    monkeypatch.setattr(checks, "find_spec", find)
    monkeypatch.setattr(metadata, "version", lambda name: version)


@pytest.mark.parametrize(
    ("version", "modules", "databases", "number"),
    [
        ("3.1.14", ["psycopg"], POSTGRES, None),
        ("3.2.0b1", ["psycopg"], POSTGRES, None),
        ("3.1.13", ["psycopg"], POSTGRES, "W006"),
        ("3.0", ["psycopg", "psycopg2"], POSTGRES, "W006"),
        ("", ["psycopg2"], POSTGRES, "W005"),
        ("", ["psycopg2", "psycogreen"], POSTGRES, None),
        ("", ["MySQLdb._mysql"], MYSQL, "W007"),
        ("", [], MYSQL, None),
        ("", ["psycopg2", "MySQLdb._mysql"], {}, None),
    ],
)
def test_drivers(
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    modules: list[str],
    databases: dict[str, Any],
    number: str | None,
) -> None:
    """A driver that blocks gevent gets a warning that says what to install instead."""
    installed(monkeypatch, version, *modules)
    monkeypatch.setattr(django_settings, "DATABASES", databases)
    found = checks.check_drivers(None)
    assert [message.id for message in found] == ([f"django_wsmux.{number}"] if number else [])
    assert all(message.hint for message in found)


@pytest.mark.parametrize(("age", "count"), [(0, 0), (60, 0), (None, 1)])
def test_connections_for_ever(monkeypatch: pytest.MonkeyPatch, age: int | None, count: int) -> None:
    """Persistent connections get a warning: each greenlet would keep one."""
    databases = {"default": {**POSTGRES["default"], "CONN_MAX_AGE": age}}
    monkeypatch.setattr(django_settings, "DATABASES", databases)
    found = checks.check_persistent_connections(None)
    assert [message.id for message in found] == ["django_wsmux.W008"] * count


def async_only(get_response: Any) -> Any:
    """Stand for an async-only middleware."""


async_only.sync_capable = False  # type: ignore[attr-defined]


def test_async_middleware(settings: Any) -> None:
    """An async-only middleware is an error: it would start an event loop in a worker."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.async_only"]
    found = checks.check_async_middleware(None)
    assert [message.id for message in found] == ["django_wsmux.E009"]
    assert found[0].msg.startswith(f"{__name__}.async_only is asynchronous only")


async def async_view(request: HttpRequest) -> HttpResponse:
    """Stand for an async view."""
    return HttpResponse()


class AsyncPatterns:
    """A URLconf with the async view in an ``include()``."""

    urlpatterns = (path("deep/", include([path("async/", async_view)])),)


def test_async_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for an async view names its pattern."""
    monkeypatch.setitem(sys.modules, "async_patterns", AsyncPatterns)
    with override_settings(WEBSOCKET_URLCONF="async_patterns"):
        found = [message for message in run_checks() if message.id == "django_wsmux.E010"]
    assert [message.msg for message in found] == [
        "The view of async/ in WEBSOCKET_URLCONF is async."
    ]


@pytest.mark.parametrize(("origins", "count"), [((), 0), (("https://a.example",), 0), (("*",), 1)])
def test_origins(settings: Any, origins: tuple[str, ...], count: int) -> None:
    """Allowing every origin gets a warning in deployment checks."""
    settings.WEBSOCKET_ALLOWED_ORIGINS = origins
    found = [each.id for each in run_checks(include_deployment_checks=True)]
    assert found.count("django_wsmux.W011") == count


@pytest.mark.parametrize(
    ("backend", "host", "count"),
    [
        ("local://", "", 0),
        ("local://", "127.0.0.1", 0),
        ("local://", "/run/postgresql", 0),
        ("local://", "db.example", 1),
        ("redis://cache.example", "db.example", 0),
    ],
)
def test_one_machine(
    monkeypatch: pytest.MonkeyPatch, settings: Any, backend: str, host: str, count: int
) -> None:
    """A database on another machine suggests several web servers, which local:// cannot connect."""
    settings.WEBSOCKET_BACKEND = backend
    databases = {"default": {**POSTGRES["default"], "HOST": host}}
    monkeypatch.setattr(django_settings, "DATABASES", databases)
    found = checks.check_one_machine(None)
    assert [message.id for message in found] == ["django_wsmux.W012"] * count
