"""System checks of the views in ``WEBSOCKET_URLCONF``; ``checks.py`` lists them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.cache import DEFAULT_CACHE_ALIAS
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.urls import URLPattern, URLResolver, get_resolver

from . import conf
from .auth.tickets import ticket

__all__ = [
    "check_async_views",
    "check_once_cache",
    "check_once_cache_of_workers",
    "check_ticket_cache",
]


def _views() -> list[URLPattern]:
    """Return the patterns with the views; none if the URLconf has a problem of its own."""
    urlconf = conf.get("WEBSOCKET_URLCONF")
    if conf.SETTINGS["WEBSOCKET_URLCONF"].problem(urlconf) is not None:
        return []  # check_settings reports it
    return list(_patterns(get_resolver(urlconf)))


def _patterns(resolver: URLResolver) -> Iterator[URLPattern]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            yield from _patterns(pattern)
        else:
            yield pattern


@register(Tags.urls)
def check_async_views(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that no view of ``WEBSOCKET_URLCONF`` is async."""
    return [
        Error(
            f"The view of {pattern.pattern} in WEBSOCKET_URLCONF is async.",
            hint="WebSocket views are synchronous code: write def instead of async def.",
            obj=pattern.callback,
            id="django_wsmux.E010",
        )
        for pattern in _views()
        if iscoroutinefunction(pattern.callback)
        or getattr(pattern.callback, "view_is_async", False)
    ]


#: Caches of Django that workers do not share, or that may accept one ticket twice.
_NO_TICKET_CACHES: Final = {
    "django.core.cache.backends.locmem.LocMemCache": "is local to each worker: a ticket that one "
    "worker issues is refused by the others.",
    "django.core.cache.backends.dummy.DummyCache": "stores nothing: every ticket is refused.",
    "django.core.cache.backends.filebased.FileBasedCache": "may accept one ticket from two clients "
    "that use it at the same time.",
}


@register(Tags.caches, deploy=True)
def check_ticket_cache(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that workers share the cache of tickets, if views accept tickets."""
    alias = conf.get("WEBSOCKET_TICKET_CACHE")
    backend = settings.CACHES.get(alias, {}).get("BACKEND")
    if backend not in _NO_TICKET_CACHES:
        return []
    if all(ticket not in getattr(each.callback, "authenticators", ()) for each in _views()):
        return []
    return [
        Warning(
            f"Views accept tickets, but CACHES[{alias!r}] {_NO_TICKET_CACHES[backend]}",
            hint="Set WEBSOCKET_TICKET_CACHE to the alias of a cache in Redis, memcached or the "
            "database, or silence this check if there is only one worker.",
            id="django_wsmux.W013",
        )
    ]


#: Caches of Django that cannot let one of several workers run a request.
_NO_ONCE_CACHES: Final = {
    "django.core.cache.backends.locmem.LocMemCache": "is local to each worker.",
    "django.core.cache.backends.filebased.FileBasedCache": "may let two workers run a request that "
    "both get at the same time.",
}


@register(Tags.caches)
def check_once_cache(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that the cache stores what views with ``once = True`` have answered."""
    return _once_problems(
        {"django.core.cache.backends.dummy.DummyCache": "stores nothing."},
        "Set it to a cache in Redis, memcached or the database.",
    )


@register(Tags.caches, deploy=True)
def check_once_cache_of_workers(
    app_configs: Sequence[Any] | None, **kwargs: Any
) -> list[CheckMessage]:
    """Check that workers share the cache of views with ``once = True``."""
    return _once_problems(
        _NO_ONCE_CACHES,
        "Set it to a cache in Redis, memcached or the database, or silence this check if there is "
        "only one worker.",
    ) + _once_problems(
        _small_once_caches(),
        "Set MAX_ENTRIES in its OPTIONS to more than the entries of five minutes: "
        f"{_FEWEST_ENTRIES:,} or more.",
    )


#: The fewest entries of a cache, so that it keeps what views with ``once = True`` have answered.
_FEWEST_ENTRIES: Final = 10_000


def _small_once_caches() -> dict[str, str]:
    cache = settings.CACHES.get(DEFAULT_CACHE_ALIAS, {})
    # Django's default is 300.
    most = cache.get("max_entries", (cache.get("OPTIONS") or {}).get("MAX_ENTRIES", 300))
    if most >= _FEWEST_ENTRIES:
        return {}
    problem = f"removes entries as soon as it has more than {most}, and forgets their requests."
    return {"django.core.cache.backends.db.DatabaseCache": problem}


def _once_problems(caches: dict[str, str], hint: str) -> list[CheckMessage]:
    backend = settings.CACHES.get(DEFAULT_CACHE_ALIAS, {}).get("BACKEND")
    if backend not in caches:
        return []
    return [
        Error(
            f"The view of {pattern.pattern} in WEBSOCKET_URLCONF has once = True, but "
            f"CACHES[{DEFAULT_CACHE_ALIAS!r}] {caches[backend]}",
            hint=hint,
            obj=pattern.callback,
            id="django_wsmux.E027",
        )
        for pattern in _views()
        if _runs_once(pattern.callback)
    ]


def _runs_once(view: Any) -> bool:
    default = getattr(getattr(view, "view_class", None), "once", False)
    return bool(getattr(view, "view_initkwargs", {}).get("once", default))
