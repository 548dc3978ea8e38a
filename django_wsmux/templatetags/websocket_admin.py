"""Filters of the admin's page."""

from __future__ import annotations

from datetime import timedelta

from django.template import Library

__all__ = ["age", "milliseconds", "register"]

register = Library()


@register.filter
def age(seconds: float) -> str:
    """Return a duration as ``1 day, 2:03:04``."""
    return str(timedelta(seconds=int(seconds)))


@register.filter
def milliseconds(seconds: float | None) -> str:
    """Return a short time; a dash for none."""
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"
