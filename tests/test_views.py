"""Event views: the same on every server, and without a greenlet while they are quiet."""

from __future__ import annotations

import json
import signal
import socket
import struct
import time
from collections.abc import Callable
from uuid import uuid4

import pytest
from websockets.sync.client import ClientConnection

from tests.functional.test_conversation import all_messages, closing, signed_in
from tests.support import TIMEOUT, Server, frame, handshake

StartServer = Callable[..., Server]


def said(server: Server, key: str, end: str = ";") -> str:
    """Wait until the report of the view ends like this; return it."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        report = json.loads(server.get(f"/report/{key}/"))["report"] or ""
        if report.endswith(end):
            return str(report)
    raise AssertionError(f"{report!r} does not end with {end!r}")


def ask(websocket: ClientConnection, message: str | bytes) -> str | bytes:
    """Send a message and return the answer."""
    websocket.send(message)
    return websocket.recv(timeout=TIMEOUT)


class TestMessages:
    """``receive()`` and ``send()``."""

    @pytest.mark.parametrize("path", ["/events/echo/", "/events/lean-echo/"])
    def test_echo(self, server: Server, path: str) -> None:
        """Text, binary and empty messages of any size come back unchanged."""
        with server.connect(path) as websocket:
            for message in ("text", b"binary", "", b"", "é" * 70_000, b"\0" * 700_000, "last"):
                assert ask(websocket, message) == message

    def test_pipelined(self, server: Server) -> None:
        """Pipelined messages are handled in order, none missing."""
        with server.upgraded("/events/echo/") as wire:
            wire.send(b"".join(frame(0x81, b"%d" % number) for number in range(1000)))
            assert [wire.frame()[1] for _ in range(1000)] == [b"%d" % n for n in range(1000)]

    def test_messages_before_a_close(self, server: Server) -> None:
        """Messages before the peer's close frame are handled before ``disconnect()``."""
        key = uuid4().hex
        with server.upgraded(f"/events/report/{key}/") as wire:
            wire.send(frame(0x81, b"a") + frame(0x81, b"b") + frame(0x88, b"\x0f\xa1bye"))
            assert wire.closed()[0] == 4001
        assert said(server, key, "bye;") == ("connect;receive 'a';receive 'b';disconnect 4001 bye;")

    def test_one_at_a_time(self, server: Server) -> None:
        """Messages of one socket are handled one by one, those of several sockets concurrently."""
        with server.upgraded("/events/slow/") as one, server.upgraded("/events/slow/") as two:
            started = time.monotonic()
            for wire in (one, two):
                wire.send(frame(0x81, b"1") + frame(0x81, b"2"))
            assert [wire.frame()[1] for wire in (one, two, one, two)] == [b"1", b"1", b"2", b"2"]
            assert time.monotonic() - started > 0.2

    def test_more_than_greenlets(self, start_server: StartServer) -> None:
        """With a single greenlet, messages of all sockets are handled one after another."""
        settings = json.dumps({"WEBSOCKET_HANDLER_GREENLETS": 1})
        server = start_server("own", env={"TEST_SETTINGS": settings})
        with server.upgraded("/events/slow/") as one, server.upgraded("/events/slow/") as two:
            started = time.monotonic()
            for wire in (one, two):
                wire.send(frame(0x81, b"1") + frame(0x81, b"2"))
            assert [wire.frame()[1] for wire in (one, two, one, two)] == [b"1", b"1", b"2", b"2"]
            assert time.monotonic() - started > 0.4

    def test_receive_of_the_socket(self, server: Server) -> None:
        """receive() in an event view is an error that says why."""
        key = uuid4().hex
        with server.connect(f"/events/report/{key}/") as websocket:
            websocket.send("wait")
            assert closing(websocket)[0] == 1011
        server.wait_for_log("RuntimeError: an event view cannot wait")

    def test_spawn(self, server: Server) -> None:
        """Helpers run beside the view."""
        with server.connect("/events/spawn/") as websocket:
            assert ask(websocket, "x") == "helper 'x'"


class TestHandshake:
    """``connect()`` decides before the 101."""

    def test_response_refuses(self, gunicorn: Server) -> None:
        """A response is sent unchanged, and ``disconnect()`` does not run."""
        key = uuid4().hex
        answer = gunicorn.refused(f"/events/report/{key}/?refuse")
        assert (answer.status, answer.text) == (418, "refused")
        assert gunicorn.refused(f"/events/report/{key}/?missing").status == 404
        assert said(gunicorn, key) == "connect;connect;"

    def test_peer_gone_before_the_101(self, gunicorn: Server) -> None:
        """``connect()`` accepted, so ``disconnect()`` runs even if the peer has gone."""
        key = uuid4().hex
        with gunicorn.wire() as wire:
            wire.send(handshake(f"/events/report/{key}/?slow"))
            said(gunicorn, key)
            linger = struct.pack("ii", 1, 0)
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        assert said(gunicorn, key, "disconnect 1006 ;") == "connect;disconnect 1006 ;"

    def test_middleware_refuses(self, gunicorn: Server) -> None:
        """If a middleware refuses after ``connect()``, ``disconnect()`` runs."""
        key = uuid4().hex
        answer = gunicorn.refused(f"/events/report/{key}/", {"X-Refuse-Late": "1"})
        assert answer.status == 503
        assert said(gunicorn, key, "disconnect 1006 ;") == "connect;disconnect 1006 ;"

    def test_sending_in_connect(self, server: Server) -> None:
        """Messages from ``connect()`` are sent right after the 101."""
        with server.connect("/events/early/x/") as websocket:
            assert [websocket.recv(timeout=TIMEOUT) for _ in range(2)] == ["first", b"second"]

    def test_group_in_connect(self, server: Server) -> None:
        """Messages to a group arrive from the moment at which ``connect()`` joins it."""
        with server.connect("/events/early/group/") as websocket:
            assert [websocket.recv(timeout=TIMEOUT) for _ in range(3)][2] == "third"

    def test_closing_in_connect(self, server: Server) -> None:
        """The socket opens and closes with code and reason, which browsers can read."""
        with server.connect("/events/early/close/") as websocket:
            assert all_messages(websocket) == ["first", b"second"]
            assert (websocket.close_code, websocket.close_reason) == (4001, "no")

    def test_refused_after_sending(self, gunicorn: Server) -> None:
        """A refusal discards the messages, and the socket leaves its groups."""
        assert gunicorn.refused("/events/early/refuse/").status == 403
        with gunicorn.connect("/events/early/group/") as websocket:
            assert len([websocket.recv(timeout=TIMEOUT) for _ in range(3)]) == 3

    def test_sending_much_in_connect(self, gunicorn: Server) -> None:
        """Messages wait for the 101, so ``connect()`` has a limit with a clear error."""
        assert gunicorn.refused("/events/early/much/").status == 500
        gunicorn.wait_for_log(
            r"RuntimeError: connect\(\) has sent more than WEBSOCKET_MAX_UNSENT_BYTES \(\d+\),"
        )

    def test_sending_a_large_one_in_connect(self, gunicorn: Server) -> None:
        """A single message is accepted in any size."""
        with gunicorn.connect("/events/early/large/") as websocket:
            assert [websocket.recv(timeout=TIMEOUT) for _ in range(2)] == ["first", b"second"]
            assert len(websocket.recv(timeout=TIMEOUT)) == 2**21

    def test_receiving_in_connect(self, gunicorn: Server) -> None:
        """receive() in ``connect()`` is an error."""
        assert gunicorn.refused("/events/early/receive/").status == 500
        gunicorn.wait_for_log("RuntimeError: the handshake is not accepted yet")

    def test_subprotocols(self, gunicorn: Server) -> None:
        """The first subprotocol that both sides support is selected, or none."""
        with gunicorn.connect("/events/typed/", subprotocols=["x", "chat.v1"]) as websocket:
            assert websocket.subprotocol == "chat.v1"
            assert ask(websocket, "hi") == "chat.v1 hi"
        with gunicorn.connect("/events/typed/") as websocket:
            assert ask(websocket, "hi") == "None hi"

    def test_kind_of_message(self, server: Server) -> None:
        """A view for text closes with 1003 after binary data."""
        with server.connect("/events/typed/") as websocket:
            websocket.send(b"binary")
            assert closing(websocket) == (1003, "binary data is not expected here")

    def test_mixins(self, gunicorn: Server) -> None:
        """The mixins of django.contrib.auth answer with HTTP."""
        answer = gunicorn.refused("/events/private/")
        assert answer.status == 302
        assert answer.headers["Location"] == "/login/?next=/events/private/"
        assert gunicorn.refused("/events/staff/").status == 403
        assert gunicorn.refused("/events/ann/").status == 403
        with signed_in(gunicorn) as headers:
            assert gunicorn.refused("/events/staff/", headers).status == 403
            with gunicorn.connect("/events/ann/", additional_headers=headers):
                pass
            with gunicorn.connect("/events/private/", additional_headers=headers) as websocket:
                assert ask(websocket, "?") == "ann ann"

    def test_page(self, server: Server) -> None:
        """A plain request does not reach the view: the URLs of sockets are not those of pages."""
        assert server.request("/events/echo/").status in (404, 426)


class TestErrors:
    """An error in a view affects only its own socket."""

    @pytest.mark.parametrize("how", ["crash", "exit", "timeout"])
    def test_raising(self, server: Server, how: str) -> None:
        """An exception closes with 1011 and is logged, and ``disconnect()`` runs once."""
        key = uuid4().hex
        with server.upgraded(f"/events/report/{key}/") as wire:
            wire.send(frame(0x81, how.encode()) + frame(0x81, b"next"))
            assert wire.closed()[0] == 1011
        expected = f"connect;receive {how!r};disconnect 1011 500 Internal Server Error;"
        assert said(server, key, "Error;") == expected
        server.wait_for_log(rf"Internal Server Error: /events/report/{key}/")
        with server.connect("/events/echo/") as websocket:
            assert ask(websocket, "others") == "others"

    def test_debug_shows_error(self, start_server: StartServer) -> None:
        """With DEBUG, the close frame names the error."""
        server = start_server("own", env={"TEST_DEBUG": "1"})
        with server.connect(f"/events/report/{uuid4().hex}/") as websocket:
            websocket.send("crash")
            assert closing(websocket) == (1011, "500 ValueError: it broke")

    def test_closing(self, server: Server) -> None:
        """After the view's own close, messages that were not handled yet are dropped."""
        key = uuid4().hex
        with server.upgraded(f"/events/report/{key}/") as wire:
            wire.send(frame(0x81, b"close") + frame(0x81, b"next"))
            assert wire.closed() == (4000, "as asked")
        expected = "connect;receive 'close';disconnect 4000 as asked;"
        assert said(server, key, "asked;") == expected

    def test_lost(self, server: Server) -> None:
        """A peer that is gone without a close frame is 1006."""
        key = uuid4().hex
        with server.upgraded(f"/events/report/{key}/") as wire:
            wire.send(frame(0x81, b"x"))
            said(server, key, "'x';")
        assert said(server, key, "1006 ;") == "connect;receive 'x';disconnect 1006 ;"

    def test_sending_in_disconnect(self, server: Server) -> None:
        """Sending does nothing, and the code after it runs."""
        with server.connect("/events/room/parting/") as member:
            member.recv(timeout=TIMEOUT)
            with server.connect("/events/parting/") as websocket:
                websocket.close()
            assert member.recv(timeout=TIMEOUT) == "first"
            assert member.recv(timeout=TIMEOUT) == "second"

    def test_disconnect_raises(self, server: Server) -> None:
        """An exception in ``disconnect()`` is logged; the socket is closed already."""
        key = uuid4().hex
        with server.upgraded(f"/events/report/{key}/") as wire:
            wire.send(frame(0x88, b"\x03\xe8crash"))
            assert wire.closed()[0] == 1000
        server.wait_for_log("ValueError: disconnect broke")

    def test_lean(self, server: Server) -> None:
        """Errors are logged also without the request."""
        with server.connect("/events/lean/", user_agent_header="agent") as websocket:
            websocket.send("crash")
            assert closing(websocket)[0] == 1011
        server.wait_for_log("Internal Server Error: /events/lean/")


class TestState:
    """State during each message."""

    def test_surroundings(self, server: Server) -> None:
        """Language and time zone are those of the handshake, whatever a message changes."""
        headers = {"Accept-Language": "de"}
        path = "/events/surroundings/?zone=Europe/Paris"
        with (
            server.connect(path, additional_headers=headers) as german,
            server.connect("/events/surroundings/") as english,
        ):
            for _ in range(2):
                assert ask(german, "?") == "de Europe/Paris /only-a-page/"
                assert ask(english, "?") == "en UTC /only-a-page/"
                assert ask(german, "change") == "en Asia/Tokyo /only-a-page/"

    def test_request_kept(self, server: Server) -> None:
        """The user is that of the handshake; ``refresh_user()`` sees that the session is over."""
        name = uuid4().hex
        with (
            signed_in(server, name) as headers,
            server.connect("/events/private/", additional_headers=headers) as websocket,
        ):
            assert ask(websocket, "?") == f"{name} {name}"
            assert ask(websocket, "refresh") == f"{name} {name}"
            server.get(f"/change-user/behind/?user={name}")
            assert ask(websocket, "?") == f"{name} {name}"
            assert ask(websocket, "refresh") == f"{name} "

    def test_request_not_kept(self, server: Server) -> None:
        """Attributes set in ``connect()`` remain; ``request.path`` raises a helpful error."""
        with server.connect("/events/lean/", user_agent_header="agent") as websocket:
            answer = str(ask(websocket, "?"))
            assert answer.startswith("agent /events/lean/ request.path: this view has keep_request")
            websocket.send("refresh")
            assert closing(websocket)[0] == 1011

    def test_session(self, server: Server) -> None:
        """The session can be saved; one that was changed and not saved gets a warning."""
        with signed_in(server) as headers:
            with server.connect("/events/session/", additional_headers=headers) as websocket:
                assert ask(websocket, "save") == "1"
                assert ask(websocket, "forget") == "2"
            server.wait_for_log("request.session was changed after the handshake and not saved")
            with server.connect("/events/session/", additional_headers=headers) as websocket:
                assert ask(websocket, "forget") == "2"

    def test_saved_is_not_warned_of(self, start_server: StartServer) -> None:
        """A session that was only read or saved gets no warning."""
        server = start_server("own")
        with signed_in(server) as headers:
            with server.connect("/events/session/", additional_headers=headers) as websocket:
                assert ask(websocket, "save") == "1"
                assert ask(websocket, "save") == "2"
            with server.connect("/events/private/", additional_headers=headers) as websocket:
                ask(websocket, "?")
        server.signal(signal.SIGTERM)
        server.wait()
        assert "was changed after the handshake" not in server.log

    def test_signals(self, server: Server) -> None:
        """Opened and closed are sent once each, with code, reason, time and traffic."""
        for path in ("/events/echo/", "/echo/"):
            key = uuid4().hex
            with server.upgraded(f"{path}?key={key}") as wire:
                wire.send(frame(0x81, b"hello"))
                assert wire.frame() == (1, b"hello")
                wire.send(frame(0x88, b"\x0f\xa1bye"))
                wire.closed()
            report = said(server, key, "closed;")
            assert report == "opened;4001 bye 0.0 (1, 22, 1, 7) closed;"


class TestDatabase:
    """The database treats a message like a request."""

    def test_used_and_given_back(self, server: Server) -> None:
        """Connections are released after each message."""
        with server.connect("/events/database/") as websocket:
            for number in range(3):
                assert ask(websocket, f"SELECT {number}") == str(number)
                deadline = time.monotonic() + TIMEOUT
                while (held := server.get("/connections/")) != "0":
                    assert time.monotonic() < deadline, held

    def test_broken(self, server: Server) -> None:
        """A database error ends its socket and nothing else."""
        with server.connect("/events/database/") as websocket:
            websocket.send("nonsense")
            assert closing(websocket)[0] == 1011
        with server.connect("/events/database/") as websocket:
            assert ask(websocket, "SELECT 7") == "7"


class TestKinds:
    """JSON and forms."""

    def test_json(self, server: Server) -> None:
        """Values arrive parsed; invalid JSON is answered with an error."""
        with server.connect("/events/json/") as websocket:
            for value in ({"a": [1, None]}, "text", 7, None, ""):
                assert json.loads(ask(websocket, json.dumps(value))) == {"got": value}
            for bad in ("", "{", "[" * 100_000):
                assert json.loads(ask(websocket, bad)) == {
                    "errors": {
                        "__all__": [{"message": "This is not valid JSON.", "code": "invalid_json"}]
                    }
                }
            websocket.send(b"{}")
            assert closing(websocket)[0] == 1003

    def test_forms(self, server: Server) -> None:
        """Each type has its form, each outcome its method."""

        def chat(**message: object) -> object:
            return json.loads(ask(websocket, json.dumps(message)))

        with server.connect("/events/chat/") as websocket:
            assert chat(type="say", text="hi", when="2026-01-31") == {
                "type": "said",
                "text": "hi",
                "when": "2026-01-31",
            }
            assert chat(type="say", text="too long") == {
                "type": "say",
                "errors": {
                    "text": [
                        {
                            "message": "Ensure this value has at most 5 characters (it has 8).",
                            "code": "max_length",
                        }
                    ]
                },
            }
            assert chat(type="name", name="not a slug") == {"bad": ["name"]}
            assert chat(type="name", name="slug") == {"type": "name", "name": "slug"}
            for odd in ({"type": "other"}, {"type": ["say"]}, {"type": "form"}, {}):
                answer = chat(**odd)
                assert isinstance(answer, dict)
                assert answer["errors"]["__all__"][0]["code"] == "unknown_type"
            answer = json.loads(ask(websocket, "[1]"))
            assert answer["errors"]["__all__"][0]["code"] == "invalid_message"
