"""The test client, and the socket that it opens."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from django.core.signals import got_request_exception
from django.test import Client

from ..exceptions import ConnectionClosed, HandshakeRefused
from ..json_text import dump_json
from ..protocol.frames import CloseCode, close_payload
from ..server.environ import wire_path
from ..server.memory import Loop, current_loop
from .handler import EXCHANGE_KEY, Exchange, WebSocketClientHandler, connections_kept
from .peer import MemoryPeer
from .places import place_of, view_name

if TYPE_CHECKING:
    from types import TracebackType

    from django.test.client import _MonkeyPatchedWSGIResponse as TestResponse

__all__ = ["ClientWebSocket", "WebSocketClient", "close_all"]

# The sockets that tests have opened and not finished with, in that order.
_unfinished: dict[ClientWebSocket, None] = {}


class ClientWebSocket:
    """The client's end of a socket: what ``WebSocketClient.websocket()`` returns.

    Test and view take turns: every call here lets all views go on until each of them waits or has
    ended, and returns then. An exception that a view raises on the way is raised here, as
    ``django.test.Client`` does, unless the client was told ``raise_request_exception=False``;
    the socket is closed with 1011 in either case.

    To be used in ``with``, whose end closes the socket with 1000.

    Attributes:
        response: the 101 with its ``headers`` and ``cookies``, as ``django.test.Client`` returns
            responses: ``wsgi_request``, ``context`` and so on are there.
    """

    def __init__(self, client: WebSocketClient, exchange: Exchange, response: TestResponse) -> None:
        self._client = client
        self._exchange = exchange
        self._loop = exchange.loop
        self._peer = exchange.peer
        self.response = response
        _unfinished[self] = None

    def __repr__(self) -> str:
        closed_with = self._peer.closed_with
        state = "open" if closed_with is None else f"closed with {closed_with[0]}"
        return f"<ClientWebSocket {self._path!r} {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish()

    # Sending

    def send(self, message: str | bytes) -> None:
        """Send one message, and let the view see to it.

        Args:
            message: ``str`` goes as text, ``bytes`` as binary.

        Raises:
            ConnectionClosed: the socket is closed.
            TypeError: the message is neither text nor bytes.
        """
        if not isinstance(message, (str, bytes)):
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
        self._take_turns()
        self._require_open()
        self._peer.send(message)
        self._take_turns()

    def send_json(self, value: Any, **options: Any) -> None:
        """Send a value as JSON text.

        Args:
            value: anything that ``json.dumps`` takes with the encoder of
                ``WEBSOCKET_JSON_ENCODER``.
            options: passed on to ``json.dumps``; ``cls`` is another encoder.

        Raises:
            ConnectionClosed: the socket is closed.
        """
        self.send(dump_json(value, **options))

    # Receiving

    def receive(self, timeout: float = 0) -> str | bytes:
        """Return the next message from the view.

        It is there, or it will not come: when all views wait there is nothing to wait for, so
        that is an error at once.

        Args:
            timeout: seconds that may pass for views that wait with a limit, such as
                ``websocket.receive(timeout=30)``; their ``TimeoutError`` comes without any sleep,
                and clocks show no difference.

        Raises:
            AssertionError: the view has sent nothing; says where it waits.
            ConnectionClosed: the socket is closed and every message has been received.
        """
        self._take_turns(timeout)
        if self._peer.messages:
            return self._peer.messages.popleft()
        self._require_open()
        raise AssertionError(f"nothing received: {self.describe()}")

    def receive_json(self, timeout: float = 0) -> Any:
        """Return the value of the next message, which is JSON; see ``receive()``.

        Raises:
            AssertionError: the message is not JSON, or there is none.
            ConnectionClosed: see ``receive()``.
        """
        message = self.receive(timeout)
        try:
            return json.loads(message)
        except ValueError as error:
            raise AssertionError(f"received {message!r}, which is not JSON: {error}") from error

    def peek(self, timeout: float = 0) -> list[str | bytes]:
        """Return the messages that ``receive()`` would return, one after another, without waiting.

        Args:
            timeout: see ``receive()``; the time to wait for the first.
        """
        self._take_turns(timeout)
        return list(self._peer.messages)

    # Closing

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the socket and let the view see to that; closing twice does nothing.

        Args:
            code: 1000 to 1003, 1007 to 1014, or one of your own from 3000 to 4999; 1005 sends
                none, as ``close()`` without arguments does in a browser.
            reason: at most 123 bytes in UTF-8, for the view to see.

        Raises:
            ValueError: code or reason may not be sent.
        """
        close_payload(code, reason)
        self._take_turns()
        if self._peer.closed_with is None:
            self._peer.send_close(code, reason)
            self._take_turns()

    @property
    def closed(self) -> bool:
        """Whether the socket is closed, by either side."""
        self._take_turns()
        return self._peer.closed_with is not None

    @property
    def close_code(self) -> int | None:
        """Close code of the side that closed first, 1006 when there was none, ``None`` if open."""
        self._take_turns()
        return self._peer.closed_with and self._peer.closed_with[0]

    @property
    def close_reason(self) -> str:
        """The text beside it, or ``""``."""
        self._take_turns()
        return self._peer.closed_with[1] if self._peer.closed_with else ""

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol agreed on, or ``None``."""
        return self._peer.subprotocol

    def finish(self) -> None:
        """Close the socket and end whatever still runs for it: the end of ``with``."""
        _unfinished.pop(self, None)
        try:
            self.close()
        finally:
            with connections_kept():
                self._exchange.end()

    def is_of(self, loop: Loop) -> bool:
        """Say whether the socket belongs to a thread's loop."""
        return self._loop is loop

    # Whose turn it is

    def _take_turns(self, seconds: float = 0) -> None:
        """Let the views go on until there is nothing left to do."""
        with self._client.raising_errors(), connections_kept():
            self._loop.advance(seconds, self._has_news)

    def _has_news(self) -> bool:
        return bool(self._peer.messages) or self._peer.closed_with is not None

    def _require_open(self) -> None:
        if self._peer.closed_with is not None:
            raise ConnectionClosed(*self._peer.closed_with)

    # In words

    @property
    def _path(self) -> str:
        return wire_path(self.response.request)

    def describe(self) -> str:
        """Say in words how the socket is and what its view does: for messages of assertions."""
        closed_with = self._peer.closed_with
        if closed_with is not None:
            return f"{self._path!r} is closed with {closed_with[0]} {closed_with[1]!r}"
        assert self._peer.transport is not None
        view = view_name(self.response.wsgi_request)
        waiter, limit = self._peer.transport.waiter, self._peer.transport.limit
        if waiter is None:
            return f"{self._path!r} is open, and {view} has handled every message"
        most = "" if limit is None else f" for {limit} s at most (see receive(timeout=...))"
        return f"{self._path!r} is open, and {view} waits for a message{place_of(waiter)}{most}"


class WebSocketClient(Client):
    """``django.test.Client``, with sockets.

    Pages and sockets share cookies, so ``login()``, ``force_login()``, ``session`` and
    ``headers=`` do for a socket what they do for a request::

        client = WebSocketClient()
        client.force_login(user)
        with client.websocket("/chat/lobby/") as ws:
            ws.send("hi")
            assert ws.receive() == "hi"

    No thread, no event loop and no sleep: see ``ClientWebSocket``. Takes the arguments of
    ``django.test.Client``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.handler = WebSocketClientHandler(self.handler.enforce_csrf_checks)

    def websocket(
        self,
        path: str,
        subprotocols: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        origin: str | None = None,
        *,
        secure: bool = False,
        **extra: Any,
    ) -> ClientWebSocket:
        """Open a socket.

        Args:
            path: of the URL, with its query string; see ``django_wsmux.urls.websocket_url()``.
            subprotocols: names to offer, in order of preference.
            headers: further headers of the handshake, by their names in HTTP.
            origin: what to claim to be a page of; a page of this site unless told otherwise, and
                with ``""`` no page at all but a program.
            secure: whether the request comes by TLS.
            extra: entries of the WSGI environ, as for ``django.test.Client.get()``.

        Returns:
            The open socket; the view has run until it waits.

        Raises:
            HandshakeRefused: with Django's response in ``response``.
            Exception: whatever the view raised; see ``raise_request_exception`` of
                ``django.test.Client``.
        """
        peer = MemoryPeer(subprotocols)
        exchange = Exchange(peer, has_origin=origin is None)
        if origin:
            extra["HTTP_ORIGIN"] = origin
        extra[EXCHANGE_KEY] = exchange
        all_headers = {**peer.request_headers(), **(headers or {})}
        try:
            response = self.generic("GET", path, secure=secure, headers=all_headers, **extra)
            if not exchange.seam.is_taken:
                raise HandshakeRefused(response)
        except BaseException:
            exchange.end()
            raise
        return ClientWebSocket(self, exchange, response)

    @contextmanager
    def raising_errors(self) -> Iterator[None]:
        """Raise what views have raised meanwhile, unless the client was told not to."""
        errors: list[BaseException | None] = []

        def note(**kwargs: Any) -> None:
            errors.append(sys.exc_info()[1])

        got_request_exception.connect(note)
        try:
            yield
        finally:
            got_request_exception.disconnect(note)
        if errors and errors[0] is not None and self.raise_request_exception:
            raise errors[0]


def close_all() -> None:
    """Finish every socket that a test has left open, the last one first."""
    with ExitStack() as stack:
        for websocket in _unfinished:
            if websocket.is_of(current_loop()):
                stack.callback(websocket.finish)
