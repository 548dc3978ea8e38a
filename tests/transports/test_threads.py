"""A thread for each socket: none in excess, and all of them end."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

from websockets.sync.client import ClientConnection

from django_wsmux.protocol.options import Options
from django_wsmux.transports.threads import ThreadWebSocket
from tests.conftest import StartServer
from tests.functional.test_conversation import closing
from tests.gauges import settled, wait_until
from tests.groups.peers import Hooks
from tests.management.commands.test_runserver import echo
from tests.support import TIMEOUT, Server


class Lock:
    """A lock that counts how often it is taken."""

    taken = 0

    def __enter__(self) -> None:
        self.taken += 1

    def __exit__(self, *args: object) -> None:
        pass


def test_locked() -> None:
    """What other threads may do to a socket at the same time holds its lock."""
    websocket = ThreadWebSocket({"PATH_INFO": "/"}, Options(), Hooks())
    lock: Any = Lock()
    websocket.lock = lock
    websocket.replay([], lambda message: False)
    websocket.discard_held(lambda message: False)
    websocket.tell("{}")
    websocket.send_bare("{}")
    websocket._continue_replay()
    assert lock.taken == 5


def threads(server: Server) -> list[str]:
    """Return the names of the server's threads, without the one that answers."""
    return [str(name) for name in json.loads(server.get("/threads/"))]


def fifty_members(server: Server, stack: ExitStack) -> list[ClientConnection]:
    """Open 50 sockets whose views have joined the group ``test``."""
    members = []
    for number in range(50):
        members.append(stack.enter_context(server.connect("/group/")))
        members[-1].send("count")
        assert members[-1].recv(timeout=TIMEOUT) == str(number + 1)
    return members


class TestProcess:
    """The process with open sockets, and afterwards."""

    def test_no_gevent(self, start_server: StartServer) -> None:
        """After views of both kinds, a group and a helper, no module of gevent is loaded."""
        server = start_server("runserver")
        for path in ("/echo/", "/events/echo/", "/group/", "/spawn/", "/select/", "/session/"):
            with server.connect(path) as websocket:
                websocket.send("x")
                websocket.recv(timeout=TIMEOUT)
        modules = json.loads(server.get("/modules/"))
        assert "django_wsmux.transports.threads" in modules
        unwanted = {"gevent", "geventwebsocket", "gunicorn"}
        assert [name for name in modules if name.partition(".")[0] in unwanted] == []

    def test_threads_end(self, start_server: StartServer) -> None:
        """50 sockets in a group have a thread each and one for all; all of them end."""
        server = start_server("runserver")
        with server.connect("/group/") as websocket:
            echo(websocket)
        settled(server)
        # The thread of the groups' backend starts with the first group and stays.
        lasting = ["MainThread", "django_wsmux backend"]
        wait_until(lambda: threads(server) == lasting, "no socket's thread")
        with ExitStack() as stack:
            sockets = fifty_members(server, stack)
            wait_until(lambda: len(threads(server)) == len(lasting) + 51, "51 threads")
            for number, each in enumerate(sockets):
                each.send(str(number))
            for each in sockets:
                received = {each.recv(timeout=TIMEOUT) for _ in sockets}
                assert received == {str(number) for number in range(50)}
        settled(server)
        wait_until(lambda: threads(server) == lasting, "all threads ended")

    def test_foreign_threads_close(self, start_server: StartServer) -> None:
        """One view closes the sockets of 50 others while they echo."""
        server = start_server("runserver")
        with ExitStack() as stack:
            sockets = fifty_members(server, stack)
            sockets[0].send("close")
            for each in sockets:
                assert closing(each) == (4000, "all out")
        settled(server)
