"""Groups beyond one process: workers, plain requests, other programs, every backend."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest
from websockets.sync.client import ClientConnection
from websockets.typing import Subprotocol

from django_wsmux.groups import Group
from tests.backends.endurance import (
    BACKENDS,
    Cluster,
    Crowd,
    Scale,
    endure_faults,
    endure_nothing,
    judge,
    numbers_in,
    serving,
)
from tests.conftest import missing, need
from tests.functional.test_conversation import all_messages, closing, signed_in
from tests.services import find_postgres, wait_until_said
from tests.support import ROOT, TIMEOUT, Server

V1 = [Subprotocol("wsmux.v1")]


@pytest.fixture(scope="module", params=BACKENDS)
def cluster(
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """Three workers on a backend."""
    if request.param == "redis":
        need("redis-server")
    elif request.param == "postgres" and find_postgres() is None:
        missing("PostgreSQL")
    with serving(request.param, tmp_path_factory.mktemp("broker"), environment) as cluster:
        yield cluster


def spread(server: Server, stack: ExitStack, name: str) -> dict[str, list[ClientConnection]]:
    """Open sockets of a room until each of three workers has two of them."""
    by_worker: dict[str, list[ClientConnection]] = {}
    for number in range(200):
        path = f"/events/room/{name}/?seat={number}"
        websocket = stack.enter_context(server.connect(path))
        worker = str(websocket.recv(timeout=TIMEOUT))
        if len(by_worker.setdefault(worker, [])) < 2:
            by_worker[worker].append(websocket)
        else:
            websocket.close()
        if len(by_worker) == 3 and all(len(sockets) == 2 for sockets in by_worker.values()):
            return by_worker
    raise AssertionError(f"not spread: {by_worker}")


def told(websocket: ClientConnection) -> str:
    """Return the next message without the process that sent it."""
    return str(websocket.recv(timeout=TIMEOUT)).partition(" ")[2]


def test_every_worker(cluster: Cluster) -> None:
    """All sockets in every worker get each message once, in order."""
    server = cluster.server
    with ExitStack() as stack:
        workers = spread(server, stack, uuid4().hex)
        everybody = [websocket for sockets in workers.values() for websocket in sockets]
        speaker, *others = everybody
        for number in range(100):
            speaker.send(str(number))
        for websocket in others:
            heard = [websocket.recv(timeout=TIMEOUT) for _ in range(100)]
            assert heard == [str(number) for number in range(100)]
        others[-1].send("to the first")
        assert speaker.recv(timeout=TIMEOUT) == "to the first"


def test_from_a_page_and_a_program(cluster: Cluster) -> None:
    """A plain request and a program of the project reach every socket."""
    server, env = cluster.server, cluster.env
    name = uuid4().hex
    with ExitStack() as stack:
        workers = spread(server, stack, name)
        everybody = [websocket for sockets in workers.values() for websocket in sockets]
        server.get(f"/tell/?group={name}&say=page")
        assert [told(websocket) for websocket in everybody] == ["page"] * 6
        program = (
            "import django; django.setup(); from django_wsmux.groups import Group; "
            f"group = Group({name!r}); group.send('x program'); print(group.count())"
        )
        command = [sys.executable, "-c", program]
        result = subprocess.run(
            command, env={**os.environ, **env}, cwd=ROOT, check=True, capture_output=True, text=True
        )
        assert [told(websocket) for websocket in everybody] == ["program"] * 6
        assert result.stdout == "6\n"


def run(cluster: Cluster, program: str) -> None:
    """Run lines of Python in another process of the project."""
    setup = "import django; django.setup(); from django_wsmux.groups import Group\n"
    env = {**os.environ, **cluster.env}
    subprocess.run([sys.executable, "-c", setup + program], env=env, cwd=ROOT, check=True)


def test_connection(cluster: Cluster) -> None:
    """Another program answers one window, in whichever worker it is, by the id of its client."""
    server = cluster.server
    name = uuid4().hex
    with ExitStack() as stack:
        websockets, ids = [], []
        for number in range(6):
            path = f"/events/room/{name}/?seat={number}"
            websocket = stack.enter_context(server.connect(path, subprotocols=V1))
            welcome = json.loads(websocket.recv(timeout=TIMEOUT))["welcome"]
            assert "text" in json.loads(websocket.recv(timeout=TIMEOUT))  # the worker
            websockets.append(websocket)
            ids.append(welcome["client"].partition("~")[0])
        lines = [f"Group.for_connection({each!r}).send('{each} {each}')" for each in ids]
        run(cluster, "\n".join([*lines, f"Group({name!r}).send('x end')"]))
        for websocket, client_id in zip(websockets, ids, strict=True):
            found = [json.loads(websocket.recv(timeout=TIMEOUT)) for _ in range(2)]
            assert [each["text"].partition(" ")[2] for each in found] == [client_id, "end"]
            assert found[0]["in"] == "@connection"


def test_remove(cluster: Cluster) -> None:
    """A user is removed from one group in every worker, and stays in others; the sockets stay."""
    server = cluster.server
    name, user = uuid4().hex, uuid4().hex
    with ExitStack() as stack:
        headers = stack.enter_context(signed_in(server, user))
        path = f"/events/room/{name}/?seat=0"
        removed = [
            stack.enter_context(server.connect(path, additional_headers=headers)) for _ in range(6)
        ]
        stranger = stack.enter_context(server.connect(path))
        for websocket in [*removed, stranger]:
            websocket.recv(timeout=TIMEOUT)  # the worker
        run(
            cluster,
            "from django.contrib.auth import get_user_model\n"
            f"user = get_user_model().objects.get(username={user!r})\n"
            f"Group({name!r}).remove(user=user)\n"
            f"Group({name!r}).send('x room')\n"
            "Group.for_user(user).send('x user')\n",
        )
        assert [told(websocket) for websocket in removed] == ["user"] * 6
        assert told(stranger) == "room"


def test_on_commit(cluster: Cluster) -> None:
    """A message with on_commit is delivered if and only if the transaction commits."""
    server = cluster.server
    name = uuid4().hex
    with ExitStack() as stack:
        workers = spread(server, stack, name)
        server.get(f"/tell/?group={name}&say=lost&rollback")
        server.get(f"/tell/?group={name}&say=kept&commit")
        for sockets in workers.values():
            assert [told(websocket) for websocket in sockets] == ["kept", "kept"]


def test_members(cluster: Cluster) -> None:
    """Every process is asked; a killed worker is neither counted nor reported as missing."""
    server = cluster.server
    name = uuid4().hex
    with ExitStack() as stack:
        workers = spread(server, stack, name)

        def found() -> dict[str, object]:
            answer: dict[str, object] = json.loads(server.get(f"/tell/?group={name}"))
            return answer

        wait_until_said(lambda: found()["count"] == 6)
        assert all("seat" in info for _, info in found()["members"])  # type: ignore[attr-defined]
        victim = next(iter(workers))
        os.kill(int(victim), signal.SIGKILL)
        wait_until_said(lambda: victim not in map(str, server.workers))
        wait_until_said(lambda: found()["count"] == 4)
        server.get(f"/tell/?group={name}&say=still")
        for worker, sockets in workers.items():
            if worker != victim:
                assert [told(websocket) for websocket in sockets] == ["still", "still"]


def test_user(cluster: Cluster) -> None:
    """A user's group reaches the user's sockets in every worker."""
    server = cluster.server
    name = uuid4().hex
    with ExitStack() as stack:
        headers = stack.enter_context(signed_in(server, name))
        path = "/events/private/"
        websockets = [
            stack.enter_context(server.connect(path, additional_headers=headers)) for _ in range(8)
        ]
        wait_until_said(lambda: json.loads(server.get(f"/tell/?user={quote(name)}"))["count"] == 8)
        server.get(f"/tell/?user={quote(name)}&say=you")
        assert [told(websocket) for websocket in websockets] == ["you"] * 8


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("deactivate", "not active"),
        ("password", "password changed"),
        ("sessions", "session ended"),
        ("disconnect", "disconnected"),
        ("logout", "signed out"),
    ],
)
def test_session_over(cluster: Cluster, how: str, reason: str) -> None:
    """Each way to end a session closes its sockets with 4401 in every worker, and no others."""
    server = cluster.server
    name = uuid4().hex
    with ExitStack() as stack:
        headers = stack.enter_context(signed_in(server, name))
        stranger = stack.enter_context(signed_in(server, uuid4().hex))
        path = "/events/private/"
        websockets = [
            stack.enter_context(server.connect(path, additional_headers=headers)) for _ in range(6)
        ]
        other = stack.enter_context(server.connect(path, additional_headers=stranger))
        wait_until_said(lambda: json.loads(server.get(f"/tell/?user={name}"))["count"] == 6)
        if how == "logout":
            server.request("/logout/", headers)
        else:
            server.get(f"/change-user/{how}/?user={name}")
        assert [closing(websocket) for websocket in websockets] == [(4401, reason)] * 6
        other.send("?")
        assert other.recv(timeout=TIMEOUT)


@pytest.mark.parametrize("how", ["deactivate", "logout"])
def test_session_over_in_handshake(cluster: Cluster, tmp_path: Path, how: str) -> None:
    """A session that ends after the handshake has read it closes the socket, in any process."""
    server = cluster.server
    name = uuid4().hex
    kinds = ["function", "undecorated", "event"]
    if how == "deactivate":
        kinds += ["bearer", "first"]
    with ExitStack() as stack:
        session = stack.enter_context(signed_in(server, name))

        def outcome(kind: str) -> int | None:
            """Open a socket whose session ends during the handshake; return a code."""
            headers = {"Authorization": f"Bearer {name}:{tmp_path}"} if kind == "bearer" else {}
            if kind in ("function", "undecorated", "event", "refused"):
                headers = session
            path = f"/gates/{kind}/?gate={tmp_path}"
            if kind == "refused":
                return server.refused(f"/gates/event/?gate={tmp_path}&refuse", headers).status
            with server.connect(path, additional_headers=headers, open_timeout=60) as websocket:
                if kind == "first":
                    websocket.send(json.dumps([name, str(tmp_path)]))
                # Another process may receive the news after the socket has opened.
                all_messages(websocket)
                return websocket.close_code

        pool = stack.enter_context(ThreadPoolExecutor())
        stack.callback((tmp_path / "go").touch)  # in any case
        outcomes = [pool.submit(outcome, kind) for kind in [*kinds, "refused"]]
        wait_until_said(lambda: {each.name for each in tmp_path.iterdir()} == {*kinds, "refused"})
        if how == "logout":
            server.request("/logout/", session)
        else:
            server.get(f"/change-user/{how}/?user={name}")
        (tmp_path / "go").touch()
        *closed, refused = [each.result() for each in outcomes]
        assert closed == [4401] * len(kinds)
        assert refused == 409
        wait_until_said(lambda: json.loads(server.get(f"/tell/?user={name}"))["count"] == 0)


def test_session_keys_are_not_sent() -> None:
    """A session key is as secret as a password: the name of the group does not contain it."""
    key = "s" * 32
    assert key not in repr(Group.for_session(key))
    assert Group.for_session(key) == Group.for_session(key) != Group.for_session("t" * 32)


def test_overview(cluster: Cluster) -> None:
    """The command for operators finds every socket in every worker, by each criterion."""
    server, env = cluster.server, cluster.env
    name = uuid4().hex
    with ExitStack() as stack:
        workers = spread(server, stack, name)
        command = [sys.executable, "-m", "django", "websockets", "--json", "--group", name]
        result = subprocess.run(
            command, env={**os.environ, **env}, cwd=ROOT, check=True, capture_output=True, text=True
        )
        found = json.loads(result.stdout)
        assert found["groups"][name] == len(found["sockets"]) == 6
        pids = [each["worker"].rpartition(":")[2] for each in found["sockets"]]
        assert sorted(pids) == sorted([*workers] * 2)


@pytest.mark.alone
def test_endurance(cluster: Cluster) -> None:
    """Healthy members get every message in order, but for reported gaps; see endurance.py.

    The test kills a worker and restarts the broker, so it comes last.
    """
    scale = Scale(members=50, messages=200, stalled=10)
    with Crowd(cluster, scale) as crowd:
        assert endure_nothing(crowd).received == 30_000
        hold_that_it_can_fail(crowd)
        result = endure_faults(crowd)
        # Without a broker there is no excuse for a gap.
        assert crowd.broker is not None or result.lacking == result.failed == 0


def hold_that_it_can_fail(crowd: Crowd) -> None:
    """The check finds a message that a member lacks, has twice, or has too early."""
    member = crowd.members[-1]
    whole = bytes(member.stream)
    size = len(whole) // sum(map(len, numbers_in(whole).values()))
    for broken in (
        whole[:-size],
        whole + whole[-size:],
        whole[size:] + whole[:size],
        whole[:-1],
    ):
        member.stream[:] = broken
        with pytest.raises(AssertionError):
            judge(crowd, None)
    member.stream[:] = whole
    judge(crowd, None)
