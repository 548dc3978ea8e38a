"""What is active around a view, entered from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.test import RequestFactory, override_settings
from django.urls import get_script_prefix
from django.utils import timezone, translation

from django_wsmux.handlers.context import RequestContext, current, managed

variable: ContextVar[str] = ContextVar("variable", default="outside")

entered: list[str] = []


@contextmanager
def around() -> Iterator[None]:
    """Note when it is entered and left."""
    entered.append("in")
    yield
    entered.append("out")


def active(*more: Any) -> tuple[Any, ...]:
    """Return what is active, and the arguments."""
    zone = timezone.get_current_timezone_name()
    entered.append("here")
    return translation.get_language(), zone, get_script_prefix(), variable.get(), *more


def test_enter() -> None:
    """Language, time zone and prefix hold inside only, and what is set inside ends there."""

    def inside() -> tuple[Any, ...]:
        variable.set("changed")
        return active("argument")

    before = active()
    paris = ZoneInfo("Europe/Paris")
    surroundings = RequestContext("/site/", paris, "de", None)
    assert surroundings.enter(active, "a", "b") == (
        "de",
        "Europe/Paris",
        "/site/",
        "outside",
        "a",
        "b",
    )
    assert surroundings.enter(inside)[3] == "changed"
    assert surroundings.enter(active)[3] == "outside"
    assert active() == before


def test_variables_and_managers() -> None:
    """Variables that middleware has set are there, and WEBSOCKET_CONTEXT is entered around."""

    def handshake() -> RequestContext:
        variable.set("of middleware")
        with override_settings(WEBSOCKET_CONTEXT=[f"{__name__}.for_request"]):
            return managed(RequestFactory().get("/"), current())

    surroundings = copy_context().run(handshake)
    entered.clear()
    assert surroundings.enter(active)[3] == "of middleware"
    assert entered == ["in", "here", "out"]


def for_request(request: Any) -> Any:
    """Return what is entered around each call."""
    return around


def test_error() -> None:
    """What the function raises comes out."""
    surroundings = RequestContext("/", timezone.get_default_timezone(), None, None)
    with pytest.raises(ZeroDivisionError):
        surroundings.enter(lambda: 1 / 0)
