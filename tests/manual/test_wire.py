"""Runs the clients of ``docs/wire.rst`` against a real server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.gauges import wait_until
from tests.manual import blocks, python
from tests.services import Proxy, proxy_to
from tests.support import LOCAL, ROOT, TIMEOUT, Server


class Reader:
    """The client in Python in a thread.

    Attributes:
        client: the client.
        messages: the messages of groups until now, ``None`` for a gap.
        connections: how many sockets it has opened.
        error: the exception that ended it.
        answers: the answers to requests.
    """

    def __init__(self, port: int, path: str) -> None:
        namespace: dict[str, Any] = {"__name__": "client"}
        (block,) = python("wire.rst")
        exec(block, namespace)
        self.client = namespace["Client"](f"ws://127.0.0.1:{port}{path}", **LOCAL)
        self.messages: list[Any] = []
        self.connections = 0
        self.error: object = None
        self.answers: list[Any] = []
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for group, message in self.client.messages():
                if group is not None:
                    self.messages.append(message)
                elif isinstance(message, dict):
                    self.answers.append(message)
                else:
                    self.connections += 1  # the view's first message
        except (ConnectionClosed, ValueError) as error:
            self.error = error

    @property
    def has_position(self) -> bool:
        """Whether the client has a position."""
        return bool(self.client.positions)

    def request(self, **message: Any) -> None:
        """Send a request."""
        self.client.websocket.send(json.dumps({**message, "ref": 1}))


#: Connects with the client in Node; reads requests, and writes what the client gets, in lines.
PROGRAM = """
import { createInterface } from "node:readline";
import { connect } from "./client.mjs";

const tell = (value) => console.log(JSON.stringify({ ...value, positions: client.positions.size }));
const message = (group, data) => {
  const binary = Buffer.isBuffer(data) ? data.toString("base64") : undefined;
  tell({ group, data, binary });
};
const client = connect(process.argv[2], message, (code, reason) => tell({ code, reason }));
for await (const line of createInterface({ input: process.stdin })) {
  const { type, ...fields } = JSON.parse(line);
  client.request(type, fields, 120_000).then(
    (reply) => tell({ answer: { reply } }),
    (error) => tell({ answer: { errors: error.errors ?? error.message } }),
  );
}
process.exit();
"""


class NodeReader:
    """The client in Node in a process; see ``Reader``."""

    def __init__(self, port: int, path: str, folder: Path) -> None:
        (block,) = (
            each.text
            for each in blocks(ROOT / "docs" / "wire.rst")
            if each.language == "javascript"
        )
        (folder / "client.mjs").write_text(block)
        (folder / "program.mjs").write_text(PROGRAM)
        self.messages: list[Any] = []
        self.answers: list[Any] = []
        self.connections = 0
        self.error: object = None
        self.has_position = False
        self.process = subprocess.Popen(
            [Path(sys.executable).parent / "node", "program.mjs", f"ws://127.0.0.1:{port}{path}"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            value = json.loads(line)
            if "code" in value:
                self.error = value["code"]
            elif "answer" in value:
                self.answers.append(value["answer"])
            elif "group" in value:
                data = b64decode(value["binary"]) if "binary" in value else value["data"]
                self.messages.append(data)
            else:
                self.connections += 1  # the view's first message
            self.has_position = value["positions"] > 0

    def request(self, **message: Any) -> None:
        """Send a request."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{json.dumps(message)}\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        """End the process, which reads until then."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(TIMEOUT)
        self.thread.join(TIMEOUT)
        assert self.process.stdout is not None
        self.process.stdout.close()


Start = Callable[[int, str], Reader | NodeReader]


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[[int, str], NodeReader]]:
    """Start clients in Node; stop them after the test."""
    readers: list[NodeReader] = []

    def start(port: int, path: str) -> NodeReader:
        readers.append(NodeReader(port, path, tmp_path))
        return readers[-1]

    yield start
    for reader in readers:
        reader.stop()


@pytest.fixture(params=["python", "node"])
def start(request: pytest.FixtureRequest, start_node: Start) -> Start:
    """Start either client."""
    return Reader if request.param == "python" else start_node


@pytest.fixture(scope="module")
def server(start_lasting_server: Callable[..., Server]) -> Server:
    """A server with histories: short ones of groups named few, long ones of all others."""
    settings = {
        "WEBSOCKET_HISTORY": {
            "few": {"messages": 5, "seconds": 600},
            "*": {"messages": 1000, "seconds": 600},
        },
        "WEBSOCKET_DRAIN_SECONDS": 0.5,
    }
    return start_lasting_server("own", "-w", "2", env={"TEST_SETTINGS": json.dumps(settings)})


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy in front of the server."""
    with proxy_to(server.port) as proxy:
        yield proxy


@contextmanager
def away(proxy: Proxy) -> Iterator[None]:
    """Cut the connection; the client's next handshake waits until the end of the block."""
    proxy.black_hole()
    proxy.cut()
    yield
    proxy.heal()


def test_nothing_is_missed(server: Server, proxy: Proxy, start: Start) -> None:
    """After cuts and restarts, the client gets each message once, in order, and no gap."""
    reader = start(proxy.port, "/events/room/wire/")
    wait_until(lambda: reader.has_position, "there is no welcome")
    sent: list[str] = []

    def send(count: int) -> None:
        for _ in range(count):
            sent.append(str(len(sent)))
            server.get(f"/tell/?group=wire&say={sent[-1]}")

    def has_all() -> bool:
        return len(reader.messages) >= len(sent)

    for _ in range(3):
        send(10)
        wait_until(has_all, "messages are missing")
        with away(proxy):
            send(10)
    wait_until(has_all, "messages are missing after a cut")
    workers = server.workers
    server.signal(signal.SIGHUP)
    while {*workers} & {*server.workers}:
        send(1)
    send(10)
    wait_until(has_all, "messages are missing after a deploy")
    assert [message.split()[1] for message in reader.messages] == sent
    assert reader.error is None
    assert reader.connections == 4  # the deploy has moved the last one


def test_gap(server: Server, proxy: Proxy, start: Start) -> None:
    """The client reports a gap if more messages were sent than are kept, and then continues."""
    reader = start(proxy.port, "/events/room/few/")
    wait_until(lambda: reader.has_position, "there is no welcome")
    with server.connect("/events/room/few/") as sender:
        sender.send("before")
        wait_until(lambda: reader.messages, "no message arrives")
        with away(proxy):
            for _ in range(10):
                server.get("/tell/?group=few&say=meanwhile")
        wait_until(lambda: len(reader.messages) > 1, "there is no gap")
        sender.send(b"\x00after")
        wait_until(lambda: len(reader.messages) > 2, "no message arrives after the gap")
    assert reader.messages == ["before", None, b"\x00after"]


def test_copy(server: Server, proxy: Proxy) -> None:
    """A client whose copy has taken over its id returns without it, and keeps its positions."""
    reader = Reader(proxy.port, "/events/room/copy/")
    wait_until(lambda: reader.has_position, "there is no welcome")
    first_id = reader.client.signed_id
    with (
        server.connect("/events/room/copy/", subprotocols=reader.client.offer()),
        server.connect("/events/room/copy/") as sender,
    ):
        wait_until(lambda: reader.client.signed_id not in (first_id, None), "no new id is given")
        sender.send("hello")
        wait_until(lambda: reader.messages, "no message arrives")
    assert reader.messages == ["hello"]


@pytest.mark.parametrize(
    ("path", "kind"), [("/closing/4000/over/", ConnectionClosed), ("/subprotocol/", ValueError)]
)
def test_final(server: Server, path: str, kind: type[Exception]) -> None:
    """The client does not return after a code that is final, or to an ordinary socket."""
    reader = Reader(server.port, path)
    wait_until(lambda: reader.error, "the client returns")
    assert isinstance(reader.error, kind)


def test_final_in_node(server: Server, start_node: Start) -> None:
    """So does the client in Node; its requests fail."""
    reader = start_node(server.port, "/asked/ending/")
    reader.request(type="x")
    wait_until(lambda: reader.error == 4000 and reader.answers, "the client returns")
    assert reader.answers == [{"errors": "closed with 4000"}]


def test_answers(server: Server, start: Start) -> None:
    """The clients get the answers to requests."""
    reader = start(server.port, "/asked/answering/")
    if isinstance(reader, Reader):
        wait_until(lambda: reader.client.signed_id, "there is no welcome")
    reader.request(type="double", n=4)
    wait_until(lambda: len(reader.answers) == 1, "there is no reply")
    reader.request(type="wrong")
    wait_until(lambda: len(reader.answers) == 2, "there are no errors")
    assert reader.answers[0]["reply"] == 8
    assert reader.answers[1]["errors"]["text"][0]["code"] == "max_length"


def test_requests_over_a_bad_line(proxy: Proxy, start_node: Start) -> None:
    """The client in Node sends requests again until they are answered."""
    reader = start_node(proxy.port, "/asked/once/")
    reader.request(type="double", n=0)
    wait_until(lambda: reader.answers, "there is no reply")
    with away(proxy):
        for number in range(1, 21):
            reader.request(type="double", n=number)
    wait_until(lambda: len(reader.answers) == 21, "replies are missing")
    assert sorted(each["reply"] for each in reader.answers) == list(range(0, 42, 2))
