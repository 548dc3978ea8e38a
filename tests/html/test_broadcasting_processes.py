"""One row, members in four real processes: it is rendered once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import pytest

from tests.conftest import StartServer
from tests.project.settings import INSTALLED_APPS
from tests.support import ROOT, TIMES, Server, Wire

from . import SITE, TEMPLATES

#: Members in each process; half of them speak ``wsmux.v1``.
MEMBERS = 10 * TIMES

PROCESSES = 4


@pytest.fixture(scope="module")
def renderings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a character for each rendering."""
    return tmp_path_factory.mktemp("renderings") / "count"


@pytest.fixture(scope="module")
def servers(
    start_lasting_server: StartServer, renderings: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Server]:
    """Servers with one process each."""
    template = TEMPLATES | {"DIRS": [str(path) for path in TEMPLATES["DIRS"]]}
    settings = SITE | {
        "TEMPLATES": [template],
        "ROOT_URLCONF": "tests.html.pages",
        "INSTALLED_APPS": [*INSTALLED_APPS, "tests.html.lines"],
    }
    env = {
        "TEST_SETTINGS": json.dumps(settings),
        "TEST_DATABASE": str(tmp_path_factory.mktemp("lines") / "db.sqlite3"),
        "TEST_RENDERINGS": str(renderings),
        # The members answer no pings.
        "TEST_PING_INTERVAL": "3600",
        "TEST_BACKEND": f"local://?namespace={uuid4().hex}",
    }
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--run-syncdb", "-v0"],
        env={**os.environ, **env, "DJANGO_SETTINGS_MODULE": "tests.project.settings"},
        cwd=ROOT,
        check=True,
    )
    return [start_lasting_server("own", env=env) for _ in range(PROCESSES)]


@pytest.fixture(scope="module")
def members(servers: list[Server]) -> Iterator[list[Wire]]:
    """Members in all processes, plain ones and others by turns."""
    with ExitStack() as stack:
        members = []
        for server in servers:
            for number in range(MEMBERS):
                more = "Sec-WebSocket-Protocol: wsmux.v1\r\n" if number % 2 else ""
                wire = stack.enter_context(server.upgraded("/rooms/room.1/", more))
                if more:
                    assert "welcome" in json.loads(wire.frame()[1])
                members.append(wire)
        yield members


def content(member: Wire) -> str:
    """Return the HTML of the next message that is not a heartbeat."""
    while True:
        opcode, payload = member.frame()
        if opcode == 1 and payload != b"{}":
            text = payload.decode()
            return str(json.loads(text)["content"]) if text[0] == "{" else text


def test_rendered_once(servers: list[Server], members: list[Wire], renderings: Path) -> None:
    """Each change is rendered once, and reaches all members in all processes."""
    evil = "<script>alert(1)</script>"
    escaped = "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert servers[0].get(f"/say/?{urlencode({'text': evil})}") == "said"
    (first,) = {content(member) for member in members}
    assert first.startswith('<turbo-stream action="append" target="lines">')
    assert escaped in first
    assert "<script" not in first
    assert renderings.read_text() == "."
    assert servers[-1].get("/say/?text=hi") == "said"
    (second,) = {content(member) for member in members}
    assert second.startswith('<turbo-stream action="replace" target="line-1">')
    assert renderings.read_text() == ".."
    assert servers[1].get("/say/") == "said"
    (third,) = {content(member) for member in members}
    assert third == '<turbo-stream action="remove" target="line-1"></turbo-stream>'
    assert renderings.read_text() == ".."
    assert len(members) == PROCESSES * MEMBERS


def test_failing_template(servers: list[Server], members: list[Wire]) -> None:
    """A page whose row cannot be rendered answers 200; its other rows are sent."""
    answer = servers[0].request("/fail/?text=hello")
    assert (answer.status, answer.text) == (200, "said")
    (html,) = {content(member) for member in members}
    assert "hello" in html
    assert servers[0].wait_for_log("HTML for lines.Broken 1 was not sent")
    assert servers[0].wait_for_log(r"HTML for <Group room\.1> \(lines/broken\.html\) was not sent")
