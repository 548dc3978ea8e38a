"""Builds the project of ``docs/support_desk.rst``, serves it, and uses its pages."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.manual.walkthrough import INSTALLATION, Project
from tests.sample_site.conftest import new_window, wait_for
from tests.support import GUNICORN_OPTIONS, ROOT, TIMEOUT, Server

__all__ = [
    "COMMANDS",
    "FILES",
    "NOTICE",
    "PAGE",
    "SupportDesk",
    "claim",
    "open_desk",
    "open_ticket",
    "say",
]

PAGE = ROOT / "docs" / "support_desk.rst"

#: The files of the page.
FILES = ROOT / "docs" / "support_desk"

#: The commands of the page, in order.
COMMANDS = (
    *INSTALLATION,
    "django-admin startproject mysite .",
    "python manage.py startapp desk",
    "python manage.py makemigrations desk",
    "python manage.py migrate",
    "python manage.py createcachetable",
    "python manage.py createsuperuser",
    "gunicorn -k django_wsmux.worker.WebSocketWorker -w 2 mysite.wsgi",
    'python manage.py notice "Back at 14:00"',
    "python manage.py test",
)

#: The command that tells something to all desks.
(NOTICE,) = (command for command in COMMANDS if " notice " in command)

#: For the shell: makes users and prints the keys of their sessions.
SIGN_IN = """
from django.contrib.auth.models import User
from django.test import Client
for name, is_staff in (("ann", False), ("bob", True), ("carol", True)):
    client = Client()
    client.force_login(User.objects.create_user(name, password=name, is_staff=is_staff))
    print("key", name, client.session.session_key)
"""


class SupportDesk(Project):
    """The project at the end of the page, with two agents, bob and carol, and a customer, ann.

    Args:
        directory: an empty directory.

    Attributes:
        keys: the keys of their sessions, by name.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.env["TMPDIR"] = str(directory)
        (start, *prepare) = COMMANDS[
            len(INSTALLATION) : COMMANDS.index("python manage.py createsuperuser")
        ]
        self.run(start)
        self.run(prepare.pop(0))
        settings = directory / "mysite" / "settings.py"
        original = settings.read_text()
        shutil.copytree(FILES, directory, dirs_exist_ok=True)
        settings.write_text(original + settings.read_text())
        wsgi = directory / "mysite" / "wsgi.py"
        wsgi.write_text(wsgi.read_text().replace("django.core.wsgi", "django_wsmux.wsgi"))
        for command in prepare:
            self.run(command)
        printed = self.run("python manage.py shell", SIGN_IN)
        self.keys = dict(re.findall(r"key (\w+) (\w+)", printed))

    def start(self) -> Server:
        """Serve it as the page does, at another port."""
        (command,) = (each for each in COMMANDS if each.startswith("gunicorn"))
        options = " ".join(("-b 127.0.0.1:0", *GUNICORN_OPTIONS))
        return self.serve(command, GUNICORN_CMD_ARGS=options)


def open_desk(
    desk: SupportDesk, port: int, user: str, profile: Path, stack: ExitStack
) -> webdriver.Chrome:
    """Open the desk in a new browser, as a user who is signed in."""
    window = new_window(profile)
    stack.callback(window.quit)
    window.get(f"http://127.0.0.1:{port}/wsmux/client.js")
    window.add_cookie({"name": "sessionid", "value": desk.keys[user]})
    window.get(f"http://127.0.0.1:{port}/")
    wait_for(window, "#state", "connected")
    return window


def open_ticket(window: webdriver.Chrome, subject: str) -> None:
    """Open a ticket, as a customer."""
    window.find_element(By.NAME, "subject").send_keys(subject + "\n")
    wait_for(window, "#ticket", subject)
    wait_for(window, "#state", "connected")


def claim(window: webdriver.Chrome) -> None:
    """Claim the ticket of the page."""
    window.find_element(By.CSS_SELECTOR, "#ticket button").click()


def say(window: webdriver.Chrome, text: str, *, is_sent: bool = True) -> None:
    """Say something, and wait until the page shows it, if it has a connection."""
    window.find_element(By.NAME, "text").send_keys(text + "\n")
    if is_sent:
        wait_for(window, "#lines", text)
    else:
        WebDriverWait(window, TIMEOUT).until(
            lambda _: window.find_element(By.NAME, "text").get_property("value") == ""
        )
