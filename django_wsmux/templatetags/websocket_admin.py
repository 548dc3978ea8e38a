"""Template filters for the admin's page."""

from __future__ import annotations

import re
from datetime import timedelta

from django.template import Library

__all__ = ["age", "as_pattern", "milliseconds", "register"]

register = Library()


@register.filter
def age(seconds: float) -> str:
    """Return a duration as ``1 day, 2:03:04``."""
    return str(timedelta(seconds=int(seconds)))


@register.filter
def as_pattern(name: str) -> str:
    """Return the pattern that stands for the name of one group."""
    return re.sub(r"([*?[])", r"[\1]", name)


@register.filter
def milliseconds(seconds: float | None) -> str:
    """Return a duration in milliseconds; a dash for ``None``."""
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"
