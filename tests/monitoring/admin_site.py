"""The sample site for its operators."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.sample_site.conftest import serve
from tests.support import ROOT, Answer, Server

__all__ = ["PAGE", "SOCKET", "AdminSite", "admin_site"]

PAGE = "/admin/django_wsmux/socket/"
SOCKET = "/admin/sockets/"

SETUP = """
import json, django
django.setup()
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.backends.db import SessionStore
"""

# Signed-in users: one is not staff, one may not view sockets, the others may do one thing each.
USERS = """
PERMISSIONS = {
    "operator": ["view_socket"],
    "clerk": [],
    "visitor": ["view_socket"],
    "closer": ["view_socket", "close_socket"],
    "warden": ["view_socket", "sign_out_user"],
    "speaker": ["view_socket", "send_to_group"],
    "clerk of users": ["view_socket", "view_user"],
    "root": [],
}
keys = {}
for name, codenames in PERMISSIONS.items():
    user = User.objects.create_user(name, is_staff=name != "visitor", is_superuser=name == "root")
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    keys[name] = session.session_key
print(json.dumps(keys))
"""


class AdminSite:
    """The sample site with two workers, and the session keys of signed-in users."""

    def __init__(self, directory: Path) -> None:
        self._env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "sample_site.settings",
            "SAMPLE_SITE_DATABASE": str(directory / "db.sqlite3"),
        }
        self.server: Server = serve(directory, GUNICORN_CMD_ARGS="-w 2")
        self.keys: dict[str, str] = json.loads(self.run(USERS))

    def run(self, program: str) -> str:
        """Run a program of the project; return its output."""
        command = [sys.executable, "-c", SETUP + program]
        return subprocess.run(
            command, env=self._env, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def value(self, expression: str) -> Any:
        """Return the value of an expression of the project, through JSON."""
        return json.loads(self.run(f"print(json.dumps({expression}))"))

    def user_id(self, name: str) -> str:
        """Return the primary key of a user."""
        return str(self.value(f"User.objects.get(username={name!r}).pk"))

    def log(self) -> list[list[str]]:
        """Return the log of the admin, the newest entry first: user, target, change."""
        found: list[list[str]] = self.value(
            "[[str(e.user), e.object_repr, e.change_message] for e in "
            "__import__('django.contrib.admin.models', fromlist=['']).LogEntry.objects.all()]"
        )
        return found

    def cookie(self, name: str) -> dict[str, str]:
        """Return the headers of a signed-in user; without a cookie for ``""``."""
        return {"Cookie": f"sessionid={self.keys[name]}"} if name else {}

    def get(self, name: str, path: str = "") -> Answer:
        """Request a page as a user, below the page of sockets."""
        return self.server.request(PAGE + path, self.cookie(name))

    def post(self, name: str, fields: Sequence[tuple[str, str]], path: str = "") -> Answer:
        """Send a form as a user, with the token of the page of sockets."""
        page = self.get(name)
        (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[-1:]
        (csrf,) = re.findall(r"csrftoken=\w+", str(page.headers["Set-Cookie"]))
        headers = {
            "Cookie": f"{self.cookie(name)['Cookie']}; {csrf}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        body = urlencode([*fields, ("csrfmiddlewaretoken", token)])
        return self.server.request(PAGE + path, headers, body)


@pytest.fixture(scope="module")
def admin_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminSite]:
    """The sample site for its operators."""
    site = AdminSite(tmp_path_factory.mktemp("admin"))
    yield site
    site.server.stop()
