"""django-tenants: all that a socket's view does reads the rows of its tenant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest

from tests.conftest import missing
from tests.gauges import wait_until
from tests.services import PostgresServer, find_postgres
from tests.support import ROOT, SERVERS, Server, Wire, frame

pytest.importorskip("django_tenants")

StartServer = Callable[..., Server]


@pytest.fixture(scope="module")
def settings() -> Iterator[str]:
    """The settings of a site with two tenants, on a PostgreSQL of its own."""
    if find_postgres() is None:
        missing("PostgreSQL")
    postgres = PostgresServer()
    database = {
        "ENGINE": "django_tenants.postgresql_backend",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": postgres.port,
    }
    apps = ["django_tenants", "tests.compat.tenancy"]
    settings = json.dumps(
        {
            "DATABASES": {"default": database},
            "DATABASE_ROUTERS": ["django_tenants.routers.TenantSyncRouter"],
            "SHARED_APPS": apps,
            "TENANT_APPS": apps[1:],
            "INSTALLED_APPS": [*apps, "django.contrib.contenttypes", "django_wsmux"],
            "MIDDLEWARE": ["django_tenants.middleware.main.TenantMainMiddleware"],
            "TENANT_MODEL": "tenancy.Client",
            "TENANT_DOMAIN_MODEL": "tenancy.Domain",
            "ROOT_URLCONF": "tests.compat.tenancy.sockets",
            "WEBSOCKET_URLCONF": "tests.compat.tenancy.sockets",
            "WEBSOCKET_CONTEXT": ["tests.compat.tenancy.sockets.tenant"],
        }
    )
    try:
        subprocess.run(
            [sys.executable, "-m", "tests.compat.tenancy.fill"],
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "tests.project.settings",
                "TEST_SETTINGS": settings,
            },
            cwd=ROOT,
            check=True,
        )
        yield settings
    finally:
        postgres.stop()


@pytest.fixture(scope="module", params=SERVERS)
def site(
    request: pytest.FixtureRequest, start_lasting_server: StartServer, settings: str
) -> Server:
    """The site under each server."""
    return start_lasting_server(request.param, env={"TEST_SETTINGS": settings})


def ask(wire: Wire, message: bytes) -> str:
    """Send a message and return the answer."""
    wire.send(frame(0x81, message))
    return said(wire)


def said(wire: Wire) -> str:
    """Return the next message."""
    opcode, payload = wire.frame()
    assert opcode == 1, payload
    return payload.decode()


def test_rows(site: Server) -> None:
    """Pages, function views, connect(), receive(), helpers and disconnect(), side by side."""
    keys = {name: uuid4().hex for name in ("a", "b")}
    with ExitStack() as stack:
        wires = {}
        for name, key in keys.items():
            host = f"{name}.localhost"
            assert site.get("/page/", {"Host": host}) == f"of {name}"
            event = stack.enter_context(site.upgraded(f"/event/?key={key}", host=host))
            assert said(event) == f"of {name}"
            wires[name] = event, stack.enter_context(site.upgraded("/function/", host=host))
        for _ in range(3):
            for name, (event, function) in wires.items():
                assert ask(event, b"x") == f"of {name}"
                assert ask(event, b"spawn") == f"of {name}"
                assert ask(function, b"x") == f"of {name}"
    for name, key in keys.items():
        address, headers = f"/last-words/{key}/", {"Host": "a.localhost"}
        wait_until(lambda: site.get(address, headers), "disconnect()")  # noqa: B023
        assert site.get(address, headers) == f"of {name}"
