"""Backends in gunicorn's workers, with another process, preloaded or not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from django_wsmux.backends.contract import MakePeer, make_peers
from tests.conftest import StartServer, need
from tests.services import RedisServer, wait_until_said
from tests.support import Server


@pytest.fixture(params=["local", "redis"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a backend."""
    directory = tmp_path_factory.mktemp("g")
    if request.param == "local":
        yield f"local://{directory}"
        return
    need("redis-server")
    server = RedisServer(directory)
    yield server.url
    server.stop()


@pytest.fixture
def peer(url: str) -> Iterator[MakePeer]:
    """A process beside gunicorn, such as a management command."""
    with make_peers(f"{url}?namespace=gunicorn", {}, gevent=False) as make:
        yield make


def ask_both(server: Server, path: str, enough: Callable[[dict[int, list[str]]], bool]) -> set[int]:
    """Request a path until the answers of two workers suffice; return their process ids."""
    found: dict[int, list[str]] = {}

    def is_enough() -> bool:
        pid, heard = json.loads(server.get(path))
        found[pid] = heard
        return len(found) == 2 and enough(found)

    wait_until_said(is_enough)
    return set(found)


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_workers(
    peer: MakePeer, url: str, options: tuple[str, ...], start_server: StartServer, tmp_path: Path
) -> None:
    """Workers and the other process receive from each other, also after a worker is killed."""
    server = start_server(
        "gevent",
        "-w2",
        *options,
        application="tests.backends.application",
        env={"TEST_BACKEND": url},
    )
    # They publish something when they are imported.
    ask_both(server, "/", lambda found: True)
    outside = peer("room")
    workers = ask_both(server, "/start", lambda found: True)
    assert {int(answer) for answer in outside.ask("room", b"who?")} == workers
    speaker, _ = json.loads(server.get("/publish/hello"))
    (other,) = workers - {speaker}
    assert outside.received(1) == [("room", b"hello")]
    outside.publish("room", b"last")
    # The messages of two processes may arrive in either order.
    expected = {speaker: ["last"], other: ["hello", "last"]}
    ask_both(server, "/", lambda found: {pid: sorted(found[pid]) for pid in found} == expected)
    os.kill(speaker, signal.SIGKILL)
    server.wait_for_log("Booting worker with pid: \\d+(?s:.*Booting worker.*){2}")
    assert outside.ask("room", b"who?") == [str(other).encode()]
    workers = ask_both(server, "/start", lambda found: True)
    assert speaker not in workers
    assert {int(answer) for answer in outside.ask("room", b"who?")} == workers
