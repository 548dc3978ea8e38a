"""Follows ``README.rst`` word for word, in a new project."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from docutils import nodes
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.conftest import need
from tests.manual import blocks, document
from tests.manual.test_tutorial import received
from tests.manual.walkthrough import Block, Project, page
from tests.sample_site.conftest import new_window, wait_for
from tests.support import ROOT, Server, unused_port

README = ROOT / "README.rst"
BLOCKS = page("../README.rst")
FILES = [block for block in BLOCKS if block.file]
COMMANDS = [command for block in BLOCKS for command in block.commands]


def the_command(word: str) -> str:
    """Return the only command with this word."""
    (command,) = (each for each in COMMANDS if word in each.split())
    return command


def write(project: Project, block: Block) -> None:
    """Do with a file what its paragraph says."""
    assert block.file is not None
    path = project.directory / block.file
    if "Replace the import" in block.paragraph:
        (name,) = re.findall(r"import (\w+)", block.text)
        text = re.sub(
            rf"^from .+ import {name}\n", block.text, path.read_text(), flags=re.MULTILINE
        )
        assert block.text in text
        path.write_text(text)
    else:
        project.write(block)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A new project with the chat of the page."""
    project = Project(tmp_path_factory.mktemp("readme"))
    project.run("django-admin startproject mysite .")
    project.run(the_command("startapp"))
    for block in FILES:
        write(project, block)
    return project


def test_nothing_is_left_out() -> None:
    """Each block with a language is a file, and each command is known."""
    assert len(FILES) == sum(block.language is not None for block in blocks(README)) >= 7
    programs = [command.split()[:3] for command in COMMANDS]
    assert programs == [
        ["python", "manage.py", "startapp"],
        ["python", "manage.py", "test"],
        ["gunicorn", "-k", "django_wsmux.worker.WebSocketWorker"],
        ["python", "manage.py", "shell"],
    ]


def test_own_tests(project: Project) -> None:
    """The test of the page passes."""
    output = project.run(the_command("test"))
    assert "Ran 1 test " in output
    assert output.rstrip().splitlines()[-2].endswith("OK"), output


def test_development(project: Project) -> None:
    """``runserver`` serves the socket, too."""
    server = project.serve("python manage.py runserver", f"127.0.0.1:{unused_port()}", "--noreload")
    try:
        with server.connect("/chat/") as ann, server.connect("/chat/") as bob:
            ann.send(json.dumps({"type": "say", "user": "Ann", "text": "hello"}))
            for ws in (ann, bob):
                assert received(ws) == {"type": "said", "user": "Ann", "text": "hello"}
    finally:
        server.stop()


def serve(project: Project, port: int) -> Server:
    """Run gunicorn as the page does, at this port."""
    options = f"--no-control-socket --bind 127.0.0.1:{port}"
    return project.serve(the_command("gunicorn"), GUNICORN_CMD_ARGS=options)


@pytest.fixture
def windows(tmp_path: Path) -> Iterator[list[webdriver.Chrome]]:
    """Two browsers."""
    need("chromium", "chromedriver")
    with ExitStack() as stack:
        opened = []
        for name in ("Ann", "Bob"):
            opened.append(new_window(tmp_path / name))
            stack.callback(opened[-1].quit)
        yield opened


def say(window: webdriver.Chrome, text: str) -> None:
    """Type a line and press Enter."""
    window.find_element(By.NAME, "text").send_keys(text + "\n")


def test_gunicorn(project: Project, windows: list[webdriver.Chrome]) -> None:
    """Two windows talk, do not notice a reload, and have every line once after a restart."""
    port = unused_port()
    server = serve(project, port)
    try:
        for window, name in zip(windows, ("Ann", "Bob"), strict=True):
            window.get(f"http://127.0.0.1:{port}/chat/")
            window.find_element(By.NAME, "user").send_keys(name)
        ann, bob = windows
        say(bob, "anyone?")
        wait_for(bob, "#lines", "Bob: anyone?")
        say(ann, "hello")
        workers = server.workers
        for window in windows:
            wait_for(window, "#lines", "Ann: hello")
        server.signal(signal.SIGHUP)
        for worker in workers:
            server.wait_for_log(rf"Worker exiting \(pid: {worker}\)")
        say(bob, "still here")
        for window in windows:
            wait_for(window, "#lines", "Bob: still here")
        server.stop()
        say(ann, "is it off?")
        server = serve(project, port)
        (session,) = (block for block in BLOCKS if ">>>" in block.text)
        for window in windows:
            wait_for(window, "#lines", "Ann: is it off?")
        lines = re.findall(r"^>>> (.+)$", session.text, re.MULTILINE)
        project.run(the_command("shell"), "\n".join(lines))
        expected = [
            "Bob: anyone?",
            "Ann: hello",
            "Bob: still here",
            "Ann: is it off?",
            "shell: hello",
        ]
        for window in windows:
            wait_for(window, "#lines", "shell: hello")
            shown = window.find_element(By.ID, "lines").text.splitlines()
            assert shown == expected
    finally:
        server.stop()


def measured(load: str) -> tuple[float, list[float]]:
    """Return this package's figure for a load, and those of Channels, from ``docs/figures.rst``."""
    text = (ROOT / "docs" / "figures.rst").read_text()
    rows = re.findall(rf"^{load} +(\S.+?)  +([\d,.]+) \(", text, re.MULTILINE)
    figures = [(server, float(value.replace(",", ""))) for server, value in rows]
    # Later tables have newer figures of this package only.
    own = next(value for server, value in figures if server == "django_wsmux, function view")
    group = [value for server, value in figures if server.startswith("Channels")]
    # The first table of groups is that without Redis.
    return own, group[:6]


def test_figures() -> None:
    """The figures of the comparison, which has five rows, are those of ``docs/figures.rst``."""
    (table,) = document(README).findall(nodes.table)
    rows = [
        [cell.astext().replace(",", "").removesuffix(" s") for cell in row.findall(nodes.entry)]
        for row in table.findall(nodes.row)
    ]
    assert len(rows) == 1 + 5
    own, channels = measured("500 members")
    assert rows[4][1:] == [str(round(own)), str(round(max(channels)))]
    own, channels = measured("200 sockets at once")
    assert rows[5][1:] == [str(round(own, 1)), str(round(min(channels), 1))]
