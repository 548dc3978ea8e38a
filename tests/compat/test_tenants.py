"""django-tenants on PostgreSQL: two schemas with the same primary keys, and groups apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import missing
from tests.services import PostgresServer, find_postgres
from tests.support import ROOT, Server, Wire

pytest.importorskip("django_tenants")

#: A tenant with a user 7 whose primary key each of them has.
SETUP = """
import django; django.setup()
from django.core.management import call_command
from django_tenants.utils import schema_context
from tests.compat.tenants.models import Client, Domain
call_command("migrate_schemas", shared=True, run_syncdb=True, interactive=False, verbosity=0)
for name in ("public", "acme", "globex"):
    client = Client(schema_name=name, name=name)
    client.save(verbosity=0)
    Domain.objects.create(domain=f"{name}.localhost", tenant=client, is_primary=True)
    if name != "public":
        with schema_context(name):
            from django.contrib.auth.models import User
            User.objects.create_user("ann", pk=7, password="x")
            User.objects.create_user("bob", pk=8, password="x")
"""


def run(program: str, environment: dict[str, str]) -> str:
    """Run a program of the project, as a task of Celery or a management command would."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


class Tenants:
    """The project with its tenants, served.

    Attributes:
        server: two workers.
        environment: of programs of the project.
    """

    def __init__(self, server: Server, environment: dict[str, str]) -> None:
        self.server = server
        self.environment = environment

    def page(self, tenant: str, path: str, cookie: str = "") -> tuple[str, str]:
        """Ask for a page of a tenant; return it, and the cookie of its session."""
        answer = self.server.request(path, {"Host": f"{tenant}.localhost", "Cookie": cookie})
        assert answer.status == 200, answer.text
        return answer.text, (answer.headers["Set-Cookie"] or "").partition(";")[0]

    def sign_in(self, tenant: str, user: int = 7) -> str:
        """Return the cookie of a session of a tenant's user."""
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
    return wire.frame()[1].decode()


@pytest.fixture(scope="module", params=["local", "postgres"])
def tenants(request: pytest.FixtureRequest) -> Iterator[Tenants]:
    """Two tenants, in two workers."""
    if find_postgres() is None:
        missing("PostgreSQL")
    with ExitStack() as stack:
        postgres = PostgresServer()
        stack.callback(postgres.stop)
        backend = f"local://?namespace=tenants{os.getpid()}{postgres.port}"
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.compat.tenants.settings",
            "TEST_POSTGRES_PORT": str(postgres.port),
            "TEST_BACKEND": "postgres://" if request.param == "postgres" else backend,
        }
        run(SETUP, environment)
        server = Server.gunicorn(
            "own", "-w", "2", application="tests.compat.tenants.wsgi", env=environment
        )
        stack.callback(server.stop)
        yield Tenants(server, environment)


def test_groups(tenants: Tenants) -> None:
    """No message of one tenant reaches the other, whoever sends it to whomever."""
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
            # A page, for the room and for the user.
            for to in ("", "user=7&", "commit&", "user=7&commit&"):
                text, _ = tenants.page(name, f"/tell/?{to}say={name}+{to.replace('&', '.')}")
                assert json.loads(text) == {"count": 8}
        for name in cookies:
            # Another process, as of Celery.
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
    """The command shows the prefix beside the name."""
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
    """A session that ends closes the sockets of its tenant's user, and not the other's."""
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
