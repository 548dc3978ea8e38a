"""Filters of the admin's page."""

from __future__ import annotations

from types import SimpleNamespace
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
        ("{{ value|user_name:names }}", SimpleNamespace(user_id=None, prefix=""), "-"),
        ("{{ value|user_name:names }}", SimpleNamespace(user_id="7", prefix=""), "ann"),
        ("{{ value|user_name:names }}", SimpleNamespace(user_id="8", prefix=""), "8"),
        ("{{ value|user_name:names }}", SimpleNamespace(user_id="7", prefix="b"), "7 (b)"),
    ],
)
def test_filters(text: str, value: Any, expected: str) -> None:
    """Durations and users have short forms; a dash stands for none."""
    template = Template("{% load websocket_admin %}" + text)
    assert template.render(Context({"value": value, "names": {"7": "ann"}})) == expected
