"""Follows ``docs/tutorial2.rst`` word for word, in the project of ``docs/tutorial.rst``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from django_wsmux.connection.link import is_compiled
from tests.conftest import need
from tests.manual.tutorial import build, the_command
from tests.manual.walkthrough import Project, page
from tests.sample_site.conftest import assert_no_errors, new_window, wait_for
from tests.support import GUNICORN_OPTIONS, PATH, ROOT, TIMEOUT, Site, unused_port, wait_for_port

PAGE = "tutorial2.rst"


def session(text: str) -> str:
    """Return what the page types into the shell, in the session that has this text."""
    (block,) = (each for each in page(PAGE) if text in each.text and ">>>" in each.text)
    return "\n".join(re.findall(r"^>>> (.+)$", block.text, re.MULTILINE)) + "\n"


#: Bob may return.
READMIT = """
from django.contrib.auth.models import User
from rooms.models import Room
Room.objects.get(slug="board").members.add(User.objects.get(username="bob"))
"""

#: Ann says something elsewhere.
MEANWHILE = """
from django.contrib.auth.models import User
from rooms.models import Line, Room
room = Room.objects.get(slug="board")
line = Line.objects.create(room=room, author=User.objects.get(username="ann"), text="meanwhile")
room.group.send_json({"type": "said", "id": line.pk, "author": "ann", "text": line.text})
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project at the end of both parts, with users and rooms."""
    project = build(tmp_path_factory.mktemp("rooms"), "tutorial.rst", PAGE)
    project.env["TMPDIR"] = str(project.directory)
    project.run("python manage.py shell", session("create_user"))
    return project


def test_nothing_is_left_out() -> None:
    """Each block is a file or a command."""
    text = (ROOT / "docs" / PAGE).read_text()
    blocks = page(PAGE)
    assert len(blocks) == len(re.findall(r"::(?: \S+)?\n\n    ", text))
    for block in blocks[1:]:
        assert bool(block.file) != bool(block.commands), block


def test_own_tests(project: Project) -> None:
    """All tests of the page pass, and those of the first part still do."""
    counts = [
        block.text.count("def test_")
        for name in ("tutorial.rst", PAGE)
        for block in page(name)
        if block.file and block.file.endswith("tests.py")
    ]
    for command, count in (
        (the_command(PAGE, "test"), counts[1]),
        (the_command("tutorial.rst", "test"), sum(counts)),
    ):
        output = project.run(command)
        assert f"Ran {count} tests" in output
        assert output.rstrip().splitlines()[-2].endswith("OK"), output


def test_checks(project: Project) -> None:
    """``check --deploy`` has no warning about sockets."""
    found = re.findall(r"django_wsmux\.\w+", project.run("python manage.py check --deploy"))
    assert found == ([] if is_compiled else ["django_wsmux.W028"])


class Services:
    """nginx, gunicorn and Redis, as the page starts them, at other ports.

    Args:
        project: the project.
        stack: stops them.
    """

    def __init__(self, project: Project, stack: ExitStack) -> None:
        self.project = project
        redis, self.port = unused_port(), unused_port()
        stack.enter_context(
            self.running(the_command(PAGE, "redis-server"), "--port", str(redis), "--save", "")
        )
        wait_for_port(redis)
        assignments, program, options = the_command(PAGE, "gunicorn").partition("gunicorn")
        env = dict(each.split("=") for each in assignments.split())
        assert env.keys() == {"DEBUG", "WEBSOCKET_BACKEND"}
        env["WEBSOCKET_BACKEND"] = env["WEBSOCKET_BACKEND"].replace("6379", str(redis))
        self.env = {**project.env, **env}
        other = " ".join(("-b 127.0.0.1:0", *GUNICORN_OPTIONS))
        self.gunicorn = project.serve(program + options, GUNICORN_CMD_ARGS=other, **env)
        stack.callback(self.gunicorn.stop)
        self.gunicorn.wait_for_log(r"groups by redis")
        assert len(self.gunicorn.workers) == 2
        file = project.directory / "nginx.conf"
        text = file.read_text()
        for old, new in ((":8080;", self.port), (":8000;", self.gunicorn.port)):
            assert text.count(old) == 1
            text = text.replace(old, f":{new};")
        file.write_text(text)

    @contextmanager
    def running(self, command: str, *options: str) -> Iterator[None]:
        """Run a program of the page during the block."""
        program, *arguments = command.split()
        path = shutil.which(program, path=PATH)
        assert path is not None
        log = self.project.directory / f"{program}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [path, *arguments, *options],
                cwd=self.project.directory,
                stdout=output,
                stderr=output,
            )
        try:
            yield
        except BaseException:
            print(log.read_text())
            raise
        finally:
            process.terminate()
            process.wait(TIMEOUT)

    @contextmanager
    def nginx(self) -> Iterator[None]:
        """Run nginx during the block."""
        # Workers of a master of root run as another user, who cannot enter this directory.
        options = ("-g", "user root;") if os.geteuid() == 0 else ()
        with self.running(the_command(PAGE, "nginx"), *options):
            wait_for_port(self.port)
            yield

    def shell(self, typed: str) -> None:
        """Type something into the shell of a process of its own."""
        before, self.project.env = self.project.env, self.env
        try:
            self.project.run("python manage.py shell", typed)
        finally:
            self.project.env = before


def sign_in(services: Services, name: str, profile: Path, stack: ExitStack) -> webdriver.Chrome:
    """Sign in with the page of the tutorial, in a browser of its own."""
    window = new_window(profile)
    stack.callback(window.quit)
    window.get(f"http://127.0.0.1:{services.port}/rooms/")
    window.find_element(By.NAME, "username").send_keys(name)
    window.find_element(By.NAME, "password").send_keys(f"{name} loves rooms\n")
    wait_for(window, "#rooms", "Lobby")
    return window


def enter(window: webdriver.Chrome) -> None:
    """Enter the board."""
    window.find_element(By.LINK_TEXT, "Board").click()
    wait_for(window, "#state", "connected")


def wait_until_alone(window: webdriver.Chrome) -> None:
    """Wait until no one but Ann is present."""
    WebDriverWait(window, TIMEOUT).until(
        lambda _: window.find_element(By.ID, "present").text == "ann"
    )


def test_two_users(project: Project, tmp_path: Path) -> None:
    """Ann and Bob talk, and see who is there; Bob is removed, once in the room and once away."""
    need("nginx", "redis-server", "chromium", "chromedriver")
    with ExitStack() as stack:
        services = Services(project, stack)
        with services.nginx():
            # Static files come from nginx.
            assert "--primary" in Site(services.port).get("/static/admin/css/base.css")
            ann = sign_in(services, "ann", tmp_path / "ann", stack)
            bob = sign_in(services, "bob", tmp_path / "bob", stack)
            enter(ann)
            wait_for(ann, "#present", "ann")
            bob.refresh()
            wait_for(bob, "#rooms", "Board: 1 here, private")
            enter(bob)
            for window in (ann, bob):
                wait_for(window, "#present", "ann, bob")
            ann.find_element(By.NAME, "text").send_keys("<b>hello</b>\n")
            for window in (ann, bob):
                wait_for(window, "#lines", "ann: <b>hello</b>")
            # Another process removes Bob.
            services.shell(session("members.remove"))
            wait_for(bob, "#problem", "You are not in this room any more: removed (4404)")
            wait_until_alone(ann)
            bob.find_element(By.LINK_TEXT, "Rooms").click()
            wait_for(bob, "#rooms", "Lobby")
            assert "Board" not in bob.find_element(By.ID, "rooms").text
            services.shell(READMIT)
            bob.refresh()
            enter(bob)
            wait_for(bob, "#lines", "ann: <b>hello</b>")
            for window in (ann, bob):
                wait_for(window, "#present", "ann, bob")
        for window in (ann, bob):
            wait_for(window, "#state", "waiting")
        services.shell(MEANWHILE + session("members.remove"))
        if pictures := os.environ.get("SCREENSHOTS"):
            ann.save_screenshot(f"{pictures}/tutorial2-away.png")
        with services.nginx():
            wait_for(ann, "#lines", "ann: meanwhile")
            wait_for(bob, "#problem", "You are not in this room any more: 404 Not Found (4404)")
            assert "meanwhile" not in bob.find_element(By.ID, "lines").text
            wait_until_alone(ann)
            for window in (ann, bob):
                assert_no_errors(window)
            if pictures:
                ann.save_screenshot(f"{pictures}/tutorial2-ann.png")
                bob.save_screenshot(f"{pictures}/tutorial2-bob.png")
