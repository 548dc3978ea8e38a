"""The page of sockets in Django's admin."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from selenium import webdriver
from websockets.exceptions import ConnectionClosed

from tests.gauges import wait_until
from tests.sample_site.conftest import OpenWindow, open_window, serve
from tests.support import ROOT, TIMEOUT, Server

__all__ = ["open_window"]

PAGE = "/admin/django_wsmux/socket/"
SOCKET = "/admin/sockets/"

SETUP = """
import json, django
django.setup()
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.backends.db import SessionStore
"""

# Four signed-in users: one is not staff, one may not view sockets, one may also close them.
USERS = """
keys = {}
for name in ("operator", "clerk", "visitor", "chief"):
    user = User.objects.create_user(name, is_staff=name != "visitor")
    if name != "clerk":
        user.user_permissions.add(Permission.objects.get(codename="view_socket"))
    if name == "chief":
        user.user_permissions.add(Permission.objects.get(codename="close_socket"))
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    keys[name] = session.session_key
print(json.dumps(keys))
"""


class Site:
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

    def cookie(self, name: str) -> dict[str, str]:
        """Return the headers of a signed-in user; without a cookie for ``""``."""
        return {"Cookie": f"sessionid={self.keys[name]}"} if name else {}


@pytest.fixture(scope="module")
def admin_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The sample site for its operator."""
    site = Site(tmp_path_factory.mktemp("admin"))
    yield site
    site.server.stop()


@pytest.mark.parametrize(
    ("name", "page", "socket"),
    [("operator", 200, 101), ("clerk", 403, 403), ("visitor", 302, 403), ("", 302, 403)],
)
def test_permission(admin_site: Site, name: str, page: int, socket: int) -> None:
    """Page and socket are for staff with the permission to view sockets."""
    headers = admin_site.cookie(name)
    assert admin_site.server.request(PAGE, headers).status == page
    assert admin_site.server.refused(SOCKET, headers).status == socket
    index = admin_site.server.request("/admin/", headers)
    assert (PAGE in index.text and 'class="viewlink"' in index.text) == (page == 200)


def test_disconnect(admin_site: Site) -> None:
    """The page shows user names; with permission, it disconnects a socket, which is logged."""
    server = admin_site.server
    (user_id,) = re.findall(
        r"\d+", admin_site.run("print(User.objects.get(username='visitor').pk)")
    )
    button = f'name="user" value="{user_id}"'
    with server.connect("/notify/", additional_headers=admin_site.cookie("visitor")) as websocket:
        for name, status in (("operator", 403), ("chief", 302)):
            answer = server.request(PAGE, admin_site.cookie(name))
            assert ">visitor" in answer.text
            assert (button in answer.text) == (name == "chief")
            (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', answer.text)[-1:]
            (csrf,) = re.findall(r"csrftoken=\w+", str(answer.headers["Set-Cookie"]))
            cookie = {"Cookie": f"{admin_site.cookie(name)['Cookie']}; {csrf}"}
            fields = {"user": user_id, "csrfmiddlewaretoken": token}
            assert server.post(PAGE, fields, cookie).status == status
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=TIMEOUT)
        assert (websocket.close_code, websocket.close_reason) == (4401, "disconnected")
    found = admin_site.run(
        "from django.contrib.admin.models import LogEntry\n"
        "print([(str(e.user), e.object_repr, e.change_message) for e in LogEntry.objects.all()])"
    )
    assert found == "[('chief', 'visitor', '1 WebSockets closed')]\n"
    for user in ("nobody", ""):
        fields = {"user": user, "csrfmiddlewaretoken": token}
        assert server.post(PAGE, fields, cookie).status == 302


def test_no_inline_script(admin_site: Site) -> None:
    """The page works with a Content-Security-Policy that allows the site's own files only."""
    text = admin_site.server.get(PAGE, admin_site.cookie("operator"))
    scripts = [part.partition(">")[0] for part in text.split("<script")[1:]]
    assert "/static/django_wsmux/overview.js" in "".join(scripts)
    assert all(" src=" in script for script in scripts)
    assert "<style" not in text
    assert " style=" not in text
    assert admin_site.server.get("/static/django_wsmux/overview.js").startswith('"use strict"')


def shown(window: webdriver.Chrome, selector: str) -> str:
    """Return the text of an element that may be replaced at any time."""
    script = "return document.querySelector(arguments[0])?.innerText ?? ''"
    return str(window.execute_script(script, selector))


def test_live(admin_site: Site, open_window: OpenWindow) -> None:
    """Sockets come and go on the page without a reload; so does the permission."""
    server = admin_site.server
    address = f"http://127.0.0.1:{server.port}"
    window = open_window(f"{address}/echo/")
    window.add_cookie({"name": "sessionid", "value": admin_site.keys["operator"]})
    window.get(address + PAGE)

    def wait_for(selector: str, text: str, *, is_there: bool = True) -> None:
        is_so = lambda: (text in shown(window, selector)) == is_there  # noqa: E731
        wait_until(is_so, f"{text!r} in {selector}: {is_there}")

    wait_for("#wsmux-state", "Live.")
    window.execute_script("window.isTheSame = true")
    wait_for("#wsmux-sockets", "/admin/sockets/")
    assert "/ping/" not in shown(window, "#wsmux-sockets")
    with server.connect("/ping/") as websocket:
        wait_for("#wsmux-sockets", "/ping/")
        websocket.send("ping")
        assert websocket.recv(timeout=TIMEOUT) == "pong"
    wait_for("#wsmux-sockets", "/ping/", is_there=False)
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(server.connect("/chat/"))
        wait_for("#wsmux-groups", "chat\t8")
        assert window.execute_script("return window.isTheSame")
        window.execute_script("document.querySelector('#wsmux-groups a').click()")
        wait_for("#wsmux-sockets", "SOCKETS IN CHAT: 8")
        wait_for("#wsmux-state", "Live.")
        assert "/admin/sockets/" not in shown(window, "#wsmux-sockets")
    admin_site.run("User.objects.get(username='operator').user_permissions.clear()")
    wait_for("#wsmux-state", "Not live: sign in again.")
