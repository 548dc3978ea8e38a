"""System checks: ``manage.py check`` says what would go wrong, and how to mend it.

=============  ==========================================================
django_wsmux   what is wrong
=============  ==========================================================
E001           ``WEBSOCKET_URLCONF`` is missing or cannot be imported
E002           another setting has a value that cannot be used
E003           the process is monkey-patched by gevent in part
W004           ``runserver`` is another app's, which refuses sockets
W005           psycopg2 without psycogreen: a query stops all sockets
W006           psycopg older than 3.1.14: the same
W007           mysqlclient: the same
W008           a database's connections are kept for ever
E009           a middleware is asynchronous only
E010           a view of ``WEBSOCKET_URLCONF`` is async
W011           every origin is allowed (``--deploy``)
W012           ``local://`` beside a database on another machine (``--deploy``)
W013           tickets in a cache that workers do not share (``--deploy``)
=============  ==========================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.checks.urls import check_resolver
from django.core.management import get_commands, load_command_class
from django.urls import get_resolver

from . import conf
from .server import patching

__all__ = ["check_patching", "check_runserver", "check_settings", "check_urlconf"]


@register()
def check_settings(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check the value of every setting."""
    return [
        Error(
            message,
            hint=f"Set {setting.name} in the settings module.",
            id="django_wsmux.E001" if setting.name == "WEBSOCKET_URLCONF" else "django_wsmux.E002",
        )
        for setting, message in conf.problems()
    ]


@register(Tags.urls)
def check_urlconf(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Have Django check ``WEBSOCKET_URLCONF`` as it checks ``ROOT_URLCONF``."""
    urlconf = conf.get("WEBSOCKET_URLCONF")
    if conf.SETTINGS["WEBSOCKET_URLCONF"].problem(urlconf) is not None:
        return []  # check_settings says it
    return list(check_resolver(get_resolver(urlconf)))


@register()
def check_patching(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that a process patched by gevent is patched as a whole."""
    problem = patching.partial_problem()
    if problem is None:
        return []
    return [
        Error(
            problem,
            hint="Call gevent's monkey.patch_all() without exceptions, and first.",
            id="django_wsmux.E003",
        )
    ]


@register()
def check_runserver(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that ``manage.py runserver`` is ours, or wraps ours: the app listed first has it."""
    owner = get_commands()["runserver"]
    if owner == "django_wsmux":
        return []
    from .management.commands.runserver import Command

    if isinstance(load_command_class(owner, "runserver"), Command):
        return []
    return [
        Warning(
            f"manage.py runserver is the command of {owner}, which refuses WebSockets.",
            hint=f'List "django_wsmux" above "{owner}" in INSTALLED_APPS.',
            id="django_wsmux.W004",
        )
    ]
