"""The checks of ``manage.py check``: settings, and the environment of sockets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings as django_settings
from django.core.checks import WARNING, run_checks
from django.db import connection
from django.http import HttpResponse
from django.test import override_settings
from django.urls import path

from django_wsmux import checks
from django_wsmux.checks import check_group_prefix
from django_wsmux.connection import link
from tests.groups.test_group import PREFIXED
from tests.support import ROOT


def found() -> list[tuple[str | None, str]]:
    """Run all checks; return ids and messages."""
    return [(message.id, str(message.msg)) for message in run_checks()]


@pytest.fixture(autouse=True)
def _is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the same messages where there is no compiler, which W028 would add."""
    monkeypatch.setattr(link, "is_compiled", True)


def test_clean() -> None:
    """A correct project gets no messages."""
    assert found() == []


@override_settings(WEBSOCKET_URLCONF="no.such.module")
def test_urlconf() -> None:
    """E001 names the setting and the reason."""
    ((number, text),) = found()
    assert number == "django_wsmux.E001"
    assert text.startswith("WEBSOCKET_URLCONF 'no.such.module' cannot be imported")


@override_settings(WEBSOCKET_MAX_MESSAGE_SIZE="1 MiB")
def test_value() -> None:
    """E002 names the setting and the value."""
    ((number, text),) = found()
    assert number == "django_wsmux.E002"
    assert text.startswith("WEBSOCKET_MAX_MESSAGE_SIZE must be a number of bytes")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("WEBSOCKET_ALLOWED_ORIGIN", "Did you mean WEBSOCKET_ALLOWED_ORIGINS"),
        ("WEBSOCKET_URL_CONF", "Did you mean WEBSOCKET_URLCONF"),
        ("WEBSOCKET_MAX_MESAGE_SIZE", "Did you mean WEBSOCKET_MAX_MESSAGE_SIZE"),
        ("WEBSOCKETS_URLCONF", "Did you mean WEBSOCKET_URLCONF"),
        ("WEBSCOKET_BACKEND", "Did you mean WEBSOCKET_BACKEND"),
        ("WEBSOCKET_ORIGINS", "Did you mean WEBSOCKET_ALLOWED_ORIGINS"),
        ("WEBSOCKET_DRAIN", "Did you mean WEBSOCKET_DRAIN_SECONDS"),
    ],
)
def test_misspelt(name: str, hint: str) -> None:
    """W020 names an unknown setting, and suggests the known one."""
    with override_settings(**{name: 1}):
        (message,) = run_checks()
    assert (message.id, message.level) == ("django_wsmux.W020", WARNING)
    assert str(message.msg).startswith(f"{name} is not a setting")
    assert str(message.hint).startswith(hint)


@pytest.mark.parametrize("name", ["WEBSOCKET_GREETING", "WEBSOCKET_API_KEY", "SOCKETS"])
def test_own_settings(name: str) -> None:
    """A setting that resembles no setting of the package belongs to the project."""
    with override_settings(**{name: 1}):
        assert found() == []


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("\nurlpatterns = [undefined]\n", r"NameError: .* \(raised in .*{}\.py, line 2\)\.$"),
        ("import json\n\njson.loads('')\n", r"JSONDecodeError: .*{}\.py, line 3\)\.$"),
        (
            "from django_wsmux.views import WebSocketView\n"
            "class Chat(WebSocketView):\n    groups = 'chat'\n\n\n"
            "urlpatterns = [Chat.as_view()]\n",
            r"TypeError: .*write groups = \['chat'\].*{}\.py, line 6\)\.$",
        ),
    ],
)
def test_urlconf_that_raises(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, text: str
) -> None:
    """E001 names the line in the project, and does not blame the setting."""
    module = f"urls_{uuid4().hex}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(WEBSOCKET_URLCONF=module):
        (message,) = run_checks()
    assert message.id == "django_wsmux.E001"
    assert re.search(text.format(module), str(message.msg))
    assert message.hint == "Fix that line: the setting itself is correct."
    with override_settings(WEBSOCKET_URLCONF=f"no_{module}"):
        (message,) = run_checks()
    assert "raised in" not in str(message.msg)


@pytest.mark.parametrize("setting", ["WEBSOCKET_ALLOWED_ORIGINS", "CSRF_TRUSTED_ORIGINS"])
def test_opaque_origins(setting: str) -> None:
    """W021 warns of origins that any page can have."""
    with override_settings(**{setting: ["file://"]}):
        assert [number for number, _ in found()] == ["django_wsmux.W021"]
    with override_settings(WEBSOCKET_ALLOWED_ORIGINS=["null", "file://", "https://a.example"]):
        (null, _), messages = zip(*found(), strict=True)
    assert null == "django_wsmux.W021"
    assert messages[0].startswith('"null" is an allowed origin: any page of the web can')


DJANGOS = (
    "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"
)


@pytest.mark.parametrize(
    ("source", "is_warned"),
    [
        (DJANGOS, True),
        ("from django.core import wsgi\napplication = wsgi.get_wsgi_application()", True),
        ("import os, redis\nimport django.core.wsgi\n# from django_wsmux.wsgi import x", True),
        (DJANGOS.replace("core", "core.nothing"), False),
        (f"from django_wsmux.wsgi import WebSocketDispatcher\n{DJANGOS}", False),
        (f"{DJANGOS}\nimport django_wsmux.wsgi", False),
        (f"from .wrapping import wrap\n{DJANGOS}", False),
        (f"from tests.wrapping import wrap\n{DJANGOS}", False),
        (f"{DJANGOS}\nimport_string('django_wsmux.wsgi.WebSocketDispatcher')", False),
        ("def", False),
        (None, False),
    ],
)
def test_wsgi(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str | None, is_warned: bool
) -> None:
    """W019 warns if wsgi.py uses Django's application; the check does not import wsgi.py."""
    module = f"wsgi_{uuid4().hex}"
    if source is not None:
        (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(WSGI_APPLICATION=f"{module}.application"):
        messages = found()
    assert [number for number, _ in messages] == (["django_wsmux.W019"] if is_warned else [])
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("MIDDLEWARE", ["django_tenants.middleware.main.TenantMainMiddleware"]),
        ("MIDDLEWARE", ["crum.CurrentRequestUserMiddleware"]),
        ("MIDDLEWARE", ["django_multitenant.middleware.MultitenantMiddleware"]),
    ],
)
def test_context(setting: str, value: Any) -> None:
    """W014 warns of packages whose state sockets would lack, unless WEBSOCKET_CONTEXT is set."""
    with override_settings(**{setting: value}):
        assert [each.id for each in checks.check_context(None)] == ["django_wsmux.W014"]
        with override_settings(WEBSOCKET_CONTEXT=["tests.project.context.around"]):
            assert checks.check_context(None) == []


@pytest.mark.parametrize("value", ["a.b", ["no.such.function"], ["tests.project.context.tenant"]])
def test_context_functions(value: object) -> None:
    """E002 reports a function of WEBSOCKET_CONTEXT that cannot be used."""
    with override_settings(WEBSOCKET_CONTEXT=value):
        ((number, text),) = found()
    assert number == "django_wsmux.E002"
    assert text.startswith("WEBSOCKET_CONTEXT ")


class BadPatterns:
    """A URLconf with a pattern that gets a warning of Django."""

    urlpatterns = (path("/slash/", lambda request: HttpResponse(), name="a:b"),)


def test_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django's own checks of URLs also check WEBSOCKET_URLCONF."""
    monkeypatch.setitem(sys.modules, "bad_patterns", BadPatterns)
    with override_settings(WEBSOCKET_URLCONF="bad_patterns"):
        assert {number for number, _ in found()} == {"urls.W002", "urls.W003"}


def check(prelude: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run ``manage.py check`` in a process of its own, after this code."""
    program = f"{prelude}\nfrom django.core.management import execute_from_command_line as run\n"
    return subprocess.run(
        [sys.executable, "-c", program + "run(['manage.py', 'check'])"],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.project.settings",
            "TEST_SETTINGS": json.dumps(settings),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


BASE = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
]
STATIC = "django.contrib.staticfiles"


@pytest.mark.parametrize(
    ("apps", "warned"),
    [
        (["django_wsmux", STATIC], False),
        ([STATIC, "django_wsmux"], True),
        # WhiteNoise's command is a subclass of the next one with another default; so is this one.
        (["tests.project.nostatic", "django_wsmux", STATIC], False),
        (["tests.project.nostatic", STATIC, "django_wsmux"], True),
    ],
)
def test_runserver(apps: list[str], warned: bool) -> None:
    """W004 says which app to move, unless runserver leads to the package's command."""
    result = check("", INSTALLED_APPS=[*BASE, *apps], STATIC_URL="static/")
    assert result.returncode == 0
    assert ("(django_wsmux.W004)" in result.stderr) is warned, result.stderr
    assert (f'List "django_wsmux" above "{apps[0]}"' in result.stderr) is warned


@pytest.mark.django_db
@override_settings(WEBSOCKET_OUTBOX=True)
def test_outbox() -> None:
    """W022 names a database without the outbox's table, unless no model is migrated there."""
    assert run_checks(databases=["default"]) == []
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE django_wsmux_outbox")
    assert run_checks() == []
    (message,) = run_checks(databases=["default"])
    assert message.id == "django_wsmux.W022"
    assert str(message.msg).startswith("DATABASES['default'] has no table django_wsmux_outbox")
    assert message.hint == "Run manage.py migrate --database default."
    with override_settings(DATABASE_ROUTERS=["tests.test_checks.Nowhere"]):
        assert run_checks(databases=["default"]) == []
    with override_settings(WEBSOCKET_OUTBOX=False):
        assert run_checks(databases=["default"]) == []


class Nowhere:
    """A router that migrates nothing."""

    def allow_migrate(self, *args: Any, **hints: Any) -> bool:
        """Refuse every model."""
        return False


def test_system_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """django-tenants without a prefix gets a warning."""
    assert not w020()
    monkeypatch.setitem(
        django_settings.DATABASES["default"], "ENGINE", "django_tenants.postgresql_backend"
    )
    (found,) = w020()
    assert "django_tenants gives each tenant its own primary keys" in found
    with PREFIXED:
        assert not w020()


def w020() -> list[str]:
    """Return the messages of the check."""
    return [str(message.msg) for message in check_group_prefix(None)]


POSTGRES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "x"}}


MYSQL = {"default": {"ENGINE": "django.db.backends.mysql", "NAME": "x"}}


def installed(monkeypatch: pytest.MonkeyPatch, version: str, *modules: str) -> None:
    """Pretend that only these modules are installed, psycopg in this version."""

    def find(name: str) -> ModuleSpec | None:
        return ModuleSpec(name, None) if name in modules else None

    monkeypatch.setattr(checks, "find_spec", find)
    monkeypatch.setattr(metadata, "version", lambda name: version)


@pytest.mark.parametrize(
    ("version", "modules", "databases", "number"),
    [
        ("3.1.14", ["psycopg"], POSTGRES, None),
        ("3.2.0b1", ["psycopg"], POSTGRES, None),
        ("3.1.13", ["psycopg"], POSTGRES, "W006"),
        ("3.0", ["psycopg", "psycopg2"], POSTGRES, "W006"),
        ("", ["psycopg2"], POSTGRES, "W005"),
        ("", ["psycopg2", "psycogreen"], POSTGRES, None),
        ("", ["MySQLdb._mysql"], MYSQL, "W007"),
        ("", [], MYSQL, None),
        ("", ["psycopg2", "MySQLdb._mysql"], {}, None),
    ],
)
def test_drivers(
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    modules: list[str],
    databases: dict[str, Any],
    number: str | None,
) -> None:
    """A driver that blocks gevent gets a warning that says what to install instead."""
    installed(monkeypatch, version, *modules)
    monkeypatch.setattr(django_settings, "DATABASES", databases)
    found = checks.check_drivers(None)
    assert [message.id for message in found] == ([f"django_wsmux.{number}"] if number else [])
    assert all(message.hint for message in found)


@pytest.mark.parametrize(("age", "count"), [(0, 0), (60, 0), (None, 1)])
def test_connections_for_ever(monkeypatch: pytest.MonkeyPatch, age: int | None, count: int) -> None:
    """Persistent connections get a warning: each greenlet would keep one."""
    databases = {"default": {**POSTGRES["default"], "CONN_MAX_AGE": age}}
    monkeypatch.setattr(django_settings, "DATABASES", databases)
    found = checks.check_persistent_connections(None)
    assert [message.id for message in found] == ["django_wsmux.W008"] * count


def async_only(get_response: Any) -> Any:
    """Stand for an async-only middleware."""


def test_async_middleware(settings: Any) -> None:
    """An async-only middleware is an error: it would start an event loop in a worker."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.async_only"]
    found = checks.check_async_middleware(None)
    assert [message.id for message in found] == ["django_wsmux.E009"]
    assert found[0].msg.startswith(f"{__name__}.async_only is asynchronous only")


async_only.sync_capable = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(("origins", "count"), [((), 0), (("https://a.example",), 0), (("*",), 1)])
def test_origins(settings: Any, origins: tuple[str, ...], count: int) -> None:
    """Allowing every origin gets a warning in deployment checks."""
    settings.WEBSOCKET_ALLOWED_ORIGINS = origins
    found = [each.id for each in run_checks(include_deployment_checks=True)]
    assert found.count("django_wsmux.W011") == count


@pytest.mark.parametrize(
    ("backend", "host", "count"),
    [
        ("local://", "", 0),
        ("local://", "127.0.0.1", 0),
        ("local://", "/run/postgresql", 0),
        ("local://", "db.example", 1),
        ("redis://cache.example", "db.example", 0),
    ],
)
def test_one_machine(
    monkeypatch: pytest.MonkeyPatch, settings: Any, backend: str, host: str, count: int
) -> None:
    """A database on another machine suggests several web servers, which local:// cannot connect."""
    settings.WEBSOCKET_BACKEND = backend
    databases = {"default": {**POSTGRES["default"], "HOST": host}}
    monkeypatch.setattr(django_settings, "DATABASES", databases)
    found = checks.check_one_machine(None)
    assert [message.id for message in found] == ["django_wsmux.W012"] * count


def test_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """W028 says why Python serves the sockets, and how to change it."""
    assert checks.check_compiled(None) == []
    monkeypatch.setattr(link, "is_compiled", False)
    monkeypatch.setattr(link, "WHY_NOT", "it cannot be loaded: file too short")
    (message,) = checks.check_compiled(None)
    assert message.id == "django_wsmux.W028"
    assert str(message.msg).endswith(": it cannot be loaded: file too short.")
    assert "pip install" in str(message.hint)


def test_not_compiled() -> None:
    """``manage.py check`` of a project prints W028."""
    result = check("import sys; sys.modules['django_wsmux.connection._reactor'] = None")
    assert result.returncode == 0
    assert "django_wsmux.W028" in result.stderr
    assert "it was not compiled when the package was installed" in result.stderr
