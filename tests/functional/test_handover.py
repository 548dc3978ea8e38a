"""Deploys that clients do not notice: open sockets move to the new workers."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection

from ..conftest import StartServer
from ..moved import SETTINGS, ask, code
from ..services import wait_until_said as wait_until
from ..support import TIMEOUT, Server
from . import moves

#: A project's own module of sockets, which a deploy replaces.
CODE = """
from django.urls import path
from django_wsmux.views import WebSocketView

class Counter(WebSocketView):
    def connect(self, request):
        self.count = 0

    def receive_text(self, text):
        self.count += 1
        self.send(f"VERSION {self.count}")

class Other(Counter):
    pass

class Fragile(Counter):
    pass

urlpatterns = [
    path("counter/", Counter.as_view()),
    path("other/", Other.as_view()),
    path("removed/", Counter.as_view()),
    path("fragile/", Fragile.as_view()),
]
"""

CHANGES = {
    "VERSION": "new",
    "class Other": "class Another",
    "Other.as_view()": "Another.as_view()",
    '    path("removed/", Counter.as_view()),\n': "",
    "class Fragile(Counter):\n    pass": """
class Fragile(Counter):
    def restore_handover(self, state):
        raise KeyError(1)
""",
}


#: Old workers close their sockets if new ones are not ready in time, which a busy machine delays.
PATIENCE = "--graceful-timeout=120"


def reload(server: Server, workers: set[int]) -> None:
    """Deploy, and wait until the old workers are gone."""
    server.signal(signal.SIGHUP)
    wait_until(lambda: not workers & set(server.workers))


def pids(sockets: list[ClientConnection]) -> set[int]:
    """Return the processes that serve these sockets."""
    return {ask(websocket, "who")[2] for websocket in sockets}


@pytest.mark.parametrize("worker", ["own", "gevent", "stock"])
def test_reload(start_server: StartServer, worker: str) -> None:
    """Sockets that talk all the time are answered once and in order; nothing is closed."""
    settings = {"TEST_SETTINGS": json.dumps(SETTINGS)}
    server = start_server(worker, "-w2", PATIENCE, env=settings)
    cookie = {"Cookie": server.sign_in("ann")}
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(server.connect(f"/board/b/{number}/", additional_headers=cookie))
            for number in range(20)
        ]
        is_over = threading.Event()
        failures: list[object] = []

        def talk(number: int) -> None:
            try:
                expected: list[str] = []
                while not is_over.is_set():
                    expected.append(f"{len(expected)}")
                    found = ask(sockets[number], expected[-1])
                    assert found == ["b", number, [number], expected]
                    # Each answer has all messages: without a pause, they grow to megabytes.
                    is_over.wait(0.005 * (1 + number))
            except BaseException as error:
                failures.append(error)

        talkers = [threading.Thread(target=talk, args=(number,)) for number in range(10)]
        for talker in talkers:
            talker.start()
        for _ in range(3):
            before = pids(sockets[10:])
            reload(server, before)
            assert not pids(sockets[10:]) & before
        is_over.set()
        for talker in talkers:
            talker.join(TIMEOUT)
        assert not failures
        # All are in the group, once.
        sockets[0].send("say news")
        assert [each.recv(timeout=TIMEOUT) for each in sockets] == ["news"] * 20
        assert ask(sockets[0], "who")[0] == "ann"


def test_new_code(start_server: StartServer, tmp_path: Path) -> None:
    """The new code goes on with the old state; what it cannot continue gets 1012, logged once."""
    module = tmp_path / "deployed_sockets.py"
    module.write_text(CODE.replace("VERSION", "old"))
    settings = {**SETTINGS, "WEBSOCKET_URLCONF": "deployed_sockets"}
    environment = {"TEST_SETTINGS": json.dumps(settings)}
    server = start_server("own", "--pythonpath", str(tmp_path), PATIENCE, env=environment)
    with ExitStack() as stack:

        def connect(path: str) -> ClientConnection:
            websocket = stack.enter_context(server.connect(path))
            assert ask(websocket, "x") == "old 1"
            return websocket

        staying, other = connect("/counter/"), connect("/other/")
        removed = [connect("/removed/") for _ in range(3)]
        fragile = connect("/fragile/")
        (worker,) = server.workers
        changed = CODE
        for old, new in CHANGES.items():
            changed = changed.replace(old, new)
        module.write_text(changed)
        reload(server, {worker})
        assert ask(staying, "x") == "new 2"
        assert [code(each) for each in (*removed, other)] == [1012] * 4
        fragile.send("x")
        assert code(fragile) == 1012
    for reason in ("the URL does not exist any more", "the URL has another view now"):
        assert server.log.count(f"moving to another process: {reason}") == 1
    assert server.log.count("restoring its state raised KeyError") == 1


def test_stop(start_server: StartServer) -> None:
    """Without a successor all sockets are closed with 1012 at once."""
    server = start_server("own", "-w2", env={"TEST_SETTINGS": json.dumps(SETTINGS)})
    with server.connect("/board/s/1/") as one, server.connect("/board/s/2/") as two:
        server.signal(signal.SIGTERM)
        assert [code(one), code(two)] == [1012, 1012]


def test_faults() -> None:
    """Workers are killed and stopped while sockets move; the long form has more rounds."""
    assert moves.main(["--rounds", "2", "--clients", "10", "--faults"]) == 0
