"""Which groups have a history: the patterns of ``WEBSOCKET_HISTORY``."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache, lru_cache
from typing import Any

from django.core.signals import setting_changed

from .. import conf
from ..protocol.v1 import CONNECTION
from .store import Keep

__all__ = ["keep_of", "pattern_of"]


def pattern_of(name: str) -> str | None:
    """Return the first pattern that matches the name of a group, or ``None``.

    A name that begins with ``@`` belongs to a user or a session, and only a pattern that begins
    with ``@`` matches it. No pattern matches the group of one connection.
    """
    if name.startswith(CONNECTION):
        return None
    is_ours = name.startswith("@")
    for pattern in conf.get("WEBSOCKET_HISTORY"):
        if pattern.startswith("@") >= is_ours and fnmatchcase(name, pattern):
            found: str = pattern
            return found
    return None


@lru_cache(maxsize=4096)
def keep_of(name: str) -> Keep | None:
    """Return the limits of a group's history; ``None`` if the group has none."""
    pattern = pattern_of(name)
    return None if pattern is None else _keep(pattern)


@cache
def _keep(pattern: str) -> Keep:
    # One object for all groups of the pattern.
    return Keep(**conf.get("WEBSOCKET_HISTORY")[pattern])


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "WEBSOCKET_HISTORY":
        keep_of.cache_clear()
        _keep.cache_clear()


setting_changed.connect(_forget, dispatch_uid="django_wsmux.history.patterns")
