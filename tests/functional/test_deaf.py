"""Sessions that end during a handshake, in a process that cannot receive the news."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import need, start_postgres
from tests.functional.test_conversation import all_messages, signed_in
from tests.services import (
    PostgresServer,
    Proxy,
    RedisServer,
    proxy_to,
    wait_until_said,
)
from tests.support import Server

StartServer = Callable[..., Server]

#: Kinds of views; see ``tests/project/gates.py``.
KINDS = ("function", "undecorated", "event")


class Pair:
    """Two processes of one project.

    Attributes:
        near: a process that reaches the broker only through the proxy.
        far: the other process.
        proxy: the proxy between ``near`` and the broker.
    """

    def __init__(self, near: Server, far: Server, proxy: Proxy) -> None:
        self.near, self.far, self.proxy = near, far, proxy
        self._outages = 0

    def handshakes(self, directory: Path) -> list[tuple[int | None, str]]:
        """Open sockets whose session ends in the other process meanwhile; return how they close.

        The proxy is opened when the session has ended.
        """
        directory.mkdir()
        with ExitStack() as stack:
            session = stack.enter_context(signed_in(self.far, uuid4().hex))

            def outcome(kind: str) -> tuple[int | None, str]:
                path = f"/gates/{kind}/?gate={directory}"
                with self.near.connect(path, additional_headers=session) as websocket:
                    all_messages(websocket)
                    return websocket.close_code, websocket.close_reason or ""

            pool = stack.enter_context(ThreadPoolExecutor())
            stack.callback((directory / "go").touch)  # in any case
            outcomes: list[Future[tuple[int | None, str]]] = [
                pool.submit(outcome, kind) for kind in KINDS
            ]
            wait_until_said(lambda: {each.name for each in directory.iterdir()} == set(KINDS))
            self.far.request("/logout/", session)
            self.proxy.heal()
            self._outages += 1
            self.near.wait_for_log("(?s)" + r"listening again.*?" * self._outages)
            (directory / "go").touch()
            return [each.result() for each in outcomes]


@pytest.fixture(params=["redis", "postgres"])
def pair(
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    start_server: StartServer,
    tmp_path: Path,
) -> Iterator[Pair]:
    """Two processes; one has answered no handshake yet and cannot reach the broker."""
    with ExitStack() as stack:
        broker: RedisServer | PostgresServer
        if request.param == "redis":
            need("redis-server")
            broker = RedisServer(tmp_path)
        else:
            broker = start_postgres()
        stack.callback(broker.stop)
        proxy = stack.enter_context(proxy_to(broker.port))
        proxy.black_hole()

        def start(port: int) -> Server:
            default = {"ENGINE": "django.db.backends.sqlite3", "NAME": environment["TEST_DATABASE"]}
            databases = {
                "default": default,
                "broker": {
                    "ENGINE": "django.db.backends.postgresql",
                    "NAME": "postgres",
                    "USER": "postgres",
                    "HOST": "127.0.0.1",
                    "PORT": port,
                },
            }
            is_redis = request.param == "redis"
            env = {
                "TEST_SETTINGS": json.dumps({"DATABASES": databases}),
                "TEST_BACKEND": f"redis://127.0.0.1:{port}"
                if is_redis
                else "postgres://?using=broker",
                "TEST_HANDSHAKE_TIMEOUT": "60",
            }
            return start_server("own", env=env)

        yield Pair(start(proxy.port), start(broker.port), proxy)


def test_deaf(pair: Pair, tmp_path: Path) -> None:
    """The sockets are closed when the process learns that it may have missed something.

    This holds for the first handshakes of a process, which has no connection to the broker yet,
    and later, when it has lost the connection.
    """
    expected = [(1013, "the session may have ended")] * len(KINDS)
    assert pair.handshakes(tmp_path / "first") == expected
    pair.proxy.black_hole()
    pair.proxy.cut()
    pair.near.wait_for_log("not listening")
    assert pair.handshakes(tmp_path / "later") == expected
