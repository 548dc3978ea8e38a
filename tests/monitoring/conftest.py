"""Fixtures: two workers, and a program of the same project that asks them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.test import override_settings
from prometheus_client.parser import text_string_to_metric_families

from django_wsmux.groups.pubsub import pubsub
from tests.gauges import wait_until
from tests.support import TIMEOUT, Server


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
