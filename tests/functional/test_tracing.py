"""Spans of a message on its way through processes, live, from the history and from the outbox."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import StartServer, need
from tests.functional import test_postgres
from tests.functional.test_v1 import offer, talking, told
from tests.gauges import wait_until
from tests.services import RedisServer
from tests.support import ROOT, Server, Wire, frame

SITE = "tests.functional.tracing_site"

Span = dict[str, Any]


class Traced:
    """Two workers, and the spans of all processes.

    Args:
        env: the environment of each process.
        file: the file with the spans.

    Attributes:
        members: the number of sockets that watch the room.
    """

    def __init__(self, start: StartServer, env: dict[str, str], file: Path) -> None:
        self.env = env
        self._file = file
        self.members = 0
        self.server: Server = start("own", "-w", "2", application=SITE, env=env)
        wait_until(lambda: len(self.server.workers) == 2, "two workers")

    def spans(self, **wanted: Any) -> list[Span]:
        """Return the spans that have ended and have these values."""
        text = self._file.read_text() if self._file.exists() else ""
        found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [each for each in found if wanted.items() <= each.items()]

    def wait_for(self, number: int, **wanted: Any) -> list[Span]:
        """Return so many spans with these values, once they have ended."""
        wait_until(lambda: len(self.spans(**wanted)) >= number, f"{number} spans: {wanted}")
        found = self.spans(**wanted)
        assert len(found) == number
        return found

    def forget(self) -> None:
        """Forget all spans."""
        self._file.write_text("")

    def watch(self, stack: ExitStack) -> dict[int, Wire]:
        """Open sockets that watch the room until each worker has one; return one of each."""
        found: dict[int, Wire] = {}
        while len(found) < 2:
            wire, _ = stack.enter_context(talking(self.server, "/watching/"))
            self.members += 1
            found.setdefault(told(wire)["data"]["pid"], wire)
        return found

    def program(self, how: str, text: str) -> None:
        """Send a message from another process."""
        subprocess.run(
            [sys.executable, "-m", SITE, how, text],
            env={**os.environ, **self.env},
            cwd=ROOT,
            check=True,
        )


@pytest.fixture
def start(
    start_server: StartServer, environment: dict[str, str], tmp_path: Path
) -> Callable[..., Traced]:
    """Start two workers with the settings and the environment of a test."""

    def start(backend: str, **settings: Any) -> Traced:
        settings = {
            "ROOT_URLCONF": SITE,
            "WEBSOCKET_URLCONF": SITE,
            "WEBSOCKET_TRACING": True,
            "WEBSOCKET_HISTORY": {"room.*": {"messages": 100, "seconds": 600}},
            "WEBSOCKET_OUTBOX": True,
            **settings,
        }
        env = {
            **environment,
            "TEST_BACKEND": backend,
            "TEST_SETTINGS": json.dumps(settings),
            "TEST_SPANS": str(tmp_path / "spans"),
        }
        return Traced(start_server, env, tmp_path / "spans")

    return start


@pytest.fixture(params=["local", "redis", "postgres"])
def traced(
    request: pytest.FixtureRequest, start: Callable[..., Traced], tmp_path: Path
) -> Iterator[Traced]:
    """Two workers with each backend and its store."""
    if request.param == "redis":
        need("redis-server", "redis-cli")
        broker = RedisServer(tmp_path)
        yield start(broker.url)
        broker.stop()
    elif request.param == "postgres":
        postgres = request.getfixturevalue("postgres_server")
        settings = json.loads(test_postgres.settings(postgres)["TEST_SETTINGS"])
        yield start("postgres://", **settings)
    else:
        yield start(f"local://?namespace={uuid4().hex}")


def seen(wire: Wire) -> Any:
    """Return the next message of the room; what the view and the server tell besides is skipped."""
    while "seen" not in (value := told(wire).get("data", {})):
        pass
    return value["seen"]


def say(wire: Wire, text: str) -> None:
    """Send a message to the chat."""
    wire.send(frame(0x81, json.dumps({"type": "say", "text": text}).encode()))


def test_tree(traced: Traced) -> None:
    """One tree: a client's message, its publication, each process's members, and a replay."""
    with ExitStack() as stack:
        watching = traced.watch(stack)
        chat = stack.enter_context(traced.server.upgraded("/chat/"))
        say(chat, "hello")
        assert [seen(wire) for wire in watching.values()] == ["hello", "hello"]
        (received,) = traced.wait_for(1, name="receive say")
        (published,) = traced.wait_for(1, name="publish room.*")
        handled = traced.wait_for(traced.members, name="receive room.*")
        shakes = handshakes(traced)

        assert (received["kind"], published["kind"]) == ("CONSUMER", "PRODUCER")
        assert received["parent"] is None
        assert received["links"] == [shakes["/chat/"][0]["id"]]
        assert published["parent"] == received["id"]
        assert published["attributes"]["messaging.destination.name"] == "room.1"
        assert {each["pid"] for each in handled} == watching.keys()
        own = [each["id"] for each in shakes["/watching/"]]
        for each in handled:
            assert each["kind"] == "CONSUMER"
            assert each["parent"] == published["id"]
            assert each["links"][0] == published["id"]
            assert each["links"][1] in own
        assert len({each["id"][0] for each in (received, published, *handled)}) == 1

        # A client that was away for the second message.
        away, client = stack.enter_context(talking(traced.server, "/watching/"))
        told(away)
        say(chat, "second")
        for wire in (*watching.values(), away):
            assert seen(wire) == "second"
        position = told(away)["at"]
        away.reset()
        traced.forget()
        say(chat, "third")
        assert [seen(each) for each in watching.values()] == ["third", "third"]
        (third,) = traced.wait_for(1, name="publish room.*")
        brought = offer(c=client, u="anonymous", g={"room.1": position})
        wire = stack.enter_context(traced.server.upgraded("/watching/", brought))
        assert told(wire)["welcome"]["groups"]["room.1"]["recovered"] is True
        assert seen(wire) == "third"
        shake = handshakes(traced)["/watching/"][-1]
        wait_until(
            lambda: any(shake["id"] in each["links"] for each in traced.spans()), "the replay"
        )
        (replayed,) = (each for each in traced.spans() if shake["id"] in each["links"])
        assert replayed["name"] == "receive room.*"
        assert replayed["parent"] == third["id"]
        assert replayed["links"] == [third["id"], shake["id"]]


@pytest.mark.parametrize("how", ["plain", "commit", "stored"])
def test_pages_and_tasks(start: Callable[..., Traced], how: str) -> None:
    """What a page or a task sends is the child of its span, and the parent of what receives it."""
    traced = start(f"local://?namespace={uuid4().hex}")
    with ExitStack() as stack:
        watching = traced.watch(stack)
        for number, where in enumerate(("page", "task")):
            traced.forget()
            if where == "page":
                traced.server.get(f"/page/?how={how}&say={where}")
            else:
                traced.program(how, where)
            assert [seen(wire) for wire in watching.values()] == [where, where]
            (outer,) = traced.wait_for(1, **({"name": "task"} if number else {"kind": "SERVER"}))
            (published,) = traced.wait_for(1, name="publish room.*")
            assert published["parent"] == outer["id"]
            kind = "create" if how == "stored" else "send"
            assert published["attributes"]["messaging.operation.type"] == kind
            handled = traced.wait_for(traced.members, name="receive room.*")
            assert {each["pid"] for each in handled} == watching.keys()
            assert all(each["parent"] == published["id"] for each in handled)
        assert traced.server.get("/loops/") == "None"


def test_deploy(start: Callable[..., Traced]) -> None:
    """Sockets that move to other workers at a deploy still link to their handshakes."""
    traced = start(f"local://?namespace={uuid4().hex}")
    with ExitStack() as stack:
        watching = traced.watch(stack)
        wait_until(lambda: len(handshakes(traced)["/watching/"]) == traced.members, "their spans")
        own = [each["id"] for each in handshakes(traced)["/watching/"]]
        traced.server.signal(signal.SIGHUP)
        wait_until(
            lambda: len(traced.server.workers) == 2 and not watching.keys() & traced.server.workers,
            "new workers",
        )
        traced.server.get("/page/?how=plain&say=hello")
        assert [seen(wire) for wire in watching.values()] == ["hello", "hello"]
        handled = traced.wait_for(traced.members, name="receive room.*")
        assert not watching.keys() & {each["pid"] for each in handled}
        assert sorted(each["links"][1] for each in handled) == sorted(own)


def test_function_view(start: Callable[..., Traced]) -> None:
    """Each message of a function view's loop is a trace, in greenlets that run side by side."""
    traced = start(f"local://?namespace={uuid4().hex}")
    with ExitStack() as stack:
        wires = [stack.enter_context(traced.server.upgraded("/talk/")) for _ in range(4)]
        for number in range(3):
            for wire in wires:
                wire.send(frame(0x81, b"%d" % number))
        published = traced.wait_for(12, name="publish room.*")
    received = {tuple(each["id"]): each for each in traced.wait_for(12, name="receive")}
    assert {tuple(each["parent"]) for each in published} == received.keys()
    shakes = [each["id"] for each in handshakes(traced)["/talk/"]]
    links = [each["links"] for each in received.values()]
    assert all(each["parent"] is None for each in received.values())
    assert sorted(links) == sorted([shake] for shake in shakes for _ in range(3))


def test_sweep(start: Callable[..., Traced]) -> None:
    """The sweep of another process sends a message with the context of the moment of the call."""
    traced = start(f"local://?namespace={uuid4().hex}")
    with ExitStack() as stack:
        watching = traced.watch(stack)
        traced.forget()
        traced.program("dies", "left")
        assert [seen(wire) for wire in watching.values()] == ["left", "left"]
        (task,) = traced.wait_for(1, name="task")
        (published,) = traced.wait_for(1, name="publish room.*")
        assert published["parent"] == task["id"]
        for each in traced.wait_for(traced.members, name="receive room.*"):
            assert each["parent"] == published["id"]


def handshakes(traced: Traced) -> dict[str, list[Span]]:
    """Return the spans of handshakes by path, in order."""
    found: dict[str, list[Span]] = {}
    for each in traced.spans(kind="SERVER"):
        if each["attributes"].get("http.status_code") == 101:
            found.setdefault(f"/{each['attributes']['http.route']}", []).append(each)
    return found
