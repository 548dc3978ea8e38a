"""The forms of the admin's page."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import QueryDict
from django.test import override_settings

from django_wsmux.groups import Group
from django_wsmux.monitoring.filters import Filter
from django_wsmux.monitoring.forms import FilterForm, SendForm


@pytest.mark.parametrize(
    ("query", "expected", "summary"),
    [
        ("", Filter(), ""),
        ("q=&group=&user=&age__gte=&age__lt=", Filter(), ""),
        ("q= x ", Filter(text="x"), "path or address  x "),
        ("group= x", Filter(group=" x"), "group  x"),
        (
            "age__gte=60&age__lt=86400",
            Filter(older_than=60, younger_than=86400),
            "open for at least 1 minute, open for less than 1 day",
        ),
        ("age__gte=61", Filter(ids=()), "open for at least 61"),
        (f"group={'x' * 601}", Filter(ids=()), f"group {'x' * 601}"),
    ],
)
def test_filter(query: str, expected: Filter, summary: str) -> None:
    """A query becomes a filter and a text; no socket matches a wrong one."""
    form = FilterForm(QueryDict(query))
    assert (form.filter(), form.summary()) == (expected, summary)


@pytest.mark.parametrize(
    ("query", "order", "place"),
    [
        ("", "-age", None),
        ("o=unsent&after=1,2.5,ab", "unsent", (1.0, 2.5, "ab")),
        ("o=--unsent&after=1,2", "-age", (1.0, 2.0, "")),
        ("o=path&after=a,b,c", "-age", None),
        ("o=-bytes_in&after=,", "-bytes_in", None),
    ],
)
def test_order(query: str, order: str, place: Any) -> None:
    """An unknown order, or a place that cannot be read, is ignored."""
    form = FilterForm(QueryDict(query))
    assert (form.order(), form.place("after"), form.place("before")) == (order, place, None)


def prefix() -> str:
    """Return the current prefix."""
    return "mine"


@override_settings(WEBSOCKET_GROUP_PREFIX=f"{__name__}.prefix")
def test_prefix() -> None:
    """A message goes to the group with the prefix on the page, or else with the current one."""
    fields = {"group": "lobby", "kind": "json", "message": "[1]"}
    prefixes: tuple[tuple[dict[str, str], Any], ...] = (
        ({}, ("mine", "lobby")),
        ({"group_prefix": "other"}, ("other", "lobby")),
        ({"group_prefix": ""}, "lobby"),
    )
    for given, key in prefixes:
        form = SendForm(fields | given)
        assert form.is_valid(), form.errors
        assert (form.target(), form.target().key()) == (Group("lobby"), key)
        assert form.cleaned_data["value"] == [1]


@pytest.mark.parametrize(
    "message",
    ["{", "NaN", "-Infinity", "1e999", "[" * 100_000, "1" * 10_000],
    ids=["open", "nan", "infinity", "too large", "deep", "long"],
)
def test_malformed(message: str) -> None:
    """What is no JSON, or what cannot be sent as JSON, is an error of its field."""
    form = SendForm({"group": "lobby", "kind": "json", "message": message})
    assert set(form.errors) == {"message"}
