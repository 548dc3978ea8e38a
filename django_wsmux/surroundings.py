"""What a view finds active beside its arguments: language, time zone and script prefix.

Django keeps them in context variables, set at the beginning of a request. A socket outlives its
request, so they are taken down when it is accepted and hold for every message. Each message runs
in a copy of a prepared context, so what a view activates ends with it, at no cost to speak of.
"""

from __future__ import annotations

from contextvars import Context
from functools import lru_cache
from typing import Any, Final

from django.urls import get_script_prefix, set_script_prefix
from django.utils import timezone, translation

__all__ = ["Surroundings", "current"]

_PREPARED = "_django_wsmux_surroundings"

_NOTHING: Final[dict[Any, Any]] = {}

#: Contexts that a greenlet keeps: users of more languages and time zones than that take turns.
_MOST: Final = 64


class Surroundings:
    """One combination of the three, shared by all sockets that have it; see ``current()``.

    Args:
        script_prefix: where the site is mounted.
        time_zone: ``tzinfo``.
        language: language code; ``None`` for no translation.
    """

    __slots__ = ("_language", "_script_prefix", "_time_zone")

    def __init__(self, script_prefix: str, time_zone: Any, language: str | None) -> None:
        self._script_prefix = script_prefix
        self._time_zone = time_zone
        self._language = language

    def context(self, greenlet: object) -> Context:
        """Return a context to run something in that has the three active.

        Args:
            greenlet: the current one. What a context holds is valid in the greenlet that put it
                there (asgiref 3.11, ``local.py``), so each prepares its own.
        """
        prepared: dict[Surroundings, Context] = getattr(greenlet, _PREPARED, _NOTHING)
        context = prepared.get(self)
        if context is None:
            context = self._prepare(greenlet)
        return context.copy()

    def _prepare(self, greenlet: object) -> Context:
        prepared: dict[Surroundings, Context] | None = getattr(greenlet, _PREPARED, None)
        if prepared is None or len(prepared) >= _MOST:
            prepared = {}
            setattr(greenlet, _PREPARED, prepared)
        context = prepared[self] = Context()
        context.run(self._activate)
        return context

    def _activate(self) -> None:
        set_script_prefix(self._script_prefix)
        timezone.activate(self._time_zone)
        if self._language is None:
            translation.deactivate_all()
        else:
            translation.activate(self._language)


_shared = lru_cache(maxsize=256)(Surroundings)


def current() -> Surroundings:
    """Return what is active now."""
    return _shared(get_script_prefix(), timezone.get_current_timezone(), translation.get_language())
