"""A worker while its database restarts under ``postgres://``."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path

from django_wsmux.backends import Gap
from django_wsmux.backends.outages import ReconnectBackoff
from tests.conftest import StartServer
from tests.services import PostgresServer, wait_until_said
from tests.support import Server, frame

#: Paused sockets, and restarts of the database.
SOCKETS = 100
RESTARTS = 5

#: Seconds for which the worker is observed.
INTERVAL = 1.0


def seconds_of_cpu(pid: int) -> float:
    """Return the CPU time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def paused(server: Server) -> int:
    """Return how many sockets are paused because their view is behind."""
    return sum(bool(sizes) for sizes in json.loads(server.get("/unread/")))


def test_restarts(postgres: PostgresServer, start_server: StartServer) -> None:
    """After each restart the worker is idle, whatever descriptors its sockets have."""
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": postgres.port,
    }
    settings = {"DATABASES": {"default": database}, "WEBSOCKET_MAX_UNREAD_MESSAGES": 1}
    env = {"TEST_BACKEND": "postgres://", "TEST_SETTINGS": json.dumps(settings)}
    server = start_server("own", env=env)
    with ExitStack() as stack:

        def open_sockets(total: int) -> None:
            number = total - paused(server)
            wires = [stack.enter_context(server.upgraded("/aloof/")) for _ in range(number)]
            for wire in wires:
                wire.send(frame(0x81, b"x"))
            wait_until_said(lambda: paused(server) == total)
            for wire in wires:
                # It stays in the kernel: the descriptor is readable from now on.
                wire.send(frame(0x81, b"x"))

        open_sockets(SOCKETS // 2)
        (worker,) = server.workers
        for restart in range(1, RESTARTS + 1):
            postgres.kill()
            server.wait_for_log(rf"(?s)(not listening.*){{{restart}}}")
            # The next sockets get the descriptors that the database connection has released.
            open_sockets(SOCKETS * (RESTARTS + restart) // (2 * RESTARTS))
            postgres.start()
            server.wait_for_log(rf"(?s)(listening again after.*){{{restart}}}")
            before = seconds_of_cpu(worker)
            time.sleep(INTERVAL)
            assert seconds_of_cpu(worker) - before < INTERVAL / 4
        assert paused(server) == SOCKETS
    assert server.log.count("not listening") == RESTARTS
    assert server.log.count("listening again after") == RESTARTS
    assert "Traceback" not in server.log


def test_outages() -> None:
    """Retries come later and later, at random; the whole outage is one gap."""
    outages = ReconnectBackoff()
    assert outages.end() is None
    assert outages.begin("gone") is True
    assert outages.begin("still gone") is False
    delays = [outages.delay() for _ in range(200)]
    assert delays[0] <= 0.2
    assert 5 < max(delays) <= 10
    gap = outages.end()
    assert isinstance(gap, Gap)
    assert gap.reason == "gone"
    assert outages.end() is None
    outages.suspect()
    assert outages.begin("slow") is True
    gap = outages.end()
    assert gap is not None
    assert gap.reason == "slow"
    outages.suspect()
    gap = outages.end()
    assert gap is not None
    assert gap.reason == "connecting took long"
