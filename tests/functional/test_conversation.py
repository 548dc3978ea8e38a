"""What a view can do with an open socket, the same on every server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.support import TIMEOUT, Server, frame


def closing(websocket: ClientConnection) -> tuple[int, str]:
    """Wait for the server to close; return code and reason."""
    with pytest.raises(ConnectionClosed):
        websocket.recv(timeout=TIMEOUT)
    assert websocket.close_code is not None
    return websocket.close_code, websocket.close_reason or ""


def all_messages(websocket: ClientConnection) -> list[str | bytes]:
    """Return all messages until the server closes, whatever the code."""
    messages = []
    with suppress(ConnectionClosed):
        while True:
            messages.append(websocket.recv(timeout=TIMEOUT))
    return messages


@contextmanager
def signed_in(server: Server, user: str = "ann") -> Iterator[dict[str, str]]:
    """Sign in over HTTP; yield the headers with the session."""
    yield {"Cookie": server.sign_in(user)}


class TestViews:
    """Every way to write a function view."""

    @pytest.mark.parametrize("path", ["/echo/", "/plain-echo/", "/meta-echo/", "/loop/"])
    def test_echo(self, server: Server, path: str) -> None:
        """Text, binary and empty messages of any size come back unchanged."""
        messages: list[str | bytes] = [
            "text",
            b"binary",
            "",
            b"",
            "é" * 70_000,
            b"\0" * 700_000,
            "last",
        ]
        with server.connect(path) as websocket:
            for message in messages:
                websocket.send(message)
                assert websocket.recv(timeout=TIMEOUT) == message

    @pytest.mark.parametrize("path", ["/echo/", "/plain-echo/", "/meta-echo/", "/loop/"])
    def test_pipelined(self, server: Server, path: str) -> None:
        """Pipelined messages come back in order, none missing."""
        with server.connect(path) as websocket:
            for i in range(1000):
                websocket.send(str(i))
            assert [websocket.recv(timeout=TIMEOUT) for _ in range(1000)] == [
                str(i) for i in range(1000)
            ]

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("/stacked/", "stacked"),
            ("/rooms/lobby/", "lobby rooms:room"),
            ("/number/7/", '{"number": 7, "type": "int"}'),
            ("/regex/1999/", "1999"),
            ("/reverse/", "/only-a-page/"),
        ],
    )
    def test_urls(self, server: Server, path: str, said: str) -> None:
        """Converters, includes, namespaces, stacked decorators and reverse() work."""
        with server.connect(path) as websocket:
            assert websocket.recv(timeout=TIMEOUT) == said

    def test_forms_validate_messages(self, server: Server) -> None:
        """A form's errors are sent back like its data."""
        with server.connect("/form/") as websocket:
            websocket.send('{"number": "0"}')
            errors = json.loads(websocket.recv(timeout=TIMEOUT))["errors"]
            assert errors["number"][0]["code"] == "min_value"
            websocket.send('{"number": "21"}')
            assert json.loads(websocket.recv(timeout=TIMEOUT)) == {"double": 42}


class TestRequestCycle:
    """Middleware, session, database."""

    def test_runs_after_the_middleware(self, server: Server) -> None:
        """A conversation runs outside of middleware and of ATOMIC_REQUESTS."""
        with server.connect("/unwound/") as websocket:
            assert json.loads(websocket.recv(timeout=TIMEOUT)) == {"inside": 0, "atomic": False}

    def test_user(self, server: Server) -> None:
        """request.user is the user of the session."""
        with (
            signed_in(server) as headers,
            server.connect("/private/", additional_headers=headers) as websocket,
        ):
            assert websocket.recv(timeout=TIMEOUT) == "ann"

    def test_session(self, server: Server) -> None:
        """The next socket sees a session that a view has saved."""
        with signed_in(server) as headers:
            for count in ("1", "2"):
                with server.connect("/session/", additional_headers=headers) as websocket:
                    websocket.send("count")
                    assert websocket.recv(timeout=TIMEOUT) == count

    def test_language(self, server: Server) -> None:
        """The language of the handshake is active in the conversation."""
        headers = {"Accept-Language": "de"}
        with server.connect("/language/", additional_headers=headers) as websocket:
            assert websocket.recv(timeout=TIMEOUT) == "de"
            assert websocket.recv(timeout=TIMEOUT) == "helper de"

    def test_waiting_holds_no_connection(self, server: Server) -> None:
        """The database connection is released before the view waits."""
        with server.connect("/database/") as websocket:
            assert json.loads(websocket.recv(timeout=TIMEOUT)) == {"held": False}

    def test_receive_inside_atomic(self, server: Server) -> None:
        """receive() inside atomic() is an error that says what to do."""
        with server.connect("/atomic/") as websocket:
            assert closing(websocket) == (1011, "500 Internal Server Error")
        server.wait_for_log(r"leave the block before you wait for a message")


class TestEnd:
    """How a conversation ends, and what each side sees."""

    def test_view_returns(self, server: Server) -> None:
        """A view that returns closes with 1000."""
        with server.connect("/rooms/x/") as websocket:
            websocket.recv(timeout=TIMEOUT)
            assert closing(websocket) == (1000, "")

    def test_view_closes(self, server: Server) -> None:
        """The code and reason of the view arrive."""
        with server.connect("/closing/4321/enough/") as websocket:
            assert closing(websocket) == (4321, "enough")

    def test_view_raises(self, server: Server) -> None:
        """An exception closes with 1011 without details, and is logged with the request's path."""
        with server.connect("/crash/") as websocket:
            websocket.send("go")
            assert closing(websocket) == (1011, "500 Internal Server Error")
        server.wait_for_log(r"Internal Server Error: /crash/\n(.*\n)+?ValueError: it broke")

    @pytest.mark.parametrize(("status", "code"), [(302, 1008), (403, 1008), (503, 1011)])
    def test_response_too_late(self, server: Server, status: int, code: int) -> None:
        """A response after the 101 becomes a close with its status."""
        with server.connect(f"/late-status/{status}/") as websocket:
            found, reason = closing(websocket)
            assert (found, reason.split()[0]) == (code, str(status))

    def test_a_view_exits(self, server: Server) -> None:
        """sys.exit() in a view ends its socket, is logged, and affects no other socket."""
        with server.connect("/echo/") as other, server.connect("/exiting/") as websocket:
            websocket.send("go")
            assert closing(websocket) == (1011, "500 Internal Server Error")
            server.wait_for_log("SystemExit: done for today")
            other.send("still here")
            assert other.recv(timeout=TIMEOUT) == "still here"

    def test_one_receives(self, server: Server) -> None:
        """Two concurrent receivers are an error."""
        with server.connect("/receiving-twice/") as websocket:
            assert closing(websocket)[0] == 1011
        server.wait_for_log("RuntimeError: another (greenlet|thread) is already waiting")

    def test_bad_close_code(self, server: Server) -> None:
        """A code that must not be sent is an error in the view."""
        with server.connect("/closing/1006/no/") as websocket:
            assert closing(websocket)[0] == 1011
        server.wait_for_log(r"ValueError: close code 1006 may not be sent")

    def test_peer_closes(self, server: Server) -> None:
        """The view gets all messages, then code and reason."""
        key = uuid4().hex
        with server.connect(f"/report/{key}/") as websocket:
            websocket.send("one")
            websocket.send("two")
            websocket.close(4000, "bye")
        assert websocket.close_code == 4000
        assert reported(server, key) == "4000 bye ['one', 'two']"

    def test_peer_vanishes(self, server: Server) -> None:
        """The end of the stream without a close frame is 1006."""
        key = uuid4().hex
        with server.upgraded(f"/report/{key}/"):
            pass
        assert reported(server, key) == "1006  []"

    def test_nothing_stays(self, server: Server) -> None:
        """When all sockets are closed, none is counted and no view runs."""
        key = uuid4().hex
        with server.connect(f"/report/{key}/"):
            pass
        reported(server, key)
        state = json.loads(server.get("/report/none/"))
        assert (state["open"], state["running_views"], state["inside"]) == (0, 0, 0)


def reported(server: Server, key: str) -> str:
    """Return the report of a socket, whose view ends a moment after its peer."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        report = json.loads(server.get(f"/report/{key}/"))["report"]
        if report is not None:
            return str(report)
    raise AssertionError(f"no report under {key}")


class TestBesides:
    """Helpers, groups, timeouts, pings."""

    def test_spawn(self, server: Server) -> None:
        """A helper sends beside the view and ends with the socket."""
        with server.connect("/spawn/") as websocket:
            assert [websocket.recv(timeout=TIMEOUT) for _ in range(3)] == ["tick"] * 3
        assert reported(server, "ticker") == "ended"

    def test_spawn_fails(self, server: Server) -> None:
        """An error in a helper is logged and closes the socket."""
        with server.connect("/spawn/") as websocket:
            websocket.send("fail")
            assert set(all_messages(websocket)) <= {"tick"}
            assert websocket.close_code == 1011
        server.wait_for_log(r"ValueError: helper")

    def test_group(self, server: Server) -> None:
        """Every member gets the message; a closed socket is no member."""
        with server.connect("/group/") as one:
            one.send("count")
            assert one.recv(timeout=TIMEOUT) == "1"
            with server.connect("/group/") as two:
                two.send("count")
                assert two.recv(timeout=TIMEOUT) == "2"
                one.send("hello")
                assert one.recv(timeout=TIMEOUT) == two.recv(timeout=TIMEOUT) == "hello"
                one.send("others")
                assert two.recv(timeout=TIMEOUT) == "for the others"
            one.send("count")
            assert one.recv(timeout=TIMEOUT) == "1"
            one.send("close")
            assert closing(one) == (4000, "all out")

    def test_the_past_is_forgotten(self, server: Server) -> None:
        """A socket keeps nothing of groups that it left and helpers that ended."""
        with server.connect("/coming-and-going/") as websocket:
            assert websocket.recv(timeout=TIMEOUT) == "0"

    def test_receive_timeout(self, server: Server) -> None:
        """receive() raises TimeoutError, and the socket works afterwards."""
        with server.connect("/timeout/") as websocket:
            assert websocket.recv(timeout=TIMEOUT) == "no message within 0.05 seconds"
            websocket.send("still here")
            assert websocket.recv(timeout=TIMEOUT) == "still here"

    def test_latency(self, server: Server) -> None:
        """A pong measures the latency of its ping."""
        with server.connect("/ping-me/") as websocket:
            assert 0 < json.loads(websocket.recv(timeout=TIMEOUT))["latency"] < TIMEOUT

    def test_debug_tells_the_peer(self, start_server: object) -> None:
        """With DEBUG, the close reason is the error, truncated."""
        server = start_server("own", env={"TEST_DEBUG": "1"})  # type: ignore[operator]
        with server.connect("/crash/") as websocket:
            websocket.send("go")
            code, reason = closing(websocket)
        assert code == 1011
        assert re.fullmatch(r"500 ValueError: it broke üx{96}", reason)


class TestSelect:
    """select(), as code for gevent-websocket waits for two sources."""

    def test_several_frames_in_one_segment(self, server: Server) -> None:
        """Each of several frames in one segment wakes select()."""
        with server.upgraded("/select/") as wire:
            assert wire.frame() == (1, b"from the other source")
            wire.send(frame(0x81, b"one") + frame(0x81, b"two") + frame(0x81, b"three"))
            assert [wire.frame()[1] for _ in range(3)] == [b"one", b"two", b"three"]

    def test_a_frame_in_pieces(self, server: Server) -> None:
        """Half a message does not wake select(): receive() never has to wait."""
        with server.upgraded("/select/") as wire:
            wire.frame()
            for byte in frame(0x81, b"slowly"):
                wire.send(bytes((byte,)))
            assert wire.frame() == (1, b"slowly")

    def test_a_ping_does_not_wake(self, server: Server) -> None:
        """A control frame does not wake select()."""
        with server.upgraded("/select/") as wire:
            wire.frame()
            wire.send(frame(0x89, b"p") + frame(0x81, b"m"))
            assert wire.frame() == (10, b"p")
            assert wire.frame() == (1, b"m")

    def test_the_close_wakes(self, server: Server) -> None:
        """The loop ends with the socket."""
        with server.upgraded("/select/") as wire:
            wire.frame()
            wire.send(frame(0x88, b"\x03\xe8"))
            assert wire.closed() == (1000, "")
