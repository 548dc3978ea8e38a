"""The recommended gunicorn worker::

gunicorn -k django_wsmux.worker.WebSocketWorker mysite.wsgi
"""

from __future__ import annotations

import time
from socket import SHUT_RDWR
from typing import Any, Final

import gevent
from greenlet import getcurrent
from gunicorn.workers.ggevent import GeventWorker

from .protocol.frames import CloseCode
from .protocol.options import Options
from .server import patching, registry
from .server.counters import count

__all__ = ["WebSocketWorker"]

#: Seconds that peers have to answer the close frame, and views to end, when the worker leaves.
FAREWELL = 2.0

_REQUEST_TIMEOUT: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


class WebSocketWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's gevent worker, which says good-bye to its WebSockets.

    Everything about HTTP is gunicorn's: parser, limits, ``max_requests``, access log. When the
    worker is told to leave (SIGTERM, SIGHUP, SIGQUIT, ``max_requests``) its sockets are closed
    with 1012 "service restart", upon which clients come back, to the next worker.

    A client that has not sent its first request ``WEBSOCKET_HANDSHAKE_TIMEOUT`` seconds after it
    connected gets 408: gunicorn's own ``keepalive`` ends it sooner or later than that, or, when
    it is 0, never.
    """

    def load_wsgi(self) -> None:
        """Load the application, in a process that is ready for it."""
        if problem := patching.problem():
            raise RuntimeError(problem)
        super().load_wsgi()
        options = self._options()
        self._handshake_timeout = options.handshake_timeout
        if self._is_configured():
            self.log.info("WebSockets: %s", self._summary(options))

    def _summary(self, options: Options) -> str:
        """Say what is on."""
        from . import conf

        origins = ", ".join(conf.get("WEBSOCKET_ALLOWED_ORIGINS"))
        return (
            f"groups by {conf.get('WEBSOCKET_BACKEND').partition('://')[0]}://, "
            f"messages of {options.max_message_size} bytes at most, "
            f"compression {'on' if options.compression else 'off'}, "
            f"pings every {options.ping_interval:g} s, "
            f"origins: this site{', ' + origins if origins else ''}"
        )

    def _options(self) -> Options:
        from . import conf

        return conf.options() if self._is_configured() else Options()

    def _is_configured(self) -> bool:
        # gunicorn imports this module, then patches the process: Django must not be there yet, as
        # gevent looks at every object for locks, at the settings that nobody has configured too.
        from django.conf import settings

        # Nothing is configured when gunicorn --reload waits for a broken project to be mended.
        return bool(settings.configured)

    # Connections whose first request is not there yet

    def init_process(self) -> None:
        """Begin."""
        # By the greenlet that serves the connection.
        self._deadlines: dict[object, Any] = {}
        super().init_process()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection: gunicorn calls it in a greenlet of its own."""
        if self._handshake_timeout:
            deadline = gevent.get_hub().loop.timer(self._handshake_timeout)
            deadline.start(self._time_out, client)
            self._deadlines[getcurrent()] = deadline
        try:
            super().handle(listener, client, addr)
        finally:
            self._met_deadline()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Answer a request that has arrived."""
        self._met_deadline()
        super().handle_request(listener_name, req, sock, addr)

    def handle_http2(self, *args: Any, **kwargs: Any) -> None:
        """Serve a connection that speaks HTTP/2, where gunicorn is told to."""
        self._met_deadline()
        super().handle_http2(*args, **kwargs)

    def _met_deadline(self) -> None:
        deadline = self._deadlines.pop(getcurrent(), None)
        if deadline is not None:
            deadline.stop()
            deadline.close()

    def _time_out(self, client: Any) -> None:
        """End a connection from the hub: gunicorn's parser sees the end of the stream."""
        count("handshake_timed_out")
        try:
            if getattr(client, "_sslobj", None) is None:  # over TLS there are no plain words
                client._sock.send(_REQUEST_TIMEOUT)
            client._sock.shutdown(SHUT_RDWR)
        except OSError:
            return  # it has gone by itself

    # The end

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
