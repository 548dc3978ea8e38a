"""Handing over in gunicorn's own workers; test_succession.py shows it with each worker."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.conftest import StartServer
from tests.support import ROOT, TIMEOUT

#: A process that is no worker of gunicorn.
ELSEWHERE = """
import sys
from django_wsmux.server import stock
from django_wsmux.server.dispatcher import Dispatcher

Dispatcher(print, print)
stock.install()
sys.exit("gevent" in sys.modules)
"""

#: At SIGQUIT gunicorn's greenlet exits 0.1 s after it has told the worker to end. Here it waits
#: until the worker, which looks once a second, has ended by itself; and the functions that run when
#: a process ends wait for the greenlet.
LATE_EXIT = """
def worker_int(worker):
    import gevent
    from gevent.event import Event

    from django_wsmux.connection import registry

    quitting, has_ended = gevent.getcurrent(), Event()

    def depart():
        has_ended.set()
        quitting.join()

    registry.departures.insert(0, depart)
    has_ended.wait()
"""


def test_other_servers() -> None:
    """In any other process nothing happens, and gevent is not imported."""
    subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("worker", ["gevent", "stock"])
def test_late_exit(start_server: StartServer, tmp_path: Path, worker: str) -> None:
    """A worker that ends in the moment between SIGQUIT and gunicorn's exit closes its sockets."""
    configuration = tmp_path / "gunicorn.conf.py"
    configuration.write_text(LATE_EXIT)
    server = start_server(worker, "-c", str(configuration), "--graceful-timeout=300")
    with server.connect("/echo/") as websocket:
        server.signal(signal.SIGQUIT)
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=TIMEOUT)
        assert (websocket.close_code, websocket.close_reason) == (1012, "service restart")
    assert server.wait() == 0
    assert "Traceback" not in server.log
