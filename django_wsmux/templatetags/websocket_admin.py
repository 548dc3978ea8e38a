"""Template filters for the admin's page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from django.template import Library

from ..monitoring.overview import OpenSocket

__all__ = ["age", "milliseconds", "register", "user_name"]

register = Library()


@register.filter
def age(seconds: float) -> str:
    """Return a duration as ``1 day, 2:03:04``."""
    return str(timedelta(seconds=int(seconds)))


@register.filter
def user_name(socket: OpenSocket, names: Mapping[str, str]) -> str:
    """Return the name of a socket's user, or else the primary key; a dash for no user."""
    if socket.user_id is None:
        return "-"
    if socket.prefix:
        return f"{socket.user_id} ({socket.prefix})"  # perhaps a key of another tenant
    return names.get(socket.user_id, socket.user_id)


@register.filter
def milliseconds(seconds: float | None) -> str:
    """Return a duration in milliseconds; a dash for ``None``."""
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"
