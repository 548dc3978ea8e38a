"""Wrappers around Django and around the dispatcher: any iterable, at any moment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from tests.compat.conftest import StartServer, start_site
from tests.gauges import wait_until
from tests.support import SERVERS, TIMEOUT, WORKERS, Server, handshake

#: A function view, an event view, and a view without a decorator.
VIEWS = ("/echo/", "/events/echo/", "/plain-echo/")

SANE = ("closing", "bare", "listed", "lazy", "late", "copying")

KNOWN = ("closing", "lazy", "copying", "priming", "recording")


@pytest.fixture(scope="module", params=SERVERS)
def site(request: pytest.FixtureRequest, start_lasting_server: StartServer) -> Server:
    """Every server; requests choose the wrappers of the application."""
    options = () if request.param == "runserver" else ("--access-logfile", "-")
    return start_site(start_lasting_server, request.param, *options)


@pytest.fixture
def clean(site: Server) -> Iterator[Server]:
    """The same server; afterwards its log must have no traceback."""
    seen(site)
    start = len(site.log)
    yield site
    seen(site)
    log = site.log[start:]
    assert "Traceback" not in log
    assert "error" not in log.lower()


def seen(site: Server) -> list[str]:
    """Return and reset what the wrappers have seen; earlier lines are in the log by then."""
    mark = uuid4().hex
    found: list[str] = json.loads(site.get("/seen/", {"X-Mark": mark}))
    site.wait_for_log(mark)
    return found


def wait_for_end(site: Server) -> list[str]:
    """Return what the wrappers see until the call of the application has ended.

    For a view without a decorator, the call may end after the client has closed.
    """
    found: list[str] = []

    def has_ended() -> bool:
        found.extend(seen(site))
        return found[-1:] in (["closed"], ["returned"])

    wait_until(has_ended, "the end of the call")
    return found


def talk(site: Server, path: str, headers: dict[str, str]) -> None:
    """Open a socket, get an echo, close it."""
    with site.connect(path, additional_headers=headers) as websocket:
        for message in ("one", "two"):
            websocket.send(message)
            assert websocket.recv(timeout=TIMEOUT) == message
        websocket.close()
    assert websocket.close_code == 1000


class TestAgents:
    """``WSGIHandler.__call__`` is wrapped, and does not return Django's response."""

    @pytest.mark.parametrize("agent", SANE)
    @pytest.mark.parametrize("path", VIEWS)
    def test_sockets_open(self, clean: Server, agent: str, path: str) -> None:
        """The socket opens, whatever the wrapper returns."""
        talk(clean, path, {"X-Agent": agent})

    @pytest.mark.parametrize("agent", SANE)
    def test_refusals_pass(self, site: Server, agent: str) -> None:
        """Status, headers and body arrive as the view made them."""
        answer = site.refused("/status/404/", {"X-Agent": agent})
        assert (answer.status, answer.headers["Retry-After"]) == (404, "7")
        assert answer.text == "status 404"

    def test_refusal_that_raises_in_close(self, site: Server) -> None:
        """The refusal has arrived; the server logs the error, and closes the connection."""
        start = len(site.log)
        with site.wire() as wire:
            wire.send(handshake("/status/404/", "X-Agent: raising-at-close\r\n"))
            answer = wire.response()
            # runserver's errors are those of a thread, which has logged all of them by then.
            assert wire.rest() == b""
        assert (answer.status, answer.text) == (404, "status 404")
        site.wait_for_log(rf"(?s).{{{start}}}.*an agent has a bug in close\(\)")

    def test_headers_of_agent(self, site: Server) -> None:
        """Headers that an agent adds are on the 101."""
        with site.wire() as wire:
            wire.send(handshake("/echo/", "X-Agent: late\r\n"))
            head = wire.head()
        assert head.startswith("HTTP/1.1 101 ")
        assert "X-Late: yes\r\n" in head

    @pytest.mark.parametrize("agent", ["closing", "lazy"])
    @pytest.mark.parametrize("path", VIEWS)
    def test_bodies_end(self, clean: Server, agent: str, path: str) -> None:
        """Bodies are exhausted and closed, once, without an error."""
        talk(clean, path, {"X-Agent": agent})
        assert wait_for_end(clean) == ["exhausted", "closed"]

    @pytest.mark.parametrize("path", ["/echo/", "/events/echo/"])
    def test_raises_after_the_view(self, site: Server, path: str) -> None:
        """A wrapper that raises before the socket opens makes the response a 500."""
        assert site.refused(path, {"X-Agent": "raising"}).status == 500

    def test_raises_after_the_conversation(self, site: Server) -> None:
        """After a view without a decorator has ended, the exception goes to the server."""
        start = len(site.log)
        talk(site, "/plain-echo/", {"X-Agent": "raising"})
        site.wait_for_log(rf"(?s).{{{start}}}.*LookupError: an agent has a bug")
        talk(site, "/plain-echo/", {})

    @pytest.mark.parametrize("path", VIEWS)
    def test_raises_in_close(self, site: Server, path: str) -> None:
        """The socket stays open; the error is logged."""
        start = len(site.log)
        talk(site, path, {"X-Agent": "raising-at-close"})
        site.wait_for_log(rf"(?s).{{{start}}}.*an agent has a bug in close\(\)")

    @pytest.mark.parametrize("path", VIEWS)
    def test_answers_itself(self, clean: Server, path: str) -> None:
        """A wrapper's own response is passed on."""
        answer = clean.refused(path, {"X-Agent": "blocking"})
        assert (answer.status, answer.text) == (403, "blocked")


class TestAround:
    """Middleware around the dispatcher: an open socket is a response like any other."""

    @pytest.mark.parametrize("around", KNOWN)
    @pytest.mark.parametrize("path", VIEWS)
    def test_sockets_open(self, clean: Server, around: str, path: str) -> None:
        """The socket opens, whatever the middleware does with the response."""
        talk(clean, path, {"X-Around": around})

    @pytest.mark.parametrize("around", KNOWN)
    def test_refusals_pass(self, site: Server, around: str) -> None:
        """Status, headers and body arrive as the view made them."""
        answer = site.refused("/status/404/", {"X-Around": around})
        assert (answer.status, answer.text) == (404, "status 404")

    @pytest.mark.parametrize("path", VIEWS)
    def test_is_an_answer(self, clean: Server, path: str) -> None:
        """The response has status 101 and Django's headers, and no exception is raised."""
        talk(clean, path, {"X-Around": "recording"})
        found = wait_for_end(clean)
        assert found[0] == "101 Switching Protocols"
        assert "X-Mixed-Case: KeepMyCase" in found
        assert not [line for line in found if line.startswith("error")]

    @pytest.mark.parametrize("path", VIEWS)
    @pytest.mark.parametrize("around", ["closing", "lazy"])
    def test_bodies_end(self, clean: Server, around: str, path: str) -> None:
        """The server exhausts and closes the response."""
        talk(clean, path, {"X-Around": around})
        assert sorted(wait_for_end(clean)) == ["closed", "exhausted"]

    @pytest.mark.parametrize("path", VIEWS)
    def test_raises_at_close(self, site: Server, path: str) -> None:
        """The socket stays open; the error is in the log."""
        start = len(site.log)
        talk(site, path, {"X-Around": "raising-at-close"})
        site.wait_for_log(rf"(?s).{{{start}}}.*an agent has a bug in close\(\)")

    @pytest.mark.parametrize("path", VIEWS)
    def test_validator(self, clean: Server, path: str) -> None:
        """wsgiref's validator finds nothing wrong.

        It replaces wsgi.input and requires environ to be a plain dictionary.
        """
        name = worker_of(clean)
        if name == "gevent":
            assert clean.refused(path, {"X-Around": "validating"}).status == 501
        elif name != "stock":  # whose environ is a class of its own
            talk(clean, path, {"X-Around": "validating"})

    @pytest.mark.parametrize("around", ["replacing-input", "wrapping-input", "replacing-socket"])
    @pytest.mark.parametrize("path", VIEWS)
    def test_replaced(self, clean: Server, around: str, path: str) -> None:
        """The socket is found nevertheless, or the refusal names the key that was replaced."""
        if worker_of(clean) == "gevent":
            answer = clean.refused(path, {"X-Around": around})
            key = "gunicorn.socket" if "socket" in around else "wsgi.input"
            assert answer.status == 501
            assert f"has replaced {key} by" in answer.text
        else:
            talk(clean, path, {"X-Around": around})


def worker_of(site: Server) -> str:
    """Return the name of a server among ``SERVERS``."""
    arguments = site.process.args
    assert isinstance(arguments, list)
    if "runserver" in arguments:
        return "runserver"
    kind = arguments[arguments.index("-k") + 1]
    return next(name for name, known in WORKERS.items() if known == kind)


def test_access_log(site: Server) -> None:
    """A socket has one line in gunicorn's access log, at its end."""
    name = worker_of(site)
    if name == "runserver":
        talk(site, "/echo/", {})
        assert '"GET /echo/ HTTP/1.1" 101' not in site.log
        return
    start = len(site.log)
    for around in ("nothing", *KNOWN):
        talk(site, "/echo/", {"X-Around": around})
    site.wait_for_log(rf'(?s).{{{start}}}(.*"WEBSOCKET /echo/ ){{6}}')
    assert '"GET /echo/ ' not in site.log[start:]


@pytest.mark.parametrize("worker", ["own", "gevent"])
def test_post_request(
    start_server: StartServer, worker: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """gunicorn's hook gets a response with status 101; an open socket is not an error."""
    config = tmp_path_factory.mktemp("gunicorn") / "gunicorn.conf.py"
    config.write_text(
        "def post_request(worker, req, environ, resp):\n"
        "    worker.log.info('hook %s %s %s', req.path, resp.status, resp.status_code)\n"
    )
    server = start_server(worker, "-c", str(config), "--log-level", "debug")
    talk(server, "/echo/", {})
    server.wait_for_log(r"hook /echo/ 101 Switching Protocols 101")
    assert "Traceback" not in server.log
    with pytest.raises(ConnectionClosed), server.connect("/closing/4000/x/") as websocket:
        websocket.recv(timeout=TIMEOUT)
