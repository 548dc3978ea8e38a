"""System checks of database drivers, middleware, views, origins and caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Final

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils.module_loading import import_string

from . import conf
from .auth.tickets import ticket

__all__ = [
    "check_async_middleware",
    "check_async_views",
    "check_drivers",
    "check_one_machine",
    "check_origins",
    "check_persistent_connections",
    "check_ticket_cache",
]

_POSTGRES: Final = ("django.db.backends.postgresql", "django.contrib.gis.db.backends.postgis")
_MYSQL: Final = ("django.db.backends.mysql", "django.contrib.gis.db.backends.mysql")

#: The first version of psycopg that cooperates with gevent.
_PSYCOPG: Final = (3, 1, 14)


def _engines() -> set[str]:
    return {str(database.get("ENGINE", "")) for database in settings.DATABASES.values()}


@register(Tags.database)
def check_drivers(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that a query of one socket does not block the others."""
    found: list[CheckMessage] = []
    engines = _engines()
    if engines & set(_POSTGRES):
        if find_spec("psycopg") is not None:
            version = metadata.version("psycopg")
            if tuple(int(part) for part in version.split(".")[:3] if part.isdigit()) < _PSYCOPG:
                found.append(
                    Warning(
                        f"psycopg {version} does not cooperate with gevent: while one socket waits "
                        f"for a query, the worker serves nothing else.",
                        hint='pip install "psycopg>=3.1.14"',
                        id="django_wsmux.W006",
                    )
                )
        elif find_spec("psycogreen") is None:
            found.append(
                Warning(
                    "psycopg2 does not cooperate with gevent: while one socket waits for a query, "
                    "the worker serves nothing else.",
                    hint='pip install "psycopg[binary]>=3.1.14", which Django prefers, or patch '
                    "psycopg2 with psycogreen.",
                    id="django_wsmux.W005",
                )
            )
    if engines & set(_MYSQL) and find_spec("MySQLdb._mysql") is not None:
        found.append(
            Warning(
                "mysqlclient does not cooperate with gevent: while one socket waits for a query, "
                "the worker serves nothing else.",
                hint="Use PyMySQL: import pymysql; pymysql.install_as_MySQLdb() in manage.py and "
                "wsgi.py, and uninstall mysqlclient.",
                id="django_wsmux.W007",
            )
        )
    return found


@register(Tags.database)
def check_persistent_connections(
    app_configs: Sequence[Any] | None, **kwargs: Any
) -> list[CheckMessage]:
    """Check that connections, of which each greenlet opens its own, are not kept forever."""
    return [
        Warning(
            f"DATABASES[{alias!r}] keeps connections forever, and each of up to "
            f"{conf.get('WEBSOCKET_HANDLER_GREENLETS')} greenlets of a worker has its own.",
            hint='Set CONN_MAX_AGE to 0 and use a pool ("OPTIONS": {"pool": True} with psycopg), '
            "or set it to a number of seconds.",
            id="django_wsmux.W008",
        )
        for alias, database in settings.DATABASES.items()
        if database.get("ENGINE") and database.get("CONN_MAX_AGE", 0) is None
    ]


@register()
def check_async_middleware(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that each middleware can run in synchronous Django."""
    found: list[CheckMessage] = []
    for path in settings.MIDDLEWARE:
        try:
            middleware = import_string(path)
        except ImportError:
            continue  # Django reports it, in more detail, when it starts
        if not getattr(middleware, "sync_capable", True):
            found.append(
                Error(
                    f"{path} is asynchronous only: it would start an event loop in the worker, and "
                    f"Django would then refuse ORM calls from every socket.",
                    hint="Use middleware that is sync_capable.",
                    id="django_wsmux.E009",
                )
            )
    return found


@register(Tags.urls)
def check_async_views(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that no view of ``WEBSOCKET_URLCONF`` is async."""
    urlconf = conf.get("WEBSOCKET_URLCONF")
    if conf.SETTINGS["WEBSOCKET_URLCONF"].problem(urlconf) is not None:
        return []
    return [
        Error(
            f"The view of {pattern.pattern} in WEBSOCKET_URLCONF is async.",
            hint="WebSocket views are synchronous code: write def instead of async def.",
            obj=pattern.callback,
            id="django_wsmux.E010",
        )
        for pattern in _patterns(get_resolver(urlconf))
        if iscoroutinefunction(pattern.callback)
        or getattr(pattern.callback, "view_is_async", False)
    ]


def _patterns(resolver: URLResolver) -> Iterator[URLPattern]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            yield from _patterns(pattern)
        else:
            yield pattern


@register(Tags.security, deploy=True)
def check_origins(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that not every website may open sockets with the cookies of its visitors."""
    if "*" not in conf.get("WEBSOCKET_ALLOWED_ORIGINS"):
        return []
    return [
        Warning(
            "WEBSOCKET_ALLOWED_ORIGINS lets every website open sockets with the cookies of its "
            "visitors.",
            hint='List the origins to allow, such as "https://example.com" or '
            '"https://*.example.com".',
            id="django_wsmux.W011",
        )
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
    alias, urlconf = conf.get("WEBSOCKET_TICKET_CACHE"), conf.get("WEBSOCKET_URLCONF")
    backend = settings.CACHES.get(alias, {}).get("BACKEND")
    if backend not in _NO_TICKET_CACHES or conf.SETTINGS["WEBSOCKET_URLCONF"].problem(urlconf):
        return []
    patterns = _patterns(get_resolver(urlconf))
    if all(ticket not in getattr(each.callback, "authenticators", ()) for each in patterns):
        return []
    return [
        Warning(
            f"Views accept tickets, but CACHES[{alias!r}] {_NO_TICKET_CACHES[backend]}",
            hint="Set WEBSOCKET_TICKET_CACHE to the alias of a cache in Redis, memcached or the "
            "database, or silence this check if there is only one worker.",
            id="django_wsmux.W013",
        )
    ]


@register(Tags.compatibility, deploy=True)
def check_one_machine(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that groups reach every machine on which the project seems to run."""
    if not str(conf.get("WEBSOCKET_BACKEND")).startswith("local:"):
        return []
    hosts = {str(database.get("HOST", "")) for database in settings.DATABASES.values()}
    if hosts <= {"", "localhost", "127.0.0.1", "::1"} or any(h.startswith("/") for h in hosts):
        return []
    return [
        Warning(
            "WEBSOCKET_BACKEND is local://, which reaches the processes of one machine only, but "
            "the database is on another machine: several web servers would not share their groups.",
            hint='Set WEBSOCKET_BACKEND to "redis://..." or "postgres://", or silence this check '
            "if there is only one web server.",
            id="django_wsmux.W012",
        )
    ]
