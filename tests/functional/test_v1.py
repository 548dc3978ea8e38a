"""The subprotocol wsmux.v1 with real servers."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from tests.gauges import settled, wait_until
from tests.support import SERVERS, Server, Wire, frame, handshake

StartServer = Callable[..., Server]

AT = "k3v9q2mx.h8s1c0a2w4-42"


def entry(**brought: Any) -> str:
    """Return the entry of a returning client among its subprotocols."""
    text = base64.urlsafe_b64encode(json.dumps(brought).encode()).decode()
    return f"wsmux.at.{text.rstrip('=')}"


def offer(**brought: Any) -> str:
    """Return the header line of a client."""
    names = ["wsmux.v1", entry(**brought)] if brought else ["wsmux.v1"]
    return f"Sec-WebSocket-Protocol: {', '.join(names)}\r\n"


def told(wire: Wire) -> Any:
    """Return the next text frame as a value."""
    opcode, payload = wire.frame()
    assert opcode == 1, payload
    return json.loads(payload)


def read(websocket: ClientConnection) -> Any:
    """Return the next text message as a value."""
    message = websocket.recv()
    assert isinstance(message, str)
    return json.loads(message)


@contextmanager
def talking(server: Server, path: str, **brought: Any) -> Iterator[tuple[Wire, str]]:
    """Open a socket; yield it with the signed id of the welcome, which comes first."""
    with server.upgraded(path, offer(**brought)) as wire:
        yield wire, told(wire)["welcome"]["client"]


@contextmanager
def without(pid: int) -> Iterator[None]:
    """Stop a worker during the block, so that another one answers."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class TestTalk:
    """A conversation with each server."""

    def test_order(self, front: Server) -> None:
        """The welcome comes first, then what connect() sends, then messages of groups."""
        with ExitStack() as stack:
            one, two = (
                stack.enter_context(
                    front.connect("/events/room/v1-order/", subprotocols=["wsmux.v1"])
                )
                for _ in range(2)
            )
            for each in (one, two):
                assert each.subprotocol == "wsmux.v1"
                welcome = read(each)["welcome"]
                assert welcome.keys() == {"client", "ping", "groups"}
                assert (welcome["ping"], welcome["groups"]) == (20, {})
                assert read(each)["text"].isdigit()
            one.send("hello")
            one.send(b"\x00\xff")
            assert read(two) == {"in": "v1-order", "text": "hello"}
            assert two.recv() == b"\x00\x09 v1-order\x00\xff"
            two.send("again")
            assert read(one) == {"in": "v1-order", "text": "again"}

    @pytest.mark.parametrize("path", ["/echo/", "/events/echo/", "/plain-echo/"])
    def test_views(self, front: Server, path: str) -> None:
        """Each kind of view speaks it."""
        with front.connect(path, subprotocols=["wsmux.v1"]) as websocket:
            # A view without a decorator accepts when it first uses the socket.
            assert read(websocket)["welcome"]["groups"] == {}
            websocket.send("hello")
            assert read(websocket) == {"text": "hello"}
            websocket.send(b"\x00")
            assert websocket.recv() == b"\x00\x00\x00"

    def test_plain(self, front: Server) -> None:
        """Any other client gets the bytes of its messages and nothing else."""
        with front.wire() as wire:
            wire.send(handshake("/events/room/v1-plain/"))
            assert "sec-websocket-protocol" not in wire.head().lower()
            opcode, payload = wire.frame()
            assert (opcode, payload.isdigit()) == (1, True)
            with front.connect("/events/room/v1-plain/", subprotocols=["wsmux.v1"]) as other:
                assert read(other)["welcome"]
                assert read(other)["text"]
                other.send("hello")
                assert wire.read(7) == b"\x81\x05hello"

    def test_own_subprotocol(self, front: Server) -> None:
        """A view with its own subprotocols keeps them."""
        with front.connect("/subprotocol/", subprotocols=["wsmux.v1"]) as websocket:
            assert websocket.subprotocol is None

    def test_compression(self, start_server: StartServer) -> None:
        """Compressed frames have the same content."""
        server = start_server("own", env={"TEST_COMPRESSION": "true"})
        with server.connect("/echo/", subprotocols=["wsmux.v1"]) as websocket:
            assert websocket.protocol.extensions
            assert read(websocket)["welcome"]
            for message in ("x" * 10_000, "short"):
                websocket.send(message)
                assert read(websocket) == {"text": message}


class TestSilence:
    """The heartbeat."""

    @pytest.mark.parametrize("name", ["own", "runserver"])
    def test_heartbeat(self, start_server: StartServer, name: str) -> None:
        """An empty object comes with each ping, as long as the client lives."""
        environment = {"TEST_PING_INTERVAL": "0.2", "TEST_PING_TIMEOUT": "20"}
        server = start_server(name, env=environment)
        with server.upgraded("/echo/", offer()) as wire, server.upgraded("/echo/") as plain:
            assert told(wire)["welcome"]["ping"] == 20
            assert wire.frame() == (1, b"{}")
            opcode, payload = wire.frame()
            assert opcode == 9
            wire.send(frame(0x8A, payload))
            assert plain.frame()[0] == 9


class TestBye:
    """When a client is to return."""

    @pytest.mark.parametrize("name", ["own", "stock"])
    def test_restart(self, start_server: StartServer, name: str) -> None:
        """Before 1012, each client is told a different time; other clients are told nothing."""
        server = start_server(name)
        with ExitStack() as stack:
            wires = [stack.enter_context(talking(server, "/echo/"))[0] for _ in range(5)]
            plain = stack.enter_context(server.upgraded("/echo/"))
            server.signal(signal.SIGTERM)
            times = [told(wire)["bye"]["after"] for wire in wires]
            assert all(0.5 <= seconds <= 1.5 for seconds in times)
            assert len(set(times)) > 1
            for wire in (*wires, plain):
                opcode, payload = wire.frame()
                assert (opcode, payload[:2]) == (8, (1012).to_bytes(2, "big"))

    def test_too_slow(self, start_server: StartServer) -> None:
        """Before 1013, a slow client is told when to return."""
        server = start_server("own", env={"TEST_MAX_UNSENT_BYTES": "100000"})
        with server.upgraded("/events/room/v1-slow/", offer(), receive_buffer=4096) as wire:
            assert told(wire)["welcome"]
            assert told(wire)["text"]
            server.get("/flood-group/v1-slow/400/20000/")
            frames = [wire.frame()]
            while frames[-1][0] != 8:
                frames.append(wire.frame())
            assert frames[-1][1][:2] == (1013).to_bytes(2, "big")
            assert json.loads(frames[-2][1])["bye"]["after"] >= 0.5
            assert frames[-3][1][:10] == b"\x00\x08 v1-slow"

    def test_full(self, start_server: StartServer) -> None:
        """A refusal is a close with a code, and tells the client when to return."""
        limits = json.dumps({"WEBSOCKET_MAX_SOCKETS": 1})
        server = start_server("own", env={"TEST_SETTINGS": limits})
        with talking(server, "/echo/"), server.upgraded("/echo/", offer()) as wire:
            assert told(wire) == {"bye": {"after": 10}}
            opcode, payload = wire.frame()
            assert (opcode, payload[:2]) == (8, (1013).to_bytes(2, "big"))


class TestReplaced:
    """A client that opens another socket with its id."""

    def test_workers(self, start_server: StartServer) -> None:
        """The older socket closes in any process, and stops counting, even if its peer is dead."""
        settings = {"WEBSOCKET_MAX_SOCKETS_PER_ADDRESS": 1, "WEBSOCKET_CLOSE_TIMEOUT": 60}
        environment = {"TEST_SETTINGS": json.dumps(settings)}
        server = start_server("own", "-w", "2", env=environment)
        wait_until(lambda: len(server.workers) == 2, "two workers")
        with ExitStack() as stack:
            wire, client = stack.enter_context(talking(server, "/events/room/x/"))
            seen = [told(wire)["text"]]
            for _ in range(4):
                # The client never answers the close.
                with without(int(seen[-1])):
                    new, same = stack.enter_context(talking(server, "/events/room/x/", c=client))
                assert same == client
                seen.append(told(new)["text"])
                opcode, payload = wire.frame()
                assert (opcode, payload) == (8, (4900).to_bytes(2, "big") + b"replaced")
                wire = new
            assert set(seen) == {str(pid) for pid in server.workers}
            # Also in the same process, and at once: the limit is that of the address.
            with without(next(pid for pid in server.workers if str(pid) != seen[-1])):
                new, same = stack.enter_context(talking(server, "/events/room/x/", c=client))
            assert (same, told(new)["text"]) == (client, seen[-1])

    def test_forged(self, gunicorn: Server) -> None:
        """Without the right signature, a client cannot take over an id."""
        with talking(gunicorn, "/echo/") as (wire, client):
            forged = client[:-1] + ("A" if client[-1] != "A" else "B")
            with talking(gunicorn, "/echo/", c=forged) as (_, other):
                assert other.partition("~")[0] != client.partition("~")[0]
            wire.send(frame(0x81, b"x"))
            assert told(wire) == {"text": "x"}

    def test_excluded(self, start_server: StartServer) -> None:
        """A client that is excluded by its id does not get the message, in any process."""
        server = start_server("own", "-w", "2")
        wait_until(lambda: len(server.workers) == 2, "two workers")
        path = "/events/excluding/v1-excluded/"
        with ExitStack() as stack:
            first, client = stack.enter_context(talking(server, path))
            excluded = client.partition("~")[0]
            with without(int(told(first)["text"])):
                last, _ = stack.enter_context(talking(server, path))
                assert told(last)["text"]
            last.send(frame(0x81, excluded.encode()))
            last.send(frame(0x81, f"{excluded}.p1".encode()))
            last.send(frame(0x81, b"none"))
            group = {"in": "v1-excluded"}
            assert told(last) == {**group, "data": excluded}
            assert told(first) == {**group, "not": ["p1"], "data": f"{excluded}.p1"}
            assert told(first) == {**group, "data": "none"}


class TestIdentity:
    """The user that the page was made for."""

    @pytest.mark.parametrize("path", ["/echo/", "/events/room/v1-identity/"])
    def test_another(self, gunicorn: Server, path: str) -> None:
        """A page of another user is sent a close and nothing else."""
        with gunicorn.upgraded(path, offer(u="somebody", g={"v1-identity": AT})) as wire:
            assert wire.frame() == (8, (4401).to_bytes(2, "big") + b"another user")
        with talking(gunicorn, path, u="anonymous") as (_, client):
            assert client


@pytest.fixture(scope="module", params=SERVERS)
def keeping(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """Every server, keeping the messages of groups."""
    settings = {"WEBSOCKET_HISTORY": {"*": {"messages": 10, "seconds": 600}}}
    return start_lasting_server(request.param, env={"TEST_SETTINGS": json.dumps(settings)})


class TestHistory:
    """Messages that a client missed."""

    def test_resume(self, keeping: Server) -> None:
        """The order is: welcome, messages of connect(), missed messages, new messages."""
        path = "/events/room/v1-resume/"
        with talking(keeping, path) as (wire, client):
            assert told(wire)["text"]
            keeping.get("/tell/?group=v1-resume&say=one")
            first = told(wire)
        assert (first["in"], first["text"][-4:]) == ("v1-resume", " one")
        keeping.get("/tell/?group=v1-resume&say=two")
        keeping.get("/tell/?group=v1-resume&say=three")
        brought = offer(c=client, u="anonymous", g={"v1-resume": first["at"]})
        with keeping.upgraded(path, brought) as wire:
            welcome = told(wire)["welcome"]
            assert welcome["client"] == client
            assert welcome["groups"]["v1-resume"]["recovered"] is True
            assert told(wire).keys() == {"text"}
            two, three = told(wire), told(wire)
            assert [each["text"].split()[1] for each in (two, three)] == ["two", "three"]
            assert three["at"] == welcome["groups"]["v1-resume"]["at"]
            keeping.get("/tell/?group=v1-resume&say=four")
            assert told(wire)["text"].endswith(" four")

    def test_gap(self, keeping: Server) -> None:
        """A client whose messages were deleted is told of a gap, and gets none of them."""
        path = "/events/room/v1-gap/"
        with talking(keeping, path) as (wire, _):
            assert told(wire)["text"]
            keeping.get("/tell/?group=v1-gap&say=0")
            first = told(wire)["at"]
        for number in range(12):
            keeping.get(f"/tell/?group=v1-gap&say={number}")
        with keeping.upgraded(path, offer(g={"v1-gap": first})) as wire:
            group = told(wire)["welcome"]["groups"]["v1-gap"]
            assert group["recovered"] is False
            assert told(wire).keys() == {"text"}
            keeping.get("/tell/?group=v1-gap&say=new")
            assert told(wire)["text"].endswith(" new")

    def test_query(self, keeping: Server) -> None:
        """A plain client sends its position in the URL, and gets only messages."""
        path = "/events/room/v1-query/"
        with talking(keeping, path) as (wire, _):
            assert told(wire)["text"]
            keeping.get("/tell/?group=v1-query&say=one")
            first = told(wire)["at"]
        keeping.get("/tell/?group=v1-query&say=two")
        for query in (first, f"v1-query@{first}", f"v1-query%40{first}"):
            with keeping.upgraded(f"{path}?at={query}") as wire:
                assert wire.frame()[1].isdigit()
                assert wire.frame()[1].endswith(b" two")

    def test_function_view(self, keeping: Server) -> None:
        """A function view joins after the welcome, so the client is told then."""
        with keeping.upgraded("/group/?name=v1-function", offer()) as wire:
            assert told(wire)["welcome"]["groups"] == {}
            joined = told(wire)["joined"]
            (name,) = joined
            keeping.get(f"/tell/?group={name}&say=one")
            first = told(wire)["at"]
        keeping.get(f"/tell/?group={name}&say=two")
        with keeping.upgraded("/group/?name=v1-function", offer(g={name: first})) as wire:
            assert told(wire)["welcome"]["groups"] == {}
            assert told(wire)["joined"][name]["recovered"] is True
            assert told(wire)["text"].endswith(" two")

    def test_excluded(self, keeping: Server) -> None:
        """A client's own messages are not replayed to it; positions continue."""
        path = "/events/room/v1-left-out/"
        with talking(keeping, path) as (wire, client), talking(keeping, path) as (other, _):
            assert told(wire)["text"]
            assert told(other)["text"]
            other.send(frame(0x81, b"start"))
            start = told(wire)
            wire.send(frame(0x81, b"mine"))
            assert told(other)["text"] == "mine"
            other.send(frame(0x81, b"theirs"))
            theirs = told(wire)
            assert theirs["text"] == "theirs"
        with keeping.upgraded(path, offer(c=client, g={"v1-left-out": start["at"]})) as wire:
            assert told(wire)["welcome"]["groups"]["v1-left-out"]["recovered"] is True
            assert told(wire)["text"].isdigit()
            assert told(wire) == theirs

    def test_marks(self, keeping: Server) -> None:
        """A view that handles the messages itself is also called for missed ones."""
        path = "/events/watching/v1-marks/"
        with talking(keeping, path) as (wire, _):
            keeping.get("/tell/?group=v1-marks&say=one")
            seen, mark = told(wire), told(wire)
            assert "text" in seen
            assert mark.keys() == {"at", "in"}
        keeping.get("/tell/?group=v1-marks&say=two")
        with keeping.upgraded(path, offer(g={"v1-marks": mark["at"]})) as wire:
            top = told(wire)["welcome"]["groups"]["v1-marks"]["at"]
            assert "two" in told(wire)["text"]
            assert told(wire) == {"at": top, "in": "v1-marks"}

    def test_another_user(self, keeping: Server) -> None:
        """Nothing is replayed to the page of another user."""
        path = "/events/room/v1-another/"
        with talking(keeping, path) as (wire, client):
            assert told(wire)["text"]
            keeping.get("/tell/?group=v1-another&say=one")
            first = told(wire)["at"]
        keeping.get("/tell/?group=v1-another&say=two")
        brought = offer(c=client, u="somebody", g={"v1-another": first})
        with keeping.upgraded(path, brought) as wire:
            assert wire.frame() == (8, (4401).to_bytes(2, "big") + b"another user")


class TestMalformed:
    """Malformed and malicious input."""

    @pytest.mark.parametrize(
        "name",
        [
            "wsmux.at.",
            "wsmux.at.A",
            "wsmux.at.!!!!",
            entry(g=[1]),
            entry(c=[[]], u={}, g={"a": {}}),
            entry(g={str(number): AT for number in range(100)})[:4000],
            entry(g={str(number): AT for number in range(130)}),
        ],
    )
    def test_entry(self, gunicorn: Server, name: str) -> None:
        """A malformed entry counts as absent."""
        line = f"Sec-WebSocket-Protocol: {name}, wsmux.v1\r\n"
        with gunicorn.upgraded("/echo/?at=x@y&at", line) as wire:
            assert told(wire)["welcome"]["groups"] == {}

    def test_ten_thousand_positions(self, gunicorn: Server) -> None:
        """A header above the server's limit is refused, and other clients are served."""
        positions = {str(number): AT for number in range(10_000)}
        start = len(gunicorn.log)  # other tests share the server
        with gunicorn.wire() as wire:
            wire.send(handshake("/echo/", offer(g=positions)))
            assert wire.head()[9:12] in ("400", "431")
        with talking(gunicorn, "/echo/") as (wire, _):
            wire.send(frame(0x81, b"x"))
            assert told(wire) == {"text": "x"}
        assert "Traceback" not in gunicorn.log[start:]

    def test_secret(self, start_server: StartServer) -> None:
        """No log contains the signature of an id."""
        server = start_server("own", "--access-logfile", "-")
        with talking(server, "/echo/") as (_, client):
            pass
        for path in ("/echo/", "/nowhere/", "/crash-before/"):
            with server.upgraded(path, offer(c=client)) as wire:
                wire.frame()
        settled(server)
        assert client.partition("~")[2] not in server.log
        assert entry(c=client) not in server.log
