"""Follows ``docs/tutorial.rst`` word for word, in an empty directory."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from websockets.sync.client import ClientConnection

from django_wsmux.connection.link import is_compiled
from tests.client.proxy import Proxy
from tests.manual.tutorial import build, the_command
from tests.manual.walkthrough import INSTALLATION, Project, page
from tests.sample_site.conftest import OpenWindow, open_window, wait_for
from tests.support import ROOT, TIMEOUT, Server, unused_port

__all__ = ["open_window"]

#: For the shell.
FORGET = """
from django_wsmux.groups import Group
Group("chat").forget()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project at the end of the page; commands that serve or test have not run."""
    return build(tmp_path_factory.mktemp("tutorial"), "tutorial.rst")


def test_nothing_is_left_out() -> None:
    """Each block is a file or a command, and installation comes first."""
    text = (ROOT / "docs" / "tutorial.rst").read_text()
    blocks = page("tutorial.rst")
    assert len(blocks) == len(re.findall(r"::(?: \S+)?\n\n    ", text))
    for block in blocks:
        assert bool(block.file) != bool(block.commands), block
    assert blocks[0].commands[:3] == INSTALLATION


def test_own_tests(project: Project) -> None:
    """All tests of the tutorial pass."""
    output = project.run(the_command("tutorial.rst", "test"))
    (block,) = (block for block in page("tutorial.rst") if block.file == "chat/tests.py")
    count = block.text.count("def test_")
    assert count >= 4
    assert f"Ran {count} tests" in output
    assert output.rstrip().splitlines()[-2].endswith("OK"), output


def test_checks(project: Project) -> None:
    """``check --deploy`` has no warning about sockets."""
    found = re.findall(r"django_wsmux\.\w+", project.run("python manage.py check --deploy"))
    assert found == ([] if is_compiled else ["django_wsmux.W028"])


def received(websocket: ClientConnection) -> Any:
    """Return the next message, parsed as JSON."""
    return json.loads(websocket.recv(timeout=TIMEOUT))


def test_development(project: Project) -> None:
    """``runserver`` serves page and socket; the shell reaches the open windows."""
    server = project.serve(
        the_command("tutorial.rst", "runserver"), f"127.0.0.1:{unused_port()}", "--noreload"
    )
    try:
        with server.connect("/chat/") as ann, server.connect("/chat/") as bob:
            ann.send(json.dumps({"type": "say", "user": "Ann", "text": "hello"}))
            for ws in (ann, bob):
                said = {"type": "said", "id": 1, "user": "Ann", "text": "hello"}
                assert received(ws) == said
            (block,) = (
                block
                for block in page("tutorial.rst")
                if the_command("tutorial.rst", "shell") in block.commands
            )
            lines = re.findall(r"^>>> (.+)$", block.text, re.MULTILINE)
            project.run(the_command("tutorial.rst", "shell"), "\n".join(lines))
            for ws in (ann, bob):
                assert received(ws)["user"] == "shell"
    finally:
        server.stop()


def say(server: Server, text: str) -> None:
    """Say something as Bob."""
    with server.connect("/chat/") as bob:
        bob.send(json.dumps({"type": "say", "user": "Bob", "text": text}))
        assert received(bob)["text"] == text


def test_gunicorn(project: Project, open_window: OpenWindow) -> None:
    """gunicorn serves page and socket; the page stays or returns, and misses or repeats no line."""
    options = "--bind 127.0.0.1:0 --no-control-socket"
    served = project.serve(the_command("tutorial.rst", "gunicorn"), GUNICORN_CMD_ARGS=options)
    proxy = Proxy(served.port)
    try:
        window = open_window(f"http://127.0.0.1:{proxy.port}/chat/")
        window.find_element(By.NAME, "user").send_keys("Ann")
        field = window.find_element(By.NAME, "text")
        field.send_keys("<b>hello</b>\n")
        wait_for(window, "#lines", "Ann: <b>hello</b>")
        # A deploy, which the page does not notice.
        workers = served.workers
        served.signal(signal.SIGHUP)
        for worker in workers:
            served.wait_for_log(rf"Worker exiting \(pid: {worker}\)")
        assert window.find_element(By.ID, "state").text == "connected"
        # Lines that are said while the page is away, one of them by the page itself.
        leave(proxy, window)
        field.send_keys("again\n")
        say(served, "meanwhile")
        proxy.resume()
        wait_for(window, "#lines", "Ann: again")
        expected = ["Ann: <b>hello</b>", "Bob: meanwhile", "Ann: again"]
        assert window.find_element(By.ID, "lines").text.splitlines()[-3:] == expected
        # Lines that are not kept any more when the page returns.
        leave(proxy, window)
        say(served, "forgotten")
        project.run("python manage.py shell", FORGET)
        say(served, "kept")
        proxy.resume()
        wait_for(window, "#lines", "Bob: kept")
        lines = window.find_element(By.ID, "lines").text.splitlines()
        assert lines[-5:] == [*expected, "Bob: forgotten", "Bob: kept"]
        assert len(lines) == len(set(lines))
        wait_for(window, "#state", "connected")
        window.execute_script(
            "const form = document.getElementById('say');"
            "form.elements.user.value = ''; form.noValidate = true"
        )
        field.send_keys("who is this\n")
        wait_for(window, "#problem", "This field is required.")
    finally:
        proxy.stop()
        served.stop()


def leave(proxy: Proxy, window: webdriver.Chrome) -> None:
    """Cut the connection of the page, which cannot return for the time being."""
    proxy.refuse()
    proxy.cut()
    wait_for(window, "#state", "waiting")
