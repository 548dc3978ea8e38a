"""Recovery of groups with a history: killed publishers, broken stores, page loads, a storm."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing, need
from tests.functional.model import post, say, serving
from tests.functional.storm import main as storm
from tests.gauges import wait_until
from tests.services import PostgresServer, RedisServer, find_postgres
from tests.support import Server, Wire

HISTORY = {"model.*": {"messages": 100, "seconds": 600}}


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short path, because paths of Unix sockets are limited."""
    with tempfile.TemporaryDirectory(prefix="r") as name:
        path = Path(name)
        path.chmod(0o755)  # PostgreSQL runs as another user
        yield path


class Member:
    """A client with ``wsmux.v1`` that has joined a group.

    Args:
        server: the server.
        group: the group.
    """

    def __init__(self, server: Server, group: str, stack: ExitStack) -> None:
        self.server, self.group, self.stack = server, group, stack
        self.at = ""
        self.wire = self.open()

    def open(self) -> Wire:
        """Open a socket, with the position if there is one."""
        more = "Sec-WebSocket-Protocol: wsmux.v1"
        if self.at:
            brought = json.dumps({"g": {self.group: self.at}}).encode()
            more += f", wsmux.at.{base64.urlsafe_b64encode(brought).decode().rstrip('=')}"
        wire = self.stack.enter_context(
            self.server.upgraded(f"/kept/quiet/{self.group}/", f"{more}\r\n")
        )
        welcome = told(wire)["welcome"]["groups"][self.group]
        assert welcome.get("recovered", True)
        self.at = self.at or welcome["at"]
        return wire

    def next(self) -> Any:
        """Return the next frame; reconnect if the connection was lost."""
        while True:
            try:
                found = told(self.wire)
            except (OSError, ValueError):
                self.wire = self.open()
                continue
            self.at = found.get("at", self.at)
            if found and "joined" not in found:
                return found

    def text(self) -> str:
        """Return the next message."""
        found: str = self.next()["text"]
        return found


def told(wire: Wire) -> Any:
    """Return the next text frame as a value."""
    opcode, payload = wire.frame()
    while opcode == 9:
        opcode, payload = wire.frame()
    assert opcode == 1, payload
    return json.loads(payload)


def plain_text(wire: Wire) -> str:
    """Return the next text of a plain socket."""
    opcode, payload = wire.frame()
    assert opcode == 1, payload
    return payload.decode()


@contextmanager
def local(directory: Path, **options: Any) -> Iterator[Server]:
    """Serve with four workers and the history in a file."""
    with serving("local", directory, WEBSOCKET_HISTORY=HISTORY, **options) as (server, _):
        yield server


def test_killed_between_storing_and_publishing(directory: Path) -> None:
    """Each member gets the message once and in order, although it was not published."""
    with local(directory) as server, ExitStack() as stack:
        members = [Member(server, "model.1", stack) for _ in range(8)]
        say(server, "model.1", "first")
        assert {member.text() for member in members} == {"first"}
        with contextlib.suppress(OSError, EOFError):
            server.get("/kept/die/model.1/")
        texts = [member.text() for member in members]
        assert texts == ["last words"] * 8
        say(server, "model.1", "after")
        assert {member.text() for member in members} == {"after"}


def test_same_key(directory: Path) -> None:
    """If several processes send messages with the same key, only one is sent."""
    with local(directory) as server, ExitStack() as stack:
        member = Member(server, "model.1", stack)
        wanted = [{"group": "model.1", "text": "paid", "key": "paid"}]
        answers: list[Any] = []

        def send() -> None:
            for _ in range(5):
                answers.append(post(server.port, "/kept/send/", wanted))

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(answer["sent"] == ["paid"] for answer in answers)
        assert len({answer["pid"] for answer in answers}) > 1
        say(server, "model.1", "end")
        assert [member.text(), member.text()] == ["paid", "end"]


def break_redis(server: RedisServer, group: str, site: Server) -> None:
    """Restart Redis from a snapshot that lacks the last messages."""
    server.ask("SAVE")
    say(site, group, "after the snapshot")
    server.kill()
    server.start()


def break_postgres(server: PostgresServer, group: str, site: Server) -> None:
    """Kill all processes of PostgreSQL, and start it again."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for each in (pid, *map(int, children)):
        os.kill(each, signal.SIGKILL)
    server.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{each}").exists() for each in children), "the end")
    server.start()


@pytest.mark.parametrize("store", ["redis", "postgres", "local"])
def test_store_that_loses_messages(store: str, directory: Path) -> None:
    """Members are told of a gap, plain clients by their view; then messages continue."""
    if store == "redis":
        need("redis-server")
    elif store == "postgres" and find_postgres() is None:
        missing("PostgreSQL")
    with serving(store, directory, WEBSOCKET_HISTORY=HISTORY) as (site, broker), ExitStack() as on:
        say(site, "model.1", "first")
        members = [Member(site, "model.1", on) for _ in range(8)]
        plain = [on.enter_context(site.upgraded("/kept/member/model.1/")) for _ in range(4)]
        before = members[0].at.partition("-")[0]
        if isinstance(broker.server, RedisServer):
            break_redis(broker.server, "model.1", site)
        elif isinstance(broker.server, PostgresServer):
            break_postgres(broker.server, "model.1", site)
        else:
            (folder,) = directory.glob("wsmux-*/.history")
            shutil.rmtree(folder)
        say(site, "model.1", "after")
        for member in members:
            check_gap(member, before)
        for wire in plain:
            texts: set[str] = set()
            while not {"after", "missed"} <= texts:
                texts.add(plain_text(wire))
        say(site, "model.1", "end")
        assert {member.text() for member in members} == {"end"}
        assert {plain_text(wire) for wire in plain} == {"end"}


def check_gap(member: Member, before: str) -> None:
    """Assert that a member is told a new epoch, and then gets later messages."""
    found = member.next()
    while "gap" not in found:
        assert found["at"].partition("-")[0] == before
        assert found["text"] == "after the snapshot"
        found = member.next()
    position = found["gap"]["model.1"]
    assert position.partition("-")[0] != before
    while (found := member.next()).get("text") != "after":
        # Further gaps: nothing was sent yet in the new epoch.
        assert "gap" in found


def test_page_loads(directory: Path) -> None:
    """Messages between a page and its socket are neither missing nor duplicated."""
    count = int(os.environ.get("TEST_LOADS", "50"))
    with local(directory) as server:
        say(server, "model.1", "0")
        for number in range(1, count + 1):
            at = re.search(r"[^\"\s]+-\d+", server.get("/kept/page/model.1/"))
            assert at is not None
            position = at[0].rpartition("@")[2]
            say(server, "model.1", f"{number} between")
            with server.upgraded(f"/kept/member/model.1/?at={position}") as wire:
                say(server, "model.1", f"{number} live")
                assert plain_text(wire) == f"{number} between"
                assert plain_text(wire) == f"{number} live"


def test_storm(capsys: pytest.CaptureFixture[str]) -> None:
    """Each process reads each group at most once, for any number of clients that return."""
    assert storm(["--clients", "60", "--groups", "3"]) == 0, capsys.readouterr().out
