"""Renders templates without a request: what is sent to a group is the same for all members."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import django
from django.core.exceptions import ImproperlyConfigured
from django.template import TemplateDoesNotExist
from django.template.loader import get_template
from django.utils import timezone, translation

__all__ = ["active", "check_context", "load", "render"]

Result = TypeVar("Result")


def load(template_name: str, using: str | None = None) -> Any:
    """Return a template of one of the template engines.

    Args:
        template_name: its name; ``"chat/line.html#line"`` is a partial of a template.
        using: the name of the engine; ``None`` for the first that finds the template.

    Raises:
        ImproperlyConfigured: it is a partial, which needs Django 6.
        TemplateDoesNotExist: there is no such template.
    """
    try:
        return get_template(template_name, using=using)
    except TemplateDoesNotExist:
        # A loader of the project may find partials in other versions.
        if "#" in template_name and django.VERSION < (6,):
            raise ImproperlyConfigured(
                f"{template_name!r} is a partial of a template: this needs Django 6, not "
                f"{django.get_version()}"
            ) from None
        raise


def render(
    template_name: str, context: Mapping[str, Any] | None = None, *, using: str | None = None
) -> str:
    """Render a template in the active language, without a request.

    Args:
        template_name: its name; ``"chat/line.html#line"`` is a partial of a template (Django 6).
        context: its variables.
        using: the name of the template engine; ``None`` for the first that finds the template.

    Raises:
        TypeError: the context has a ``request``.
        ImproperlyConfigured: it is a partial, which needs Django 6.
        TemplateDoesNotExist: there is no such template.
    """
    check_context(context)
    html: str = load(template_name, using).render(dict(context or {}))
    return html


def check_context(context: Mapping[str, Any] | None) -> None:
    """Raise if a context has a request.

    Raises:
        TypeError: it has.
    """
    if context is not None and "request" in context:
        raise TypeError(
            "the context has a request, but all members of the group get the same HTML: pass the "
            "values that the template needs"
        )


def active() -> Callable[[Callable[[], Result]], Result]:
    """Return a function that calls another with the language and time zone that are active now."""
    language, zone = translation.get_language(), timezone.get_current_timezone()

    def call(function: Callable[[], Result]) -> Result:
        with translation.override(language), timezone.override(zone):
            return function()

    return call
