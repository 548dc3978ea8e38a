"""django-tenants on PostgreSQL: two schemas with the same primary keys.

All code of a socket reads the rows of its tenant, and no message reaches the other tenant.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest

from tests.conftest import start_postgres
from tests.gauges import wait_until
from tests.support import ROOT, SERVERS, Server, Wire, frame

StartServer = Callable[..., Server]

APPLICATION = "tests.compat.tenants.wsgi"


def run(program: str, environment: dict[str, str]) -> str:
    """Run a program of the project, as a Celery task or a management command would."""
    return python("-c", program, environment=environment)


def python(*arguments: str, environment: dict[str, str]) -> str:
    """Run Python code and return its output."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


class Tenants:
    """The project with its tenants, served.

    Attributes:
        server: a server with two workers.
        environment: environment variables for programs of the project.
    """

    def __init__(self, server: Server, environment: dict[str, str]) -> None:
        self.server = server
        self.environment = environment

    def page(self, tenant: str, path: str, cookie: str = "") -> tuple[str, str]:
        """Request a page of a tenant; return the response and its session cookie."""
        answer = self.server.request(path, {"Host": f"{tenant}.localhost", "Cookie": cookie})
        assert answer.status == 200, answer.text
        return answer.text, (answer.headers["Set-Cookie"] or "").partition(";")[0]

    def sign_in(self, tenant: str, user: int = 7) -> str:
        """Return the session cookie of a tenant's user."""
        return self.page(tenant, f"/sign-in/?user={user}")[1]

    def open(self, stack: ExitStack, tenant: str, cookie: str, kind: str = "event") -> Wire:
        """Open a socket of a tenant's user, in its lobby."""
        wire = stack.enter_context(
            self.server.upgraded(
                f"/lobby/{kind}/", f"Cookie: {cookie}\r\n", host=f"{tenant}.localhost"
            )
        )
        assert heard(wire) == "open"
        return wire


def heard(wire: Wire) -> str:
    """Return the next message."""
    opcode, payload = wire.frame()
    assert opcode == 1, payload
    return payload.decode()


def ask(wire: Wire, message: bytes) -> str:
    """Send a message and return the answer."""
    wire.send(frame(0x81, message))
    return heard(wire)


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """The environment of the project, whose tenants are on their own PostgreSQL."""
    postgres = start_postgres()
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.compat.tenants.settings",
        "TEST_POSTGRES_PORT": str(postgres.port),
    }
    try:
        python("-m", "tests.compat.tenants.fill", environment=environment)
        yield environment
    finally:
        postgres.stop()


@pytest.fixture(scope="module", params=["local", "postgres"])
def tenants(
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    start_lasting_server: StartServer,
) -> Tenants:
    """Two tenants, in two workers."""
    backend = f"local://?namespace={uuid4().hex}" if request.param == "local" else "postgres://"
    env = {**environment, "TEST_BACKEND": backend}
    server = start_lasting_server(
        "own", "-w", "2", application="tests.compat.tenants.wsgi", env=env
    )
    return Tenants(server, env)


@pytest.fixture(scope="module", params=SERVERS)
def site(
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    start_lasting_server: StartServer,
) -> Server:
    """Two tenants under each server."""
    more = {} if request.param == "runserver" else {"application": APPLICATION}
    return start_lasting_server(request.param, env=environment, **more)


def test_rows(site: Server) -> None:
    """Pages, function views, connect(), receive(), helpers and disconnect() work concurrently."""
    keys = {name: uuid4().hex for name in ("acme", "globex")}
    with ExitStack() as stack:
        wires = {}
        for name, key in keys.items():
            host = f"{name}.localhost"
            assert site.get("/rows/", {"Host": host}) == f"of {name}"
            event = stack.enter_context(site.upgraded(f"/rows/event/?key={key}", host=host))
            assert heard(event) == f"of {name}"
            wires[name] = event, stack.enter_context(site.upgraded("/rows/function/", host=host))
        for _ in range(3):
            for name, (event, function) in wires.items():
                assert ask(event, b"x") == f"of {name}"
                assert ask(event, b"spawn") == f"of {name}"
                assert ask(function, b"x") == f"of {name}"
    for name, key in keys.items():
        address, headers = f"/last-words/{key}/", {"Host": "acme.localhost"}
        wait_until(lambda: site.get(address, headers), "disconnect()")  # noqa: B023
        assert site.get(address, headers) == f"of {name}"


def test_groups(tenants: Tenants) -> None:
    """No message of one tenant reaches the other, from any sender to any group."""
    with ExitStack() as stack:
        cookies = {name: tenants.sign_in(name) for name in ("acme", "globex")}
        wires = {
            name: [
                tenants.open(stack, name, cookies[name], kind)
                for kind in ("event", "function")
                for _ in range(4)
            ]
            for name in cookies
        }
        for name in cookies:
            # A page sends, to the room and to the user.
            for to in ("", "user=7&", "commit&", "user=7&commit&"):
                text, _ = tenants.page(name, f"/tell/?{to}say={name}+{to.replace('&', '.')}")
                assert json.loads(text) == {"count": 8}
        for name in cookies:
            # Another process sends, such as Celery's.
            said = run(
                "import django; django.setup()\n"
                "from django_tenants.utils import schema_context\n"
                "from django_wsmux.groups import Group\n"
                "lobby = Group('lobby')\n"
                "lobby.send('of no tenant')\n"
                f"with schema_context({name!r}):\n"
                f"    lobby.send('{name} task'); Group.for_user(7).send('{name} to 7')\n"
                "    Group.for_user(8).send('to no one')\n"
                "    print(lobby.count(), Group.for_user(7).count())\n"
                "print(lobby.count())\n",
                tenants.environment,
            )
            assert said == "8 8\n0\n"
        for name, each in wires.items():
            expected = [f"{name} {to}" for to in ("", "user=7.", "commit.", "user=7.commit.")]
            expected += [f"{name} task", f"{name} to 7"]
            for wire in each:
                assert [heard(wire) for _ in expected] == expected


def test_overview(tenants: Tenants) -> None:
    """The command shows the prefix with the name."""
    with ExitStack() as stack:
        for name in ("acme", "globex"):
            tenants.open(stack, name, tenants.sign_in(name))
        command = "import sys; from django.core.management import execute_from_command_line as run"
        text = run(f"{command}; run(['manage.py', 'websockets'])", tenants.environment)
        assert "acme    lobby  1" in text
        assert "globex  lobby  1" in text
        assert "7 (acme)" in text
        arguments = "['manage.py', 'websockets', '--json', '--group=lobby', '--prefix=globex']"
        found = json.loads(run(f"{command}; run({arguments})", tenants.environment))
        assert [each["prefix"] for each in found["sockets"]] == ["globex"]
        assert found["groups"] == {}
        assert found["groups_by_prefix"] == {"acme": {"lobby": 1}, "globex": {"lobby": 1}}


@pytest.mark.parametrize("how", ["sign-out", "deactivate"])
def test_session_over(tenants: Tenants, how: str) -> None:
    """The end of a session closes the sockets of its tenant's user, and not the other's."""
    user = 7 if how == "sign-out" else 8
    with ExitStack() as stack:
        cookies = {name: tenants.sign_in(name, user) for name in ("acme", "globex")}
        closed = [tenants.open(stack, "acme", cookies["acme"]) for _ in range(4)]
        others = [tenants.open(stack, "globex", cookies["globex"]) for _ in range(4)]
        tenants.page("acme", f"/{how}/?user={user}", cookies["acme"])
        reason = "signed out" if how == "sign-out" else "not active"
        for wire in closed:
            opcode, payload = wire.frame()
            assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 4401)
            assert payload[2:].decode() == reason
        tenants.page("globex", "/tell/?say=still")
        assert [heard(wire) for wire in others] == ["still"] * 4
