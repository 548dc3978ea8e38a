"""What is active around a view, entered from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.test import RequestFactory, override_settings
from django.urls import get_script_prefix, set_script_prefix, set_urlconf
from django.utils import timezone, translation
from greenlet import getcurrent

from django_wsmux.handlers.context import RequestContext, current, managed, named, restored
from django_wsmux.protocol.events import CannotMove
from django_wsmux.server import own_context

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


@override_settings(LANGUAGE_CODE="de", TIME_ZONE="Europe/Paris")
def test_defaults() -> None:
    """What a site has unless middleware changes it needs no setting, and is active as well."""

    def inside() -> RequestContext:
        translation.activate("fr")
        set_script_prefix("/other/")
        return own_context.new().run(named)

    found = own_context.new().run(named)
    assert found is own_context.new().run(inside)
    assert not list(found.context(getcurrent()).items())
    assert found.state() == ["/", "Europe/Paris", "de", None]
    with translation.override("fr"), timezone.override("UTC"):
        assert found.enter(active)[:3] == ("de", "Europe/Paris", "/")
    changes: list[Callable[[], object]] = [
        lambda: translation.activate("fr"),
        translation.deactivate_all,
        lambda: timezone.activate("UTC"),
        lambda: set_script_prefix("/site/"),
        lambda: set_urlconf("tests.site.urls"),
    ]
    for change in changes:

        def changed(change: Callable[[], object] = change) -> RequestContext:
            change()
            return named()

        other = own_context.new().run(changed)
        assert other.state() != found.state()
        again = other.enter(named)
        assert again.state() == other.state()


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


def test_state() -> None:
    """Language, time zone, prefix and URLconf can be written down and made again."""
    around = RequestContext("/site/", ZoneInfo("Europe/Paris"), "de", "tests.urls")
    again = restored(*json.loads(json.dumps(around.state())))
    assert again.state() == around.state()
    assert not again.has_values
    assert again.enter(active)[:3] == ("de", "Europe/Paris", "/site/")
    for odd in (
        RequestContext("/", timezone.get_fixed_timezone(60), "de", None),
        RequestContext("/", ZoneInfo("UTC"), "de", object()),
    ):
        with pytest.raises(CannotMove, match="no name"):
            odd.state()


def test_has_values() -> None:
    """Context variables and context managers are not written down."""

    def inside() -> RequestContext:
        variable.set("mine")
        return current()

    found = own_context.new().run(inside)
    assert found.has_values
    assert found.state() == own_context.new().run(current).state()
