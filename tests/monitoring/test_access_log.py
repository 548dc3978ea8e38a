"""The access log: one line for each closed socket."""

from __future__ import annotations

import json
import re
import signal
from contextlib import ExitStack

import pytest

from django_wsmux.groups.pubsub import pubsub
from tests.conftest import StartServer
from tests.functional.test_conversation import closing, signed_in
from tests.support import TIMEOUT, WORKERS, frame

from .conftest import start_site

LINE = re.compile(
    r'^(\S+) - (\S+) \[[^]]+\] "WEBSOCKET (\S+) HTTP/1\.1" (\d+) (\d+) "([^"]*)" "([^"]*)" '
    r'([\d.]+) in=(\d+)/(\d+) out=(\d+)/(\d+) "(.*)"$',
    re.MULTILINE,
)


@pytest.mark.parametrize("worker", WORKERS)
def test_access_log(start_server: StartServer, worker: str) -> None:
    """A closed socket has one line, with any view; text of the peer is escaped."""
    server = start_server(worker, "--access-logfile", "-")
    paths = ["/echo/", "/plain-echo/", "/events/echo/", "/events/lean-echo/", "/events/private/"]
    reason = 'a "quote",\x1b[31m and a\nline'
    with signed_in(server, "ann") as headers:
        for path in paths:
            with server.connect(path, additional_headers=headers) as websocket:
                websocket.send("message")
                websocket.recv(timeout=TIMEOUT)
                websocket.close(4001, reason)
    assert server.refused("/nowhere/").status == 404
    server.wait_for_log(r'"WEBSOCKET /events/private/ .*\n')
    lines = [match.groups() for match in LINE.finditer(server.log)]
    assert [line[2] for line in lines] == paths
    for address, user, path, code, size, origin, agent, seconds, *traffic, said in lines:
        assert address == "127.0.0.1"
        assert user.isdigit()
        assert (code, size, origin) == ("4001", traffic[3], "-")
        assert ("websockets" in agent) == ("lean" not in path)
        assert 0 < float(seconds) < TIMEOUT
        assert [traffic[0], traffic[2]] == ["1", "1"]
        assert int(traffic[1]) > len(reason)
        assert said == r"a \"quote\",\u001b[31m and a\nline"
    assert "\x1b" not in server.log
    assert '" 101 ' not in server.log
    if worker != "stock":  # which has no access log for pages and refusals
        server.wait_for_log(r'"GET /nowhere/ HTTP/1\.1" 404')
    if worker == "own":
        with server.connect("/echo/") as websocket:
            server.signal(signal.SIGTERM)
            assert closing(websocket) == (1012, "service restart")
        server.wait()
        assert '"WEBSOCKET /echo/ HTTP/1.1" 1012 0 ' in server.log


#: Paths as clients send them: Cyrillic, an emoji, bytes that are not UTF-8, escaped percent signs.
STRANGE = ("%D0%BA", "%F0%9F%98%80", "%FF", "a%25b", "%25D0")


@pytest.mark.parametrize("worker", [*WORKERS, "runserver"])
def test_any_path(environment: dict[str, str], worker: str) -> None:
    """A socket with any path has its lines in the log, and its worker is in the list."""
    settings = {"FORCE_SCRIPT_NAME": "/\N{LATIN SMALL LETTER E WITH ACUTE}"}
    site = start_site(worker, {**environment, "TEST_SETTINGS": json.dumps(settings)})
    prefix = "/%C3%A9"
    paths = [f"{start}{name}/" for name in STRANGE for start in ("/any/", "/events/any/")]
    agent = "\N{CYRILLIC SMALL LETTER KA}"
    try:
        with ExitStack() as stack:
            for path in paths:
                more = f"User-Agent: {agent}\r\n"
                wire = stack.enter_context(site.server.upgraded(path, more))
                wire.send(frame(0x81, b"x"))
                assert wire.frame() == (1, b"x")
            assert {f"{prefix}{path}" for path in paths} == {*site.sockets()}
            assert f"\n{prefix}/any/%D0%BA/ " in site.command()
        for path in paths:
            if worker == "runserver":
                site.server.wait_for_log(f'"WEBSOCKET {prefix}{path} OPEN" 101')
                site.server.wait_for_log(f'"WEBSOCKET {prefix}{path} CLOSE"')
            else:
                # A view that keeps no request keeps no headers.
                said = "-" if "events" in path else agent
                line = f'"WEBSOCKET {prefix}{path} HTTP/1.1" 1006 [0-9]+ "-" "{said}" '
                site.server.wait_for_log(line)
        assert site.server.refused("/any/%D0%BA/", {"Sec-WebSocket-Version": "12"}).status == 426
        assert site.server.refused("/any/%D0%BA/", {"Origin": "https://a.example"}).status == 403
        for status in ("426 Upgrade Required", "403 Forbidden"):
            site.server.wait_for_log(f"refused with {status}: '[^ ]*/any/%D0%BA/': ")
        assert "Traceback" not in site.server.log
    finally:
        site.server.stop()
        pubsub.backend()


def test_access_log_format(start_server: StartServer) -> None:
    """The line follows the setting; without an access log there is none."""
    settings = {"WEBSOCKET_ACCESS_LOG_FORMAT": '{"path": "%(U)s", "why": "%(reason)s", "s": %(s)s}'}
    env = {"TEST_SETTINGS": json.dumps(settings)}
    server = start_server("own", "--access-logfile", "-", env=env)
    with server.upgraded("/echo/") as wire:
        wire.send(frame(0x88, b'\x0f\xa0\x07 \xe2\x80\xae \\ "'))
        wire.closed()
    line = json.loads(server.wait_for_log(r'\{"path".*')[0])
    assert line == {"path": "/echo/", "why": '\x07 \u202e \\ "', "s": 4000}
