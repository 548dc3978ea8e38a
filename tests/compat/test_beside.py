"""Open sockets beside other middleware, applications and task queues."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from selenium.webdriver.support.ui import WebDriverWait

from tests.conftest import StartServer, need
from tests.project import settings as project
from tests.sample_site.conftest import new_window
from tests.services import RedisServer
from tests.support import ROOT, SERVERS, TIMEOUT, Server

HOSTS = ["django_hosts.middleware.HostsRequestMiddleware"]
LAST_HOSTS = ["django_hosts.middleware.HostsResponseMiddleware"]
TOOLBAR = ["debug_toolbar.middleware.DebugToolbarMiddleware"]
CSP = ["csp.middleware.CSPMiddleware"]
WHITENOISE = ["whitenoise.middleware.WhiteNoiseMiddleware"]


def settings(
    first: Sequence[str] = (), last: Sequence[str] = (), apps: Sequence[str] = (), **others: Any
) -> dict[str, str]:
    """Return the environment of a project with further middleware, applications and settings."""
    chosen = {
        "MIDDLEWARE": [*first, *project.MIDDLEWARE, *last],
        "INSTALLED_APPS": [*project.INSTALLED_APPS, *apps],
        "ROOT_URLCONF": "tests.compat.pages",
        "WEBSOCKET_URLCONF": "tests.compat.sockets",
        "STATIC_URL": "/static/",
        **others,
    }
    return {"TEST_SETTINGS": json.dumps(chosen)}


HOST_SETTINGS: dict[str, Any] = {
    "ROOT_HOSTCONF": "tests.compat.hosts",
    "DEFAULT_HOST": "main",
}
CSP_SETTINGS: dict[str, Any] = {
    "CONTENT_SECURITY_POLICY": {
        "DIRECTIVES": {
            "default-src": ["'none'"],
            "connect-src": ["'self'"],
            "script-src": ["'self'"],
        }
    },
}

#: The environment of the server for each software.
SITES = {
    "debug toolbar": {
        **settings(
            first=TOOLBAR,
            apps=["django.contrib.staticfiles", "debug_toolbar"],
            INTERNAL_IPS=["127.0.0.1"],
        ),
        "TEST_DEBUG": "1",
    },
    "whitenoise": settings(
        first=WHITENOISE,
        apps=["django.contrib.staticfiles"],
        WHITENOISE_ROOT=str(ROOT / "tests" / "compat" / "files"),
    ),
    "csp": settings(first=CSP, apps=["csp"], **CSP_SETTINGS),
    "hosts": settings(first=HOSTS, last=LAST_HOSTS, apps=["django_hosts"], **HOST_SETTINGS),
    "channels": settings(apps=["channels"], ASGI_APPLICATION="tests.compat.absent"),
    "all": {
        **settings(
            first=[*HOSTS, *WHITENOISE, *TOOLBAR, *CSP],
            last=LAST_HOSTS,
            apps=["django.contrib.staticfiles", "debug_toolbar", "csp", "django_hosts", "channels"],
            WHITENOISE_ROOT=str(ROOT / "tests" / "compat" / "files"),
            INTERNAL_IPS=["127.0.0.1"],
            **HOST_SETTINGS,
            **CSP_SETTINGS,
        ),
        "TEST_DEBUG": "1",
    },
}


def use(server: Server) -> None:
    """Use sockets of each kind, have handshakes refused, and check the log."""
    assert server.request("/only-a-page/").status == 200
    with server.connect("/echo/") as function, server.connect("/events/echo/") as event:
        for websocket in (function, event):
            websocket.send("hello")
            assert websocket.recv(timeout=TIMEOUT) == "hello"
    with server.connect("/plain-echo/") as websocket:
        websocket.send("without a decorator")
        assert websocket.recv(timeout=TIMEOUT) == "without a decorator"
    assert server.refused("/no/such/path/").status == 404
    assert server.refused("/denied/").status == 403
    assert server.refused("/private/").status == 302
    with server.connect("/echo/") as websocket:
        websocket.close(1000)
    assert "Internal Server Error" not in server.log
    assert " 500 " not in server.log


@pytest.mark.parametrize("software", SITES)
def test_own_worker(software: str, start_server: StartServer) -> None:
    """Sockets and refusals work under our worker beside each software, and beside all."""
    use(start_server("own", env=SITES[software]))


@pytest.mark.parametrize("kind", [kind for kind in SERVERS if kind != "own"])
def test_all_under_other_servers(kind: str, start_server: StartServer) -> None:
    """They work under the other servers with all of it installed."""
    use(start_server(kind, env=SITES["all"]))


def test_toolbar_on_pages(start_server: StartServer) -> None:
    """The toolbar is shown on pages and does not break open sockets."""
    server = start_server("own", env=SITES["debug toolbar"])
    with server.connect("/echo/") as websocket:
        assert "djDebug" in server.get("/socket-page/")
        websocket.send("still here")
        assert websocket.recv(timeout=TIMEOUT) == "still here"


@pytest.mark.parametrize("kind", SERVERS)
def test_whitenoise_around_dispatcher(kind: str, start_server: StartServer) -> None:
    """WhiteNoise as WSGI middleware serves its files and lets sockets through."""
    application = "tests.compat.wrapped.application"
    env = settings(WSGI_APPLICATION=application)
    options = {} if kind == "runserver" else {"application": "tests.compat.wrapped:application"}
    server = start_server(kind, env=env, **options)
    assert server.get("/files/file.txt") == "a file\n"
    use(server)


def test_hosts(start_server: StartServer) -> None:
    """A socket is found, with any pages of the host, and knows its host."""
    server = start_server("own", env=SITES["hosts"])
    shop = {"Host": f"shop.localhost:{server.port}"}
    assert server.get("/front/", shop) == "the shop"
    assert server.get("/echo/", shop) == "the shop"
    with server.connect("/host/") as websocket:
        assert websocket.recv(timeout=TIMEOUT) == "main /login/"
    with server.upgraded("/host/", host=shop["Host"]) as wire:
        assert wire.frame() == (1, b"shop /front/")
    with server.upgraded("/echo/", host=shop["Host"]):
        pass  # the path of a page of the shop, too


def test_sockets_of_a_host(start_server: StartServer) -> None:
    """A middleware gives a host sockets of its own."""
    hosts = [*HOSTS, "tests.compat.hosts.sockets_of_host"]
    env = settings(first=hosts, last=LAST_HOSTS, apps=["django_hosts"], **HOST_SETTINGS)
    server = start_server("own", env=env)
    shop = f"shop.localhost:{server.port}"
    with server.upgraded("/host/", host=shop) as wire:
        assert wire.frame() == (1, b"shop /front/")
    assert server.refused("/echo/", {"Host": shop}).status == 404
    with server.connect("/echo/") as websocket:
        websocket.send("the main host")
        assert websocket.recv(timeout=TIMEOUT) == "the main host"


def test_policy_in_a_browser(tmp_path: Path, start_server: StartServer) -> None:
    """A page with the policy ``connect-src 'self'`` opens a socket, from a script with a nonce."""
    need("chromium", "chromedriver")
    server = start_server("own", env=SITES["csp"])
    policy = server.request("/socket-page/").headers["Content-Security-Policy"]
    assert "nonce-" in policy
    window = new_window(tmp_path / "profile")
    try:
        window.get(f"http://127.0.0.1:{server.port}/socket-page/")
        WebDriverWait(window, 2 * TIMEOUT, poll_frequency=0.05).until(
            lambda _: window.title == "hello", "the socket's answer is not in the title"
        )
    finally:
        window.quit()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for Celery's tasks, and for messages of groups."""
    need("redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


class CeleryWorker:
    """A Celery worker with two forked children."""

    def __init__(self, env: dict[str, str], log: Path) -> None:
        command = "-m celery -A tests.compat.tasks worker -P prefork -c 2 -l INFO --without-gossip"
        self._log = log
        self._out = log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, *command.split()],
            cwd=ROOT,
            env=env,
            stdout=self._out,
            stderr=subprocess.STDOUT,
        )

    @property
    def log(self) -> str:
        """The output so far."""
        return self._log.read_text()

    def stop(self) -> None:
        """Stop the worker and its children."""
        self.process.terminate()
        try:
            self.process.wait(2 * TIMEOUT)
        finally:
            self.process.kill()
            self._out.close()


@pytest.mark.parametrize("backend", ["local", "redis"])
def test_celery_prefork(
    backend: str,
    broker: RedisServer,
    environment: dict[str, str],
    start_server: StartServer,
    tmp_path: Path,
) -> None:
    """Tasks in forked children send to groups; each message arrives once."""
    namespace = uuid4().hex
    url = broker.url if backend == "redis" else f"local://?namespace={namespace}"
    env = {"TEST_BACKEND": url, "TEST_BROKER": f"{broker.url}/1"}
    server = start_server("own", "-w", "2", env=env)
    client = Celery("tests", broker=env["TEST_BROKER"], set_as_current=False)
    worker = CeleryWorker({**os.environ, **environment, **env}, tmp_path / "celery.log")
    try:
        with server.connect("/group/") as first, server.connect("/group/") as second:
            for websocket in (first, second):
                websocket.send("count")
                websocket.recv(timeout=TIMEOUT)
            for number in range(20):
                client.send_task("announce", ("test", f"task {number}"))
            for websocket in (first, second):
                received = [str(websocket.recv(timeout=3 * TIMEOUT)) for _ in range(20)]
                assert sorted(received) == sorted(f"task {number}" for number in range(20))
    finally:
        worker.stop()
        client.close()
    assert "Traceback" not in worker.log
    assert "Traceback" not in server.log
