"""The recommended gunicorn worker::

gunicorn -k django_wsmux.worker.WebSocketWorker mysite.wsgi
"""

from __future__ import annotations

import time

import gevent
from gunicorn.workers.ggevent import GeventWorker

from .protocol.frames import CloseCode
from .server import patching, registry

__all__ = ["WebSocketWorker"]

#: Seconds that peers have to answer the close frame, and views to end, when the worker leaves.
FAREWELL = 2.0


class WebSocketWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's gevent worker, which says good-bye to its WebSockets.

    Everything about HTTP is gunicorn's: parser, limits, ``max_requests``, access log. When the
    worker is told to leave (SIGTERM, SIGHUP, SIGQUIT, ``max_requests``) its sockets are closed
    with 1012 "service restart", upon which clients come back, to the next worker.
    """

    def load_wsgi(self) -> None:
        """Load the application, in a process that is ready for it."""
        if problem := patching.problem():
            raise RuntimeError(problem)
        super().load_wsgi()

    def notify(self) -> None:
        """Tell the arbiter that all is well, and the sockets when it is over.

        gunicorn calls it every second, also while it waits for plain requests to end
        (27.0, ``ggevent.py``): their length must not delay the good-bye.
        """
        super().notify()
        if not self.alive:
            self._close_sockets()

    def run(self) -> None:
        """Serve until told to leave; then close what is still open."""
        try:
            super().run()
        finally:
            self._close_sockets()
            deadline = time.monotonic() + FAREWELL
            while registry.open_sockets | registry.conversations and time.monotonic() < deadline:
                gevent.sleep(0.02)

    def _close_sockets(self) -> None:
        registry.close_all(CloseCode.SERVICE_RESTART, "service restart")
