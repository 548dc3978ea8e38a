"""System checks: ``manage.py check`` reports problems, and how to fix them.

=============  ==========================================================
django_wsmux   what is wrong
=============  ==========================================================
E001           ``WEBSOCKET_URLCONF`` is missing or cannot be imported
E002           another setting has a value that cannot be used
E003           the process is only partly monkey-patched by gevent
W004           ``runserver`` belongs to another app and refuses sockets
W005           psycopg2 without psycogreen: a query blocks all sockets
W006           psycopg older than 3.1.14: the same
W007           mysqlclient: the same
W008           a database's connections are kept forever
E009           a middleware is asynchronous only
E010           a view of ``WEBSOCKET_URLCONF`` is async
W011           every origin is allowed (``--deploy``)
W012           ``local://`` with a database on another machine (``--deploy``)
W013           tickets in a cache that workers do not share (``--deploy``)
W014           a package keeps tenant or user where sockets cannot see it
W015           tenants share the groups of users, and all other groups
W016           processes that belong together may not hear each other
E017           ``WEBSOCKET_BACKEND`` can never work as it is set up
W018           ``WEBSOCKET_BACKEND`` does not work now, or not for this user
W019           ``WSGI_APPLICATION`` does not serve WebSockets
W020           a setting has an unknown name
W021           an origin that names no site is allowed
W022           ``WEBSOCKET_OUTBOX`` without its table (``check --database default``)
W023           a pattern of ``WEBSOCKET_HISTORY`` never applies
W024           the history of groups is in a service's own temporary directory
E025           ``WEBSOCKET_BACKEND`` has no store for ``WEBSOCKET_HISTORY``
W026           Redis may delete the history of groups (``check --database default``)
E027           a view with ``once = True`` may run a request twice (some caches: ``--deploy``)
W028           the C extension is not in use: messages take more CPU time
=============  ==========================================================
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.checks.urls import check_resolver
from django.core.management import get_commands, load_command_class
from django.db import connections, router
from django.urls import get_resolver
from django.utils.module_loading import import_string

from . import conf
from .connection import link
from .exceptions import BackendMisconfigured, BackendUnavailable
from .groups import namespace
from .protocol import origin
from .server import patching
from .server.imports import imported_by, is_installed

__all__ = [
    "check_async_middleware",
    "check_backend",
    "check_compiled",
    "check_context",
    "check_drivers",
    "check_eviction",
    "check_history",
    "check_names",
    "check_one_machine",
    "check_opaque_origins",
    "check_origins",
    "check_outbox",
    "check_patching",
    "check_persistent_connections",
    "check_runserver",
    "check_settings",
    "check_urlconf",
    "check_wsgi",
]


@register()
def check_settings(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check the value of every setting."""
    return [
        Error(
            message,
            hint=_hint(setting, message),
            id="django_wsmux.E001" if setting.name == "WEBSOCKET_URLCONF" else "django_wsmux.E002",
        )
        for setting, message in conf.problems()
    ]


def _hint(setting: conf.Setting, message: str) -> str:
    # The value may be correct while the module that it names fails.
    if conf.RAISED_IN in message:
        return "Fix that line: the setting itself is correct."
    return f"Set {setting.name} in the settings module."


@register()
def check_backend(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that this process could listen, and would hear the other processes of its project."""
    value = conf.get("WEBSOCKET_BACKEND")
    if conf.SETTINGS["WEBSOCKET_BACKEND"].problem(value) is not None:
        return []  # check_settings reports it
    found: list[CheckMessage] = [
        Warning(doubt, hint=cure, id="django_wsmux.W016") for doubt, cure in namespace.doubts()
    ]
    if problem := namespace.backend_problem():
        text = f"WEBSOCKET_BACKEND cannot be used: {problem.backend}: {problem.problem}"
        if _is_final(problem):
            found.append(Error(text, hint=problem.advice or None, id="django_wsmux.E017"))
        else:
            found.append(Warning(text, hint=_hint_for_now(problem), id="django_wsmux.W018"))
    return found


#: Errors that another user may not get, or this one once the service has created its directory.
_OF_THIS_PROCESS: Final = frozenset({errno.EACCES, errno.ENOENT, errno.EPERM, errno.EROFS})


def _is_final(problem: BackendUnavailable) -> bool:
    """Return whether no process could ever use the backend as it is set up."""
    is_misconfigured = isinstance(problem, BackendMisconfigured)
    return is_misconfigured and getattr(problem.__cause__, "errno", 0) not in _OF_THIS_PROCESS


def _hint_for_now(problem: BackendUnavailable) -> str | None:
    if not isinstance(problem, BackendMisconfigured):
        return problem.advice or None
    return f"{problem.advice}. A server does not start like this, but commands run."


@register()
def check_names(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that no setting is misspelt, since it would have no effect."""
    return [
        Warning(
            f"{name} is not a setting of django_wsmux, so it has no effect.",
            hint=f"Did you mean {' or '.join(meant)}?",
            id="django_wsmux.W020",
        )
        for name, meant in conf.unknown()
    ]


_ANYBODYS: Final = {
    "null": "any page of the web can have this origin, by means of a sandboxed iframe",
    "file://": "in some browsers, any HTML file on a visitor's machine has this origin",
}


@register(Tags.security)
def check_opaque_origins(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that no origin is allowed that does not name a site."""
    allowed = {*conf.get("WEBSOCKET_ALLOWED_ORIGINS"), *settings.CSRF_TRUSTED_ORIGINS}
    return [
        Warning(
            f'"{each}" is an allowed origin: {_ANYBODYS[each]}, and connects with the cookies of '
            f"the visitor.",
            hint="Remove it, or authenticate such clients by ticket or token and silence this "
            "check.",
            id="django_wsmux.W021",
        )
        for each in origin.OPAQUE
        if each in allowed
    ]


@register()
def check_wsgi(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that the project's WSGI application serves WebSockets.

    The module is read, not imported: an import would create the application in every command.
    """
    module, _, _ = str(settings.WSGI_APPLICATION or "").rpartition(".")
    imported = imported_by(module)
    # Another module of the project may wrap the application.
    if "django.core.wsgi" not in imported or not all(map(is_installed, imported)):
        return []
    return [
        Warning(
            f"WSGI_APPLICATION ({settings.WSGI_APPLICATION}) does not serve WebSockets: {module} "
            f"uses Django's own get_wsgi_application().",
            hint="In that module, import get_wsgi_application from django_wsmux.wsgi instead of "
            "django.core.wsgi, or wrap the application: WebSocketDispatcher(application).",
            id="django_wsmux.W019",
        )
    ]


@register(Tags.urls)
def check_urlconf(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Have Django check ``WEBSOCKET_URLCONF`` as it checks ``ROOT_URLCONF``."""
    urlconf = conf.get("WEBSOCKET_URLCONF")
    if conf.SETTINGS["WEBSOCKET_URLCONF"].problem(urlconf) is not None:
        return []  # check_settings reports it
    return list(check_resolver(get_resolver(urlconf)))


@register()
def check_group_prefix(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that tenants with schemas of their own do not share groups."""
    tenants = next((name for name in ("django_tenants", "tenant_schemas") if is_known(name)), None)
    if tenants is None or conf.get("WEBSOCKET_GROUP_PREFIX") is not None:
        return []
    return [
        Warning(
            f"{tenants} gives each tenant its own primary keys, but all tenants share the groups: "
            f"Group.for_user() in one tenant also reaches a user of another tenant.",
            hint=(
                "Set WEBSOCKET_GROUP_PREFIX to the dotted path of a function that returns "
                "django.db.connection.schema_name."
            ),
            id="django_wsmux.W015",
        )
    ]


def is_known(app: str) -> bool:
    """Return whether an app is installed or its database backend is used."""
    engines = (str(database.get("ENGINE", "")) for database in settings.DATABASES.values())
    return apps.is_installed(app) or any(engine.startswith(f"{app}.") for engine in engines)


@register()
def check_patching(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that a process patched by gevent is patched completely."""
    problem = patching.partial_problem()
    if problem is None:
        return []
    return [
        Error(
            problem,
            hint="Call gevent's monkey.patch_all() before everything else, and exclude no module.",
            id="django_wsmux.E003",
        )
    ]


@register()
def check_runserver(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that ``manage.py runserver`` is ours or wraps ours: the first app in the list wins."""
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


#: Packages that keep values of a request outside of context variables.
_KEEPERS: Final = {
    "django_tenants": "django-tenants keeps the tenant on the database connection",
    "django_multitenant": "django-multitenant keeps the tenant in a threading.local",
    "crum": "django-crum keeps the user in a threading.local",
}


@register()
def check_context(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that sockets get the values that some packages keep outside of the request."""
    if conf.get("WEBSOCKET_CONTEXT"):
        return []
    engines = [database.get("ENGINE", "") for database in settings.DATABASES.values()]
    named = [*settings.INSTALLED_APPS, *settings.MIDDLEWARE, *engines]
    packages = {str(name).partition(".")[0] for name in named}
    return [
        Warning(
            f"{what}: WebSocket views do not have it once the socket is open.",
            hint="Set WEBSOCKET_CONTEXT; docs/views.rst shows how.",
            id="django_wsmux.W014",
        )
        for package, what in _KEEPERS.items()
        if package in packages
    ]


# Drivers, middleware, views and caches

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


@register(Tags.database)
def check_outbox(
    app_configs: Sequence[Any] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check that the databases named on the command line have the table of the outbox."""
    if not conf.get("WEBSOCKET_OUTBOX"):
        return []
    outbox = apps.get_model("django_wsmux", "Outbox")
    table = outbox._meta.db_table
    return [
        Warning(
            f"DATABASES[{alias!r}] has no table {table}, so stored=True fails there.",
            hint=f"Run manage.py migrate --database {alias}.",
            id="django_wsmux.W022",
        )
        for alias in databases or ()
        if router.allow_migrate_model(alias, outbox)
        and table not in connections[alias].introspection.table_names()
    ]


@register()
def check_history(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check the patterns and the store of groups with a history, if there are any."""
    if not conf.has_history():
        return []
    from .history.checks import messages

    return messages(has_private_tmp=namespace.has_private_tmp())


@register(Tags.database)
def check_eviction(
    app_configs: Sequence[Any] | None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check that Redis keeps the history of groups when its memory is full.

    Runs only if databases are named on the command line: other checks do not connect to servers.
    """
    if not databases or not conf.has_history():
        return []
    from .history.checks import evictions

    return evictions(namespace.namespace())


@register()
def check_compiled(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    """Check that the C extension is in use, where there is one."""
    if link.is_compiled or sys.platform == "win32":
        return []
    return [
        Warning(
            f"Sockets are served by Python code, which takes more CPU time than the C extension: "
            f"{link.WHY_NOT}.",
            hint="Install a C compiler and Python's headers (on Debian: build-essential and "
            "python3-dev), then: pip install --force-reinstall --no-deps --no-cache-dir "
            "--no-binary django-wsmux django-wsmux",
            id="django_wsmux.W028",
        )
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
