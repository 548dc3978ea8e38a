"""The checks of ``manage.py check``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.checks import WARNING, run_checks
from django.db import connection
from django.http import HttpResponse
from django.test import override_settings
from django.urls import path

from django_wsmux import checks
from tests.support import ROOT


def found() -> list[tuple[str | None, str]]:
    """Run all checks; return ids and messages."""
    return [(message.id, str(message.msg)) for message in run_checks()]


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


@pytest.mark.parametrize("prelude", ["", "from gevent import monkey; monkey.patch_all()"])
def test_patched_or_not(prelude: str) -> None:
    """A command may run in a process that is fully patched, or not at all."""
    assert check(prelude).returncode == 0


def test_partially_patched() -> None:
    """E003 names what is not patched."""
    result = check("from gevent import monkey; monkey.patch_all(socket=False, ssl=False)")
    assert result.returncode == 1
    assert "(django_wsmux.E003) this process serves with gevent, but socket, ssl" in result.stderr


def test_partially_patched_at_start() -> None:
    """The application does not start in such a process."""
    program = (
        "from gevent import monkey; monkey.patch_all(thread=False)\n"
        "from django_wsmux.wsgi import get_wsgi_application; get_wsgi_application()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.project.settings"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "ImproperlyConfigured: this process serves with gevent, but threading" in result.stderr


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
