"""Checks of the views in ``WEBSOCKET_URLCONF``."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.checks import run_checks
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import include, path

from django_wsmux.decorators import websocket
from django_wsmux.views import FormWebSocketView, JSONWebSocketView


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


class Once(FormWebSocketView):
    once = True


@websocket
def function(request: HttpRequest, websocket: Any) -> None:
    """A view of another kind."""


def once_errors(backend: str, *views: Any, deploy: bool, **config: Any) -> list[str]:
    """Return the errors of views with this cache."""
    cache = f"django.core.cache.backends.{backend}"
    module: Any = SimpleNamespace(urlpatterns=[path("x/", each) for each in views])
    with (
        pytest.MonkeyPatch.context() as patch,
        override_settings(
            CACHES={"default": {"BACKEND": cache, "LOCATION": "/nowhere", **config}},
            WEBSOCKET_URLCONF="once_patterns",
        ),
    ):
        patch.setitem(sys.modules, "once_patterns", module)
        found = run_checks(include_deployment_checks=deploy)
    return [str(each.msg) for each in found if each.id == "django_wsmux.E027"]


@pytest.mark.parametrize(
    ("backend", "with_deploy", "without"),
    [
        ("locmem.LocMemCache", 1, 0),
        ("filebased.FileBasedCache", 1, 0),
        ("dummy.DummyCache", 1, 1),
        ("redis.RedisCache", 0, 0),
        ("db.DatabaseCache", 1, 0),
    ],
)
def test_once(backend: str, with_deploy: int, without: int) -> None:
    """A cache that workers do not share is an error in deployment, an empty one always."""
    for deploy, count in ((True, with_deploy), (False, without)):
        found = once_errors(backend, Once.as_view(), deploy=deploy)
        assert len(found) == count
        for text in found:
            assert text.startswith(
                "The view of x/ in WEBSOCKET_URLCONF has once = True, but CACHES"
            )


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, "more than 300,"),
        ({"OPTIONS": {"MAX_ENTRIES": 9999}}, "more than 9999,"),
        ({"OPTIONS": {"MAX_ENTRIES": 10_000}}, ""),
        ({"max_entries": 10_000}, ""),
    ],
)
def test_once_in_small_cache(config: dict[str, Any], problem: str) -> None:
    """A cache in the database must have room for the requests of five minutes."""
    found = once_errors("db.DatabaseCache", Once.as_view(), deploy=True, **config)
    assert len(found) == bool(problem)
    assert problem in "".join(found)


def test_once_of_each_kind() -> None:
    """The check knows the option of as_view(), and ignores other views."""
    plain = JSONWebSocketView
    views = [plain.as_view(once=True), plain.as_view(), Once.as_view(once=False), function]
    assert len(once_errors("dummy.DummyCache", *views, deploy=False)) == 1
