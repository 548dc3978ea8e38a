"""Filters of the admin's page."""

from __future__ import annotations

from typing import Any

import pytest
from django.template import Context, Template


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("{{ value|age }}", 93784.9, "1 day, 2:03:04"),
        ("{{ value|age }}", 0, "0:00:00"),
        ("{{ value|milliseconds }}", 0.0123, "12.3 ms"),
        ("{{ value|milliseconds }}", None, "-"),
        ("{{ value|as_pattern }}", "room.1", "room.1"),
        ("{{ value|as_pattern }}", "a*[b]?", "a[*][[]b][?]"),
    ],
)
def test_filters(text: str, value: Any, expected: str) -> None:
    """Durations have a short form, with a dash for none; names are escaped in patterns."""
    template = Template("{% load websocket_admin %}" + text)
    assert template.render(Context({"value": value})) == expected
