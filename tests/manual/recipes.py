"""Builds the project of ``docs/tasks.rst``, and uses it like a reader."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from websockets.sync.client import ClientConnection

from tests.manual.walkthrough import Project, argv, page
from tests.support import TIMEOUT, Answer, Server

__all__ = ["PAGE", "Recipe", "commands", "until", "wait_for_end", "wait_for_line"]

#: The page, in ``docs/``.
PAGE = "tasks.rst"

#: For the shell: prints the key of a session.
SIGN_IN = """
from django.contrib.auth.models import User
from django.test import Client
client = Client()
client.force_login(User.objects.get_or_create(username="ann")[0])
print("key", client.session.session_key)
"""


def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + 2 * TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def commands(heading: str) -> list[str]:
    """Return the commands of a section."""
    return [
        command for block in page(PAGE) if block.heading == heading for command in block.commands
    ]


def wait_for_line(websocket: ClientConnection, number: int) -> list[int]:
    """Receive messages until this line or a later one; return the numbers of all lines."""
    numbers: list[int] = []
    while not numbers or numbers[-1] < number:
        message = json.loads(websocket.recv(timeout=2 * TIMEOUT))
        assert message["type"] in ("progress", "ready", "workload")
        if message["type"] == "progress":
            assert message["text"] == f"This is line {message['done']}."
            numbers.append(message["done"])
    return numbers


def wait_for_end(websocket: ClientConnection) -> None:
    """Receive messages until the user is told that the report is ready."""
    while json.loads(websocket.recv(timeout=2 * TIMEOUT))["type"] != "ready":
        pass


class Recipe(Project):
    """The project with one of the two sections.

    Args:
        directory: an empty directory.
        heading: the section about the tasks.
        env: environment variables of all programs.
        imports: replaces this in the code.
    """

    def __init__(
        self, directory: Path, heading: str, env: dict[str, str], imports: tuple[str, str]
    ) -> None:
        super().__init__(directory)
        self.env |= {"TMPDIR": str(directory), **env}
        self.run("django-admin startproject mysite .")
        self.run("python manage.py startapp reports")
        for block in page(PAGE):
            if block.file and block.heading in ("The page", heading, "Testing"):
                self.write(block)
        for path in directory.glob("reports/*.py"):
            path.write_text(path.read_text().replace(*imports))
        for command in commands(heading):
            if " migrat" in command or "makemigrations" in command:
                self.run(command)
        (key,) = re.findall(r"key (\w+)", self.run("python manage.py shell", SIGN_IN))
        self.cookie = f"sessionid={key}"

    def stored(self, report: int) -> list[int]:
        """Return the numbers of the lines of a report in the database."""
        query = "SELECT number FROM reports_line WHERE report_id = ? ORDER BY number"
        with closing(sqlite3.connect(self.directory / "db.sqlite3", timeout=TIMEOUT)) as database:
            return [number for (number,) in database.execute(query, [report])]

    def send_form(
        self, server: Server, path: str, headers: dict[str, str], **fields: str
    ) -> Answer:
        """Send a form of the page, as the user."""
        form = server.request("/reports/", {"Cookie": self.cookie})
        (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)
        (csrf,) = re.findall(r"csrftoken=\w+", str(form.headers))
        headers = {"Cookie": f"{self.cookie}; {csrf}", **headers}
        return server.post(path, {"csrfmiddlewaretoken": token, **fields}, headers)

    def start_report(self, server: Server, lines: int) -> str:
        """Send the form that starts a report; return the path of its page."""
        answer = self.send_form(server, "/reports/", {}, lines=str(lines))
        assert answer.status == 302, answer.text
        return answer.headers["Location"]

    def open_page(self, server: Server, path: str) -> tuple[list[int], str]:
        """Return the numbers of the lines that a page shows, and its position for a URL."""
        text = server.get(path, {"Cookie": self.cookie})
        (at,) = re.findall(r'\{ at: "(.+)" \}', text)
        return [int(each) for each in re.findall(r"<li>This is line (\d+)\.", text)], quote(at)

    def count_words(self, server: Server, path: str, websocket: ClientConnection) -> int:
        """Have the words counted for a socket with ``wsmux.v1``; return the answer to it."""
        client = json.loads(websocket.recv(timeout=TIMEOUT))["welcome"]["client"]
        answer = self.send_form(server, f"{path}count/", {"X-WebSocket-Client": client})
        assert answer.status == 202, answer.text
        while "words" not in (message := str(websocket.recv(timeout=2 * TIMEOUT))):
            pass
        frame = json.loads(message)
        assert frame["in"] == "@connection"
        return int(frame["data"]["count"])

    def connect(self, server: Server, path: str, **options: Any) -> ClientConnection:
        """Open a socket of the page."""
        return server.connect(path, additional_headers={"Cookie": self.cookie}, **options)

    @contextmanager
    def running(self, command: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command of the page during the block; print its log if the block fails."""
        log = self.directory / f"{len(list(self.directory.glob('*.log')))}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *argv(command), *options],
                cwd=self.directory,
                env={**os.environ, **self.env},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        except BaseException:
            print(log.read_text())
            raise
        finally:
            process.terminate()
            try:
                process.wait(2 * TIMEOUT)
            finally:
                process.kill()
