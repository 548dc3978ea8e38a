"""Monitoring: access log, counters of all workers, Prometheus, the command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings
from prometheus_client.parser import text_string_to_metric_families

from django_wsmux.groups.pubsub import pubsub
from tests.functional.test_conversation import closing, signed_in
from tests.gauges import wait_until
from tests.support import ROOT, TIMEOUT, WORKERS, Server, frame

StartServer = Callable[..., Server]


class Site:
    """Two workers, and a program of the same project that asks them."""

    def __init__(self, server: Server, backend: str, env: dict[str, str]) -> None:
        self.server = server
        self.backend = backend
        self.env = env

    def command(self, *arguments: str) -> str:
        """Run ``manage.py websockets`` in this process."""
        with override_settings(WEBSOCKET_BACKEND=self.backend):
            output = StringIO()
            call_command("websockets", *arguments, stdout=output)
        return output.getvalue()

    def sockets(self, *arguments: str) -> dict[str, dict[str, object]]:
        """Return the open sockets by path."""
        return {str(each["path"]): each for each in self.all_sockets(*arguments)}

    def all_sockets(self, *arguments: str) -> list[dict[str, object]]:
        """Return the open sockets."""
        found: list[dict[str, object]] = json.loads(self.command("--json", *arguments))["sockets"]
        return found

    def counters(self) -> dict[str, float]:
        """Return the counters of all workers together."""
        counters: dict[str, float] = json.loads(self.command("stats", "--json"))["all"]
        return counters

    def series(self, name: str) -> dict[str, float]:
        """Return a metric without other labels as Prometheus sees it, by worker."""
        families = text_string_to_metric_families(self.server.get("/prometheus/"))
        samples = (sample for family in families for sample in family.samples)
        return {each.labels["worker"]: each.value for each in samples if each.name == name}


def start_site(worker: str, environment: dict[str, str], *options: str) -> Site:
    """Start a server; return it with its backend."""
    backend = f"local://?namespace={uuid4().hex}"
    env = {**environment, "TEST_BACKEND": backend}
    if worker == "runserver":
        return Site(Server.runserver(env=env), backend, env)
    server = Server.gunicorn(worker, "--access-logfile", "-", *options, env=env)
    return Site(server, backend, env)


@pytest.fixture(scope="module")
def site(environment: dict[str, str]) -> Iterator[Site]:
    """Two of our workers."""
    # The view of test_queues() does not end by itself.
    site = start_site("own", environment, "-w", "2", "--graceful-timeout", "1")
    yield site
    site.server.stop()
    pubsub.backend()  # closes the backend of the site


@pytest.fixture
def both(site: Site) -> Iterator[Site]:
    """The site with a socket at /echo/ in each worker, and no sockets of other tests."""
    # There are no counters before the first worker runs.
    wait_until(lambda: site.counters().get("open") == 0, "the end of other tests' sockets")
    with ExitStack() as stack:

        def are_both() -> bool:
            websocket = stack.enter_context(site.server.connect("/echo/"))
            websocket.send("x")
            websocket.recv(timeout=TIMEOUT)
            opened = site.series("django_wsmux_open_sockets")
            return len(opened) == 2 and all(opened.values())

        wait_until(are_both, "a socket in each worker")
        yield site


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


def test_counters(both: Site) -> None:
    """Sums include open and closed sockets of all workers, and do not fall when a socket closes."""
    before = both.counters()
    with ExitStack() as stack:
        for path in ("/echo/", "/events/echo/", "/burst/1000/100/"):
            websocket = stack.enter_context(both.server.connect(path))
            for number in range(10 * (path != "/burst/1000/100/")):
                websocket.send(str(number))
                websocket.recv(timeout=TIMEOUT)
        for _ in range(1000):
            websocket.recv(timeout=TIMEOUT)
        during = both.counters()
    wait_until(lambda: both.counters()["open"] == before["open"], "sockets closed")
    after = both.counters()
    assert during["open"] >= before["open"] + 2
    assert during["sockets_opened"] == after["sockets_opened"] == before["sockets_opened"] + 3
    for counters in (during, after):
        assert counters["messages_received"] == before["messages_received"] + 20
        assert counters["messages_sent"] == before["messages_sent"] + 1020
        assert counters["sent_bytes"] == before["sent_bytes"] + 20 * 3 + 1000 * 102
        assert counters["received_bytes"] >= before["received_bytes"] + 20 * 7
    # One more for disconnect().
    assert after["handler_calls"] == before["handler_calls"] + 11
    assert after["handler_seconds"] > before["handler_seconds"]
    assert after["handler_calls_within_10"] == after["handler_calls"]


def test_refusals_and_groups(both: Site) -> None:
    """Refusals by Django and malformed handshakes count, and so do deliveries of groups."""
    before = both.counters()
    assert both.server.refused("/nowhere/").status == 404
    assert both.server.refused("/echo/", {"Sec-WebSocket-Version": "12"}).status == 426
    with both.server.connect("/group/") as one, both.server.connect("/group/") as two:
        assert [*both.sockets("--group", "test")] == ["/group/"]
        one.send("hello")
        assert one.recv(timeout=TIMEOUT) == two.recv(timeout=TIMEOUT) == "hello"
    after = both.counters()
    assert after["handshakes_refused"] == before["handshakes_refused"] + 2
    assert after["group_publishes"] == before["group_publishes"] + 1
    assert after["group_deliveries"] == before["group_deliveries"] + 2


def test_queues(both: Site) -> None:
    """Counters show what waits for a slow peer and for a slow view."""
    with both.server.upgraded("/late-echo/slow/") as wire:
        wire.send(frame(0x81, b"x") * 5)
        wait_until(lambda: both.counters()["unread_messages"] == 5, "messages that wait")
        assert both.counters()["unread_messages_max"] == 5
        assert both.sockets()["/late-echo/slow/"]["unread"] == 5
    with both.server.upgraded("/overflowing/", receive_buffer=4096) as wire:
        wait_until(lambda: both.counters()["unsent_bytes"] > 2**20, "bytes that wait")
        assert both.counters()["unsent_bytes_max"] > 2**20
        wire.reset()


def test_handlers(both: Site) -> None:
    """A counter shows the messages that are being handled."""
    with both.server.connect("/events/slow/") as websocket:
        for _ in range(20):
            websocket.send("take your time")
        wait_until(lambda: both.counters()["handlers_running"] == 1, "a handler at work")
    wait_until(lambda: both.counters()["handlers_running"] == 0, "none at work")


def test_prometheus(both: Site) -> None:
    """Any worker reports the series of both; a worker that dies takes its series along."""
    text = both.server.get("/prometheus/")
    assert "# TYPE django_wsmux_sockets_opened_total counter" in text
    assert "# TYPE django_wsmux_handler_seconds histogram" in text
    assert '_bucket{le="+Inf",worker="' in text
    opened = both.series("django_wsmux_sockets_opened_total")
    assert {int(name.rpartition(":")[2]) for name in opened} == set(both.server.workers)
    assert sum(opened.values()) == both.counters()["sockets_opened"]
    victim, *_ = both.server.workers
    os.kill(victim, signal.SIGKILL)
    name = next(name for name in opened if name.endswith(f":{victim}"))
    wait_until(lambda: name not in both.series("django_wsmux_sockets_opened_total"), "series gone")
    (left,) = opened.keys() - {name}
    assert both.series("django_wsmux_sockets_opened_total")[left] == opened[left]


def test_list(both: Site) -> None:
    """Sockets of both workers are listed; the number of omitted sockets is shown."""
    with (
        signed_in(both.server, "ann") as headers,
        both.server.connect("/events/private/", additional_headers=headers) as websocket,
    ):
        websocket.send("hello")
        websocket.recv(timeout=TIMEOUT)
        found = both.sockets()["/events/private/"]
        user = str(found["user_id"])
        assert user.isdigit()
        assert (found["address"], found["messages_in"]) == ("127.0.0.1", 1)
        assert str(found["worker"]).endswith(tuple(f":{pid}" for pid in both.server.workers))
        text = both.command()
        assert re.search(rf"^/events/private/ +{user} +127\.0\.0\.1 +0:00:0\d +1 ", text, re.M)
        limited = json.loads(both.command("--json", "--limit", "1"))
        # One from each worker.
        assert len(limited["sockets"]) == 2
        assert len({each["worker"] for each in limited["sockets"]}) == 2
        # Each worker has a socket at /echo/, and one of them has this one, too.
        omitted = both.counters()["open"] - 2
        assert limited["omitted"] == omitted >= 1
        assert f"and {omitted:g} more" in both.command("--limit", "1")


def test_send(both: Site) -> None:
    """A message goes to the members of a group; an invalid name is refused."""
    with both.server.connect("/events/room/lobby/") as websocket:
        websocket.recv(timeout=TIMEOUT)
        assert both.command("send", "lobby", "from afar") == "sent to 1 sockets\n"
        assert websocket.recv(timeout=TIMEOUT) == "from afar"
    with pytest.raises(CommandError, match="group name '@x'"):
        both.command("send", "@x", "message")


def test_disconnect(both: Site) -> None:
    """A user's sockets are closed by name or by primary key, also as a separate command."""
    for by_id in (False, True):
        with (
            signed_in(both.server, "bob") as headers,
            both.server.connect("/events/private/", additional_headers=headers) as websocket,
        ):
            websocket.send("hello")
            websocket.recv(timeout=TIMEOUT)
            if by_id:
                user = str(both.sockets()["/events/private/"]["user_id"])
                assert "1 sockets" in both.command("disconnect", "--id", user)
            else:
                command = [sys.executable, "-m", "django", "websockets", "disconnect", "bob"]
                env = {**os.environ, **both.env}
                result = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
                assert result.stdout == "1 sockets of bob closed\n", result.stderr
            assert closing(websocket) == (4401, "disconnected")


def test_runserver(environment: dict[str, str]) -> None:
    """The development server answers too."""
    site = start_site("runserver", environment)
    try:
        with site.server.connect("/echo/") as websocket:
            websocket.send("x")
            websocket.recv(timeout=TIMEOUT)
            assert site.sockets()["/echo/"]["messages_in"] == 1
            assert site.series("django_wsmux_open_sockets").popitem()[1] == 1
    finally:
        site.server.stop()
        pubsub.backend()


def test_before_the_first_handshake(environment: dict[str, str]) -> None:
    """A worker of ours appears before its first socket, also after a reload."""
    site = start_site("own", environment, "-w", "2")

    def processes() -> set[int]:
        found = json.loads(site.command("stats", "--json"))["workers"]
        return {int(name.rpartition(":")[2]) for name in found}

    try:
        wait_until(lambda: processes() == {*site.server.workers}, "both workers")
        before = processes()
        site.server.signal(signal.SIGHUP)
        wait_until(
            lambda: len(processes() - before) == 2 and processes() == {*site.server.workers},
            "their successors",
        )
    finally:
        site.server.stop()
        pubsub.backend()


def test_alone() -> None:
    """Without a backend a process cannot ask others, and says so."""
    with pytest.raises(CommandError, match="WEBSOCKET_BACKEND is memory://"):
        call_command("websockets")


def test_broker_away() -> None:
    """The command reports that the broker cannot be reached."""
    with (
        override_settings(WEBSOCKET_BACKEND="redis://127.0.0.1:1/0"),
        pytest.raises(CommandError, match=r"redis://127\.0\.0\.1:1"),
    ):
        call_command("websockets")
    pubsub.backend()
