"""Builds the project of ``docs/recipes.rst``, starts it as its Procfile says, and uses it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from string import Template

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.client.nodes import CLIENT
from tests.conftest import need
from tests.manual.walkthrough import Project, page
from tests.sample_site.conftest import assert_no_errors, new_window, wait_for
from tests.support import GUNICORN_OPTIONS, TIMEOUT, Server, unused_port

PAGE = "recipes.rst"

WSGI = """
from django_wsmux.wsgi import get_wsgi_application

application = get_wsgi_application()
"""

#: Serves Turbo, which gunicorn does not.
STATIC = """
from django.contrib.staticfiles.views import serve

urlpatterns += [path("static/<path:path>", serve, {"insecure": True})]
"""

#: For the shell: makes users, and prints the keys of their sessions and a token of the app.
SIGN_IN = """
from django.contrib.auth.models import User
from django.test import Client
from live.app import token_of
for name in ("ann", "bob"):
    client = Client()
    client.force_login(User.objects.create_user(name))
    print("key", name, client.session.session_key)

print("key", "app", token_of(User.objects.get(username="ann")))
"""

MACHINES = """
from live.models import Machine
lathe = Machine.objects.create(name="lathe")
press = Machine.objects.create(name="<press>")
lathe.state = "running"
lathe.save()
"""

DELETE = """
from live.models import Machine
Machine.objects.get(name="lathe").delete()
"""


class Recipes(Project):
    """The project of the page.

    Args:
        directory: an empty directory.

    Attributes:
        keys: the keys of sessions by user, and the token of the app.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.env["TMPDIR"] = str(directory)
        self.run("django-admin startproject mysite .")
        self.run("python manage.py startapp live")
        for block in page(PAGE):
            self.write(block)
        (directory / "mysite" / "wsgi.py").write_text(WSGI)
        with (directory / "mysite" / "urls.py").open("a") as urls:
            urls.write(STATIC)
        static = directory / "live" / "static"
        static.mkdir()
        turbo = "@hotwired/turbo/dist/turbo.es2017-umd.js"
        shutil.copy(CLIENT / "node_modules" / turbo, static / "turbo.js")
        self.run("python manage.py makemigrations live")
        self.run(self.process("release"))
        printed = self.run("python manage.py shell", SIGN_IN)
        self.keys = dict(re.findall(r"key (\w+) (\S+)", printed))

    def process(self, name: str) -> str:
        """Return the command of a process of the Procfile."""
        text = (self.directory / "Procfile").read_text()
        return dict(line.split(": ", 1) for line in text.splitlines())[name]

    def start(self) -> Server:
        """Start the web process, at an address of the tests."""
        command = Template(self.process("web")).substitute(PORT=unused_port())
        assert "--bind 0.0.0.0:" in command
        command = command.replace("0.0.0.0", "127.0.0.1")
        # The command has a timeout of its own.
        options = [each for each in GUNICORN_OPTIONS if "graceful" not in each]
        return self.serve(command, GUNICORN_CMD_ARGS=shlex.join(options))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Recipes:
    """The project, with two users."""
    return Recipes(tmp_path_factory.mktemp("recipes"))


@pytest.fixture(scope="module")
def server(project: Recipes) -> Iterator[Server]:
    """The web process of the Procfile."""
    server = project.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def windows(
    project: Recipes, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[webdriver.Chrome]]:
    """The browsers of Ann and Bob."""
    need("chromium", "chromedriver")
    with ExitStack() as stack:
        windows = []
        for name in ("ann", "bob"):
            window = new_window(tmp_path_factory.mktemp(name))
            stack.callback(window.quit)
            window.get(f"http://127.0.0.1:{server.port}/wsmux/client.js")
            window.add_cookie({"name": "sessionid", "value": project.keys[name]})
            windows.append(window)
        yield windows


def test_nothing_is_left_out() -> None:
    """Each block is a file."""
    blocks = page(PAGE)
    assert len(blocks) >= 15
    for block in blocks:
        assert block.file, block


def wait_until_empty(window: webdriver.Chrome) -> None:
    """Wait until no one is typing."""
    WebDriverWait(window, TIMEOUT).until(
        lambda _: window.find_element(By.ID, "typing").text == "", "still typing"
    )


def test_typing(windows: list[webdriver.Chrome], server: Server) -> None:
    """Bob sees that Ann types, until she has said it; what was typed is not replayed."""
    ann, bob = windows
    for window in windows:
        window.get(f"http://127.0.0.1:{server.port}/chat/lobby/")
        wait_for(window, "#state", "open")
    field = ann.find_element(By.NAME, "text")
    field.send_keys("hello")
    wait_for(bob, "#typing", "ann typing ...")
    assert ann.find_element(By.ID, "typing").text == ""
    field.send_keys("\n")
    for window in windows:
        wait_for(window, "#lines", "ann: hello")
    wait_until_empty(bob)
    # Ann stops without a word.
    field.send_keys("x")
    wait_for(bob, "#typing", "ann typing ...")
    wait_until_empty(bob)
    for window in windows:
        assert_no_errors(window)


#: For the shell.
KEPT = """
from django.core.exceptions import ImproperlyConfigured
from django_wsmux.groups import Group
print("said:", len(Group("room.lobby").history().messages))
try:
    Group("typing.lobby").history()
except ImproperlyConfigured:
    print("typing: none")
"""


def test_typing_is_not_kept(project: Recipes) -> None:
    """The room has a history, and the group of those who type has none."""
    printed = project.run("python manage.py shell", KEPT + "\n")
    assert "said: 1" in printed
    assert "typing: none" in printed


def rows(window: webdriver.Chrome) -> list[str]:
    """Return the texts of the rows."""
    found: list[str] = window.execute_script(
        "return [...document.querySelectorAll('tbody tr')].map((row) => row.innerText)"
    )
    return found


def test_table(project: Recipes, windows: list[webdriver.Chrome], server: Server) -> None:
    """Rows that the shell makes, changes and deletes are on both pages."""
    for window in windows:
        window.get(f"http://127.0.0.1:{server.port}/machines/")
    project.run("python manage.py shell", MACHINES)
    for window in windows:
        WebDriverWait(window, TIMEOUT).until(
            lambda each: rows(each) == ["lathe\trunning", "<press>\tnew"]
        )
    project.run("python manage.py shell", DELETE)
    for window in windows:
        WebDriverWait(window, TIMEOUT).until(lambda each: rows(each) == ["<press>\tnew"])
        assert_no_errors(window)


def test_upload(windows: list[webdriver.Chrome], server: Server, tmp_path: Path) -> None:
    """The window that uploads sees both progresses and the result; the other one nothing."""
    ann, bob = windows
    for window in windows:
        window.get(f"http://127.0.0.1:{server.port}/upload/")
        wait_for(window, "#state", "open")
    file = tmp_path / "numbers.txt"
    file.write_text("12345\n" * 200_000)
    ann.find_element(By.NAME, "file").send_keys(str(file))
    ann.find_element(By.TAG_NAME, "button").click()
    wait_for(ann, "#result", "numbers.txt has 200000 lines.")
    bars = [ann.find_element(By.ID, name) for name in ("sent", "counted")]
    WebDriverWait(ann, TIMEOUT).until(
        lambda _: [each.get_property("value") for each in bars] == [1, 1], "not at the end"
    )
    assert bob.find_element(By.ID, "result").text == ""
    for window in windows:
        assert_no_errors(window)


#: For the shell.
POSITION = """
from django_wsmux.groups import Group
print("at", Group("news").position())
"""
SAY = """
from django_wsmux.groups import Group
Group("news").send_json({{"number": {}}})
"""
FORGET = """
from django_wsmux.groups import Group
Group("news").forget()
"""


def test_app(project: Recipes, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that was in the background gets what it missed, or is told that it is gone."""
    monkeypatch.syspath_prepend(str(project.directory))
    feed = import_module("feed")
    monkeypatch.delitem(sys.modules, "feed")
    token, url = project.keys["app"], f"ws://127.0.0.1:{server.port}/app/"
    typed = POSITION + SAY.format(1)
    (position,) = re.findall(r"at (\S+)", project.run("python manage.py shell", typed))
    app = feed.Feed(url, {"g": {"news": position}})
    assert next(app.messages(token)) == {"number": 1}
    app.close()
    project.run("python manage.py shell", SAY.format(2) + SAY.format(3))
    app = feed.Feed(url, json.loads(json.dumps(app.state)))
    messages = app.messages(token)
    assert [next(messages), next(messages)] == [{"number": 2}, {"number": 3}]
    app.close()
    project.run("python manage.py shell", FORGET)
    app = feed.Feed(url, app.state)
    assert next(app.messages(token)) is None
    app.close()
    with pytest.raises(ConnectionClosed) as refused:
        next(app.messages("guess"))
    assert refused.value.rcvd is not None
    assert refused.value.rcvd.code == 4401


def test_host(project: Recipes) -> None:
    """A router's headers count; tokens expire; SIGTERM closes sockets with 1012."""
    app = project.directory / "live" / "app.py"
    text = app.read_text()
    assert text.count("timezone.now() + HOUR") == 1
    app.write_text(text.replace("timezone.now() + HOUR", "timezone.now() + HOUR / 3600"))
    server = project.start()
    try:
        cookie = {"Cookie": f"sessionid={project.keys['ann']}"}
        page = server.get("/upload/", {**cookie, "X-Forwarded-Proto": "https"})
        assert "wss://127.0.0.1" in page
        assert "ws://127.0.0.1" in server.get("/upload/", cookie)
        token = {"Authorization": f"Bearer {project.keys['app']}"}
        with server.connect("/app/", additional_headers=token) as ws:
            assert code_of_end(ws) == 4401
        with server.connect("/chat/lobby/", additional_headers=cookie) as ws:
            server.signal(signal.SIGTERM)
            assert code_of_end(ws) == 1012
        assert server.wait() == 0
    finally:
        server.stop()


def code_of_end(ws: ClientConnection) -> int:
    """Return the code with which a socket is closed that gets no message."""
    with pytest.raises(ConnectionClosed) as closed:
        ws.recv(timeout=TIMEOUT)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code
