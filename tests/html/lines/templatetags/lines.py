"""Tags that count and fail."""

from __future__ import annotations

import os
from pathlib import Path

from django import template

__all__ = ["explode", "rendered", "rendering"]

register = template.Library()

#: The languages in which templates were rendered.
rendered: list[str] = []


@register.simple_tag
def rendering() -> str:
    """Count a rendering: in this process, and in a file for all processes."""
    from django.utils.translation import get_language

    rendered.append(get_language() or "")
    if "TEST_RENDERINGS" in os.environ:
        with Path(os.environ["TEST_RENDERINGS"]).open("a") as file:
            file.write(".")
    return ""


@register.simple_tag
def explode() -> str:
    """Fail."""
    raise ArithmeticError("it broke")
