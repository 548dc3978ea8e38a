"""The recommended gunicorn worker.

::

    gunicorn -k django_wsmux.worker.WebSocketWorker mysite.wsgi
"""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from operator import attrgetter
from socket import SHUT_RDWR
from typing import Any, Final

import gevent
from gevent import Greenlet
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from greenlet import getcurrent
from gunicorn.sock import ssl_context
from gunicorn.workers.ggevent import GeventWorker

from .connection import link, registry
from .connection.counters import count
from .connection.drain import CLOSE_GRACE, Drain, close_all_and_wait
from .protocol.masking import IS_COMPILED
from .protocol.options import Options
from .server import handover, mover, own_context, patching, processes, rlimit, succession
from .server.giving import Giver, Plan
from .server.offers import Worker, look
from .server.takeover import REQUEST_ATTRIBUTE, TAKEN_ATTRIBUTE

__all__ = ["WebSocketWorker"]

#: Seconds by which the worker exits before the arbiter would kill it.
_MARGIN: Final = 1.0

#: Seconds between checks of what is still running, during shutdown.
_TICK: Final = 0.02

#: Seconds for which a connection may continue with its next request while others wait.
_SLICE: Final = 0.002

#: Files that a worker opens in addition to its connections: databases, brokers, logs.
_FILES: Final = 100

#: Sockets for which files should be available, at least.
_FEW: Final = 1000

#: Seconds that the arbiter has to notice that one worker less is wanted.
_NOTICE: Final = 2.0

#: Seconds for a handover at SIGQUIT, and for one that does not end in time by itself.
_HURRY: Final = 5.0

#: Workers are made in the arbiter, and forked with this.
_generations: Final = succession.Generations()

_REQUEST_TIMEOUT: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


class _Listener:
    """The address of a listener, for connections that are served after it has closed."""

    def __init__(self, listener: Any) -> None:
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        """Return the address."""
        return self._name


class _Serving(Greenlet):  # type: ignore[type-arg]  # not generic when it runs
    """Serves a connection. gevent records where a greenlet is spawned, here always the same."""

    spawning_stack_limit = 1


class _Slots(Pool):
    """gunicorn's ``worker_connections``; logs when all are in use and accepting is paused."""

    greenlet_class = _Serving

    def __init__(self, size: int, log: Any) -> None:
        super().__init__(size)
        self._log = log
        self._said_at = -60.0

    def full(self) -> bool:
        """Return whether all are in use; asked before each connection is accepted."""
        is_full = bool(super().full())
        if is_full:
            count("accepting_paused")
            if time.monotonic() - self._said_at >= 60:
                self._said_at = time.monotonic()
                self._log.warning(
                    "All %d worker_connections are in use, by requests and by HTTP connections "
                    "that are kept alive (an open WebSocket uses one only if its view has no "
                    "decorator): new connections wait until one ends. Look for slow requests, or "
                    "raise --worker-connections.",
                    self.size,
                )
        return is_full


class WebSocketWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's gevent worker, extended by a graceful shutdown of WebSockets.

    Everything about HTTP is gunicorn's: parser, limits, ``max_requests``, access log. When the
    worker is told to shut down (SIGTERM, SIGHUP, ``max_requests``, ``--reload``), it hands its
    sockets over to its successors, if there are any. Then it stops accepting, finishes running
    requests and closes the remaining sockets with 1012 "service restart" within
    ``WEBSOCKET_DRAIN_SECONDS``; their clients reconnect to the next worker. It exits as soon as
    nothing is running any more. SIGINT and SIGQUIT close all sockets at once, unless a successor is
    ready to take them.

    A client that has not sent its first request ``WEBSOCKET_HANDSHAKE_TIMEOUT`` seconds after it
    connected gets 408: gunicorn's own ``keepalive`` would end the connection sooner or later than
    that, or, if it is 0, never.
    """

    #: See ``server/stock.py``: other workers need help with that.
    hands_over = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._generation = _generations.number(self.cfg)

    def load_wsgi(self) -> None:
        """Load the application, in a process that is patched by gevent."""
        if problem := patching.problem():
            raise RuntimeError(problem)
        super().load_wsgi()
        options = self._options()
        self._handshake_timeout = options.handshake_timeout
        room = self._room()
        if self._is_configured():
            self.log.info("WebSockets: %s, room for about %d sockets", self._summary(options), room)
            self._window = self._fitting_window()
            self._look_for_dispatcher()
            self._answer_questions()

    def _look_for_dispatcher(self) -> None:
        """Log an error if the application answers handshakes like plain requests."""
        from django.core.handlers.wsgi import WSGIHandler

        from .server.dispatcher import dispatchers

        if getattr(self.wsgi, "__module__", None) == "gunicorn.util":
            return  # with --reload, instead of a project that cannot be imported now
        # Middleware may wrap one, but Django's own application has none.
        if not dispatchers or type(self.wsgi) is WSGIHandler:
            self.log.error(
                "No WebSocket can open: this application has no WebSocketDispatcher, so "
                "handshakes are answered like plain requests. In wsgi.py, import "
                "get_wsgi_application from django_wsmux.wsgi instead of django.core.wsgi, or wrap "
                "the application: application = WebSocketDispatcher(application)"
            )

    def _answer_questions(self) -> None:
        """Show up in ``manage.py websockets`` from the start, not only after a handshake."""
        from .groups.pubsub import pubsub

        pubsub.serve()

    def _summary(self, options: Options) -> str:
        """Return the main settings in words."""
        from . import conf
        from .groups.namespace import place

        origins = ", ".join(conf.get("WEBSOCKET_ALLOWED_ORIGINS"))
        scheme = conf.get("WEBSOCKET_BACKEND").partition("://")[0]
        where = f" in {place()}" if scheme == "local" else ""
        return (
            f"groups by {scheme}://{where}, "
            f"codec in {'C' if IS_COMPILED else 'Python, since there was no C compiler'}, "
            f"reactor in {link.in_words()}, "
            f"messages of up to {options.max_message_size} bytes, "
            f"compression {'on' if options.compression else 'off'}, "
            f"pings every {options.ping_interval:g} s, "
            f"origins: this site{', ' + origins if origins else ''}"
        )

    def _options(self) -> Options:
        from . import conf

        return conf.options() if self._is_configured() else Options()

    def _is_configured(self) -> bool:
        # gunicorn imports this module before it patches the process. Django must be imported later:
        # gevent looks for locks in every object, and would touch settings not configured yet.
        from django.conf import settings

        # Not configured while gunicorn --reload waits for a broken project to be fixed.
        return bool(settings.configured)

    def _room(self) -> int:
        """Return how many sockets the limit of open files allows, after raising it if possible."""
        before, limit = rlimit.raise_limit()
        if limit > before:
            self.log.info("Limit of open files raised from %d to %d", before, limit)
        slots: int = self.worker_connections * len(self.sockets)
        room = limit - slots - _FILES
        if room < _FEW:
            self.log.warning(
                "This process may open %d files, of which worker_connections may need %d: too few "
                "are left for sockets, and without a free one no connection is accepted. Allow at "
                "least %d (ulimit -n, or systemd's LimitNOFILE=), or lower --worker-connections.",
                limit,
                slots,
                slots + _FILES + _FEW,
            )
        return max(room, 0)

    def _fitting_window(self) -> float:
        """Return ``WEBSOCKET_DRAIN_SECONDS``, or less if it does not fit ``graceful_timeout``."""
        from . import conf

        wanted: float = conf.get("WEBSOCKET_DRAIN_SECONDS")
        grace = self.cfg.graceful_timeout
        fitting: float = min(wanted, max(grace - CLOSE_GRACE - _MARGIN, 0.0))
        if fitting < wanted:
            self.log.warning(
                "WEBSOCKET_DRAIN_SECONDS is %g, but only %g fit into graceful_timeout (%g): raise "
                "--graceful-timeout to %g.",
                wanted,
                fitting,
                grace,
                wanted + CLOSE_GRACE + _MARGIN,
            )
        return fitting

    # Connections that have not sent their first request

    def init_process(self) -> None:
        """Initialize the worker and run it."""
        # Timers by the greenlet that serves the connection.
        self._deadlines: dict[object, Any] = {}
        # Running requests.
        self._answering = 0
        # Time when a connection last let others go first.
        self._gave_way_at = 0.0
        # Set when the worker must shut down; and whether a successor is running or not wanted.
        self._told = Event()
        self._is_relieved = False
        self._window = 0.0
        # Takes sockets of others, until this worker leaves; and how this worker is known to them.
        self._taker: handover.Taker | None = None
        self._me: Worker | None = None
        # SIGQUIT has come, with successors; a successor is ready; the arbiter was told to start one
        # more.
        self._is_hurried = self._is_followed = self._has_grown = False
        processes.set_generation(self._generation)
        super().init_process()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection; gunicorn calls this in a greenlet of its own."""
        if self._handshake_timeout:
            deadline = gevent.get_hub().loop.timer(self._handshake_timeout)
            deadline.start(self._time_out, client)
            self._deadlines[getcurrent()] = deadline
        try:
            super().handle(listener, client, addr)
        finally:
            if getcurrent() in self._deadlines:
                self._met_deadline()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Answer a request that has arrived."""
        self._met_deadline()
        self._answering += 1
        # Leads to the connection even if middleware replaces the environ.
        setattr(getcurrent(), REQUEST_ATTRIBUTE, (req, sock))
        try:
            answer = partial(super().handle_request, listener_name, req, sock, addr)
            if any(name == "UPGRADE" for name, _ in req.headers):
                own_context.run(answer)
            else:
                answer()
        finally:
            self._answering -= 1
        if not getattr(getcurrent(), TAKEN_ATTRIBUTE, False):
            self._give_way()

    def is_already_handled(self, respiter: Any) -> bool:
        """Return False; gunicorn calls this with the body that the application has returned.

        Raises:
            StopIteration: the connection has become a WebSocket. gunicorn (23 to 27,
                ``base_async.py``) then neither sends a response nor reads another request.
        """
        if getattr(getcurrent(), TAKEN_ATTRIBUTE, False):
            # As a server does: middleware around the application may have wrapped the body.
            try:
                for _ in respiter:
                    pass
            finally:
                if hasattr(respiter, "close"):
                    respiter.close()
            raise StopIteration
        return bool(super().is_already_handled(respiter))

    def _give_way(self) -> None:
        """Let other greenlets run from time to time.

        gunicorn continues with a connection as long as its next request arrives in time, while all
        others wait: for 0.3 s and more with twenty such connections. To yield after each request
        would cost a fast page 5 %.
        """
        if time.monotonic() - self._gave_way_at > _SLICE:
            gevent.sleep(0)
            self._gave_way_at = time.monotonic()

    def handle_http2(self, *args: Any, **kwargs: Any) -> None:
        """Serve an HTTP/2 connection, if gunicorn is configured for it."""
        self._met_deadline()
        self._answering += 1
        try:
            super().handle_http2(*args, **kwargs)
        finally:
            self._answering -= 1

    def _met_deadline(self) -> None:
        deadline = self._deadlines.pop(getcurrent(), None)
        if deadline is not None:
            deadline.stop()
            deadline.close()

    def _time_out(self, client: Any) -> None:
        """End a connection from the hub: gunicorn's parser sees the end of the stream."""
        count("handshake_timed_out")
        try:
            if getattr(client, "_sslobj", None) is None:  # plain bytes would break TLS
                client._sock.send(_REQUEST_TIMEOUT)
            client._sock.shutdown(SHUT_RDWR)
        except OSError:
            return  # the client has disconnected

    # Shutdown

    def _set_alive(self, value: bool) -> None:
        self._is_alive = value
        if not value:
            self._told.set()

    alive = property(
        # For each request gunicorn looks at it.
        attrgetter("_is_alive"),
        _set_alive,
        doc="Whether to go on. gunicorn clears it, from several places, to have the worker leave.",
    )

    def handle_exit(self, *args: Any) -> None:
        """Handle SIGTERM: other workers are running already, or none is wanted."""
        self._is_relieved = True
        super().handle_exit(*args)

    def handle_quit(self, *args: Any) -> None:
        """Handle SIGQUIT and SIGINT: end at once, or as soon as successors have the sockets."""
        if self._is_hurried or self._is_relieved or not self._has_successors():
            super().handle_quit(*args)
            return
        self.cfg.worker_int(self)
        self._is_hurried = True
        self.alive = False

    def _has_successors(self) -> bool:
        """Return whether a worker of a newer generation takes sockets."""
        me, taker = self._me, self._taker
        return (
            taker is not None
            and me is not None
            and any(
                found.is_ready and found.worker.succeeds(me) for found in look(taker.directory, me)
            )
        )

    def run(self) -> None:
        """Serve until told to shut down, then shut down gracefully.

        Like gunicorn's own (23.0 to 27.0, ``ggevent.py``), but that checks only once a second
        whether to shut down, and waits for idle connections.
        """
        servers = [self._listen(listener) for listener in self.sockets]
        try:
            self._offer()
            while self.alive:
                self.notify()
                self._told.wait(1.0)
            self._leave(servers)
        except BaseException:
            # SystemExit, on SIGQUIT for example: there is no time for a graceful shutdown.
            close_all_and_wait(CLOSE_GRACE)
            raise
        finally:
            if self._taker is not None:
                self._taker.remove()

    def _offer(self) -> None:
        """Take sockets of workers that leave from now on."""
        current = mover.current()
        if current is not None:
            self._me = succession.this_worker(self.sockets[0], str(self._generation))
            self._taker = handover.offer(current, self._me)

    def _listen(self, listener: Any) -> StreamServer:
        """Begin to accept connections."""
        ssl_args = {"ssl_context": ssl_context(self.cfg)} if self.cfg.is_ssl else {}
        listener.setblocking(True)
        slots = _Slots(self.worker_connections, self.log)
        # gunicorn asks the listener for its name when it serves a connection (27.0, base_async.py).
        # If the listener were closed by then, the connection would get no answer.
        handle = partial(self.handle, _Listener(listener))
        server = StreamServer(listener, handle=handle, spawn=slots, **ssl_args)
        if self.cfg.workers > 1:
            server.max_accept = 1  # leave the other workers their share
        server.start()
        return server

    def _leave(self, servers: list[StreamServer]) -> None:
        """Hand the sockets over, stop accepting, close the rest; return when nothing runs."""
        deadline = time.monotonic() + self.cfg.graceful_timeout - _MARGIN
        self._hand_over(servers, deadline)
        self._stop_accepting(servers)
        if self._is_hurried:
            close_all_and_wait(CLOSE_GRACE)
            return
        self._warn_of_max_requests()
        began = answered_at = now = time.monotonic()
        # A successor starts only after this worker has exited, so a single worker must be quick.
        is_missed = not (self._is_relieved or self._is_followed) and self.cfg.workers == 1
        drain = Drain(0.0 if is_missed else self._window, began)
        while True:
            self.notify()
            is_drained = drain.close_due(now)
            if self._answering:
                answered_at = now
            # A kept-alive connection may send one more request, which is answered too.
            is_quiet = now > answered_at + CLOSE_GRACE or not any(server.pool for server in servers)
            is_closed = now > began + drain.window + CLOSE_GRACE or not registry.open_sockets
            if is_drained and is_quiet and is_closed and not registry.running_views:
                self._await_relief()
                return
            if now > deadline:
                break
            gevent.sleep(_TICK)
            now = time.monotonic()
        self._give_up(servers)

    def _stop_accepting(self, servers: list[StreamServer]) -> None:
        for server in servers:
            server.close()

    # Handing sockets over

    def _is_replaced(self) -> bool:
        """Return whether a newer generation may take the sockets, and no other worker."""
        return self._is_relieved or self._is_hurried

    def _hand_over(self, servers: list[StreamServer], deadline: float) -> None:
        """Give the sockets to others, as far as possible; accept until the first is ready."""
        taker, me = self._taker, self._me
        if taker is None or me is None:
            return
        if not self._is_replaced() and self.nr < self.max_requests:
            return  # --reload: the next worker starts when this one has ended
        until = deadline - self._window - CLOSE_GRACE
        if self._is_hurried:
            until = min(until, time.monotonic() + _HURRY)
        plan = Plan(
            may_take=lambda worker: (
                worker.succeeds(me) or (not self._is_replaced() and worker.is_sibling(me))
            ),
            is_coming=self._is_coming,
            more_coming=lambda: succession.is_booting(taker.directory, me),
            on_ready=partial(self._follow, servers),
            is_answering=lambda: self._answering > 0,
        )
        giver = Giver(taker.mover, me, until, plan)
        giving = gevent.spawn(self._give, giver, taker)
        while not giving.ready():
            self.notify()
            giving.join(1.0)
            if time.monotonic() > until + _HURRY:
                giving.kill()
        if giver.report.given or giver.report.stay:
            self.log.info("Handed over %s", giver.report)

    def _is_coming(self) -> bool:
        """Return whether a worker that may take the sockets will be ready soon."""
        if self._is_hurried:
            return False
        if not self._is_relieved:
            # The arbiter replaces this worker, or has started another.
            return self.cfg.workers > 1 or self._has_grown
        assert self._taker is not None
        assert self._me is not None
        is_newer = _generations.newest() > self._generation
        return is_newer and succession.is_booting(self._taker.directory, self._me)

    def _follow(self, servers: list[StreamServer]) -> None:
        """Leave new connections to a successor that is ready."""
        self._is_followed = True
        self._stop_accepting(servers)

    def _give(self, giver: Giver, taker: handover.Taker) -> None:
        if self._is_replaced():
            taker.stop()
            giver.run()
            return
        taker.is_leaving = True
        is_over = lambda: self._is_replaced() or giver.is_over()  # noqa: E731
        with succession.leaving_alone(taker.directory, is_over):
            taker.stop()
            self._grow()
            giver.run()
        if self._has_grown:
            # It ends the oldest worker, which is this one.
            self._tell_arbiter(signal.SIGTTOU)

    def _grow(self) -> None:
        """Have the arbiter start a successor of a single worker, which it would do too late."""
        assert self._taker is not None
        assert self._me is not None
        others = look(self._taker.directory, self._me)
        if self.cfg.workers == 1 and not any(found.is_ready for found in others):
            self._has_grown = self._tell_arbiter(signal.SIGTTIN)

    def _tell_arbiter(self, number: signal.Signals) -> bool:
        """Send a signal to the arbiter; return whether that is allowed."""
        try:
            if os.getppid() == self.ppid:
                os.kill(self.ppid, number)
                return True
        except PermissionError:
            self.log.info(
                "gunicorn runs as another user than its workers, so a single worker cannot have a "
                "successor started before it ends: run two workers"
            )
        return False

    def _await_relief(self) -> None:
        """Wait until the arbiter knows that this worker ends, or it would replace it."""
        deadline = time.monotonic() + _NOTICE
        while self._has_grown and not self._is_relieved and time.monotonic() < deadline:
            gevent.sleep(_TICK)

    def _warn_of_max_requests(self) -> None:
        sockets = len(registry.open_sockets)
        if self.nr >= self.max_requests and 2 * sockets > self.max_requests:
            self.log.warning(
                "max_requests is reached with %d sockets open. Each of them reconnects with a "
                "handshake, which is a request too: raise --max-requests to many times as many.",
                sockets,
            )

    def _give_up(self, servers: list[StreamServer]) -> None:
        """End requests and views that are still running; views of requests can clean up."""
        self.log.warning(
            "graceful_timeout has expired: ending %d requests and %d views of sockets: %s",
            self._answering,
            len(registry.running_views),
            ", ".join(sorted({repr(each) for each in registry.running_views})[:10]) or "-",
        )
        for server in servers:
            assert server.pool is not None
            server.pool.kill(timeout=_MARGIN / 2)
