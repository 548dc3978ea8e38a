"""The test client and the sockets that it opens."""

from __future__ import annotations

import itertools
import json
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode

from django.core.signals import got_request_exception
from django.test import Client

from ..connection.websocket import WebSocket
from ..exceptions import ConnectionClosed, HandshakeRefused, RequestFailed
from ..groups import presence_hooks
from ..groups.clients import sign
from ..groups.json_text import dump_json
from ..protocol import handshake, v1
from ..protocol.environ import wire_path
from ..protocol.frames import CloseCode, close_payload
from .declared import Declared
from .handler import (
    EXCHANGE_KEY,
    Exchange,
    WebSocketClientHandler,
    connections_kept,
)
from .handover import Handover
from .histories import forget_histories, positions_of
from .memory import Loop, MemoryTransport, current_loop
from .memory_client import MemoryPeer
from .places import place_of, view_name
from .present import forget_presence, take_turn

if TYPE_CHECKING:
    from types import TracebackType

    from django.test.client import _MonkeyPatchedWSGIResponse as TestResponse

__all__ = ["ClientWebSocket", "WebSocketClient", "close_all"]

#: Numbers of requests.
_refs: Final = itertools.count(1)

# The sockets that tests have opened and not finished, in that order.
_unfinished: dict[ClientWebSocket, None] = {}


class ClientWebSocket:
    """The client's end of a socket, as ``WebSocketClient.websocket()`` returns it.

    Test and view take turns: every call here runs all views until each of them waits or has ended,
    and then returns. If a view raises an exception meanwhile, it is raised here, as with
    ``django.test.Client``, unless the client has ``raise_request_exception=False``; the socket is
    closed with 1011 in either case.

    If the view has ``sends``, a message that it does not declare, or that does not fit, raises
    ``AssertionError`` here.

    Use it in a ``with`` block, whose end closes the socket with 1000.

    Attributes:
        response: the 101 with its ``headers`` and ``cookies``, as ``django.test.Client`` returns
            responses, with ``wsgi_request``, ``context`` and so on.
    """

    def __init__(
        self,
        client: WebSocketClient,
        exchange: Exchange,
        response: TestResponse,
        reopen: Callable[[str, Sequence[str]], ClientWebSocket],
    ) -> None:
        self._client = client
        # Opens another socket with additional arguments of the query string, and subprotocols.
        self._reopen = reopen
        # The client's state when its connection is lost: positions by name, and the signed id.
        self._positions: dict[str, str] = {}
        self._client_id = ""
        self._use(exchange, response)

    def _use(self, exchange: Exchange, response: TestResponse) -> None:
        self._exchange = exchange
        self._loop = exchange.loop
        self._peer = exchange.peer
        self._declared = Declared(response.wsgi_request, exchange.peer.subprotocol)
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
        """Send one message and let the view handle it.

        Args:
            message: ``str`` is sent as text, ``bytes`` as binary.

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
            value: anything that ``json.dumps`` accepts with the encoder of
                ``WEBSOCKET_JSON_ENCODER``.
            options: passed on to ``json.dumps``; ``cls`` is another encoder.

        Raises:
            ConnectionClosed: the socket is closed.
        """
        self.send(dump_json(value, **options))

    # Receiving

    def receive(self, timeout: float = 0) -> str | bytes:
        """Return the next message from the view.

        The message is either available now or will never arrive: once all views wait, none can
        send anything. So a missing message is an error at once.

        Args:
            timeout: seconds to let pass for views that wait with a limit, such as
                ``websocket.receive(timeout=30)``; their ``TimeoutError`` is raised without a sleep,
                and clocks do not change.

        Raises:
            AssertionError: the view has sent nothing; the message says where it waits.
            ConnectionClosed: the socket is closed and every message has been received.
        """
        self._take_turns(timeout)
        if self._peer.messages:
            return self._peer.messages.popleft()
        self._require_open()
        raise AssertionError(f"nothing received: {self.describe()}")

    def receive_json(self, timeout: float = 0) -> Any:
        """Return the value of the next message, parsed as JSON; see ``receive()``.

        Raises:
            AssertionError: the message is not JSON, or there is none.
            ConnectionClosed: see ``receive()``.
        """
        message = self.receive(timeout)
        try:
            return json.loads(message)
        except ValueError as error:
            raise AssertionError(f"received {message!r}, which is not JSON: {error}") from error

    def request(self, kind: str, /, **fields: Any) -> Any:
        """Send a request and return the reply to it.

        Other messages that arrive meanwhile can be received later.

        Args:
            kind: the ``type`` of the message.
            fields: its other values; ``ref`` is a new one by default.

        Raises:
            RequestFailed: it was answered with errors.
            AssertionError: it was not answered.
            ConnectionClosed: the socket is closed, and the request was not answered.

        Example::

            assert ws.request("say", text="hi") == {"id": 1}
        """
        message = {"type": kind, "ref": f"test-{next(_refs)}", **fields}
        self.send_json(message)
        for unread in list(self._peer.messages):
            answer = _answer_to(message["ref"], unread)
            if answer is not None:
                self._peer.messages.remove(unread)
                if "errors" in answer:
                    raise RequestFailed(kind, answer["errors"])
                return answer["reply"]
        self._require_open()
        raise AssertionError(f"{kind!r} was not answered: {self.describe()}")

    def peek(self, timeout: float = 0) -> list[str | bytes]:
        """Return the messages that ``receive()`` would return now, without removing them.

        Args:
            timeout: see ``receive()``; the time to let pass for the first message.
        """
        self._take_turns(timeout)
        return list(self._peer.messages)

    # Closing

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the socket and let the view handle it; closing twice does nothing.

        Args:
            code: 1000 to 1003, 1007 to 1014, or one of your own from 3000 to 4999; 1005 sends no
                code, as ``close()`` without arguments does in a browser.
            reason: text for the view, at most 123 bytes in UTF-8.

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
        """Close code of the side that closed first; 1006 if there was none, ``None`` if open."""
        self._take_turns()
        return self._peer.closed_with and self._peer.closed_with[0]

    @property
    def close_reason(self) -> str:
        """The reason sent with it, or ``""``."""
        self._take_turns()
        return self._peer.closed_with[1] if self._peer.closed_with else ""

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol, or ``None``."""
        return self._peer.subprotocol

    @property
    def headers(self) -> dict[str, str]:
        """The header with which ``wsmux.fetch()`` tells a page's view the client of this socket.

        Raises:
            ConnectionClosed: the socket is closed.

        Example::

            self.client.post("/room/1/say/", {"text": "hello"}, headers=ws.headers)
            self.assertSilent(ws)  # the view sends with exclude=request.websocket_client
        """
        return {"X-WebSocket-Client": sign(self._open_socket()[1].client_id)}

    # Returning

    def cut(self) -> None:
        """Cut the connection, as in a tunnel: the view gets 1006, without a close frame.

        The client returns with the position of the last message that it has received until now.

        Example::

            with self.client.websocket("/room/1/") as ws:
                ws.cut()
                Group("room.1").send("hello")
                ws.resume()
                self.assertReceives(ws, "hello")
                self.assertRecovered(ws)

        Raises:
            ConnectionClosed: the socket is closed.
        """
        transport, websocket = self._open_socket()
        self._positions = positions_of(websocket)
        self._client_id = sign(websocket.client_id) if self.subprotocol == handshake.V1 else ""
        transport.abort()
        self._take_turns()

    def resume(self) -> None:
        """Open the socket again, as a client that returns with its positions.

        The handshake has the same arguments as the first one. Messages that were not received yet
        are kept.

        Raises:
            RuntimeError: ``cut()`` was not called.
            HandshakeRefused: the handshake was refused.
        """
        if self._peer.closed_with is None or not (self._positions or self._client_id):
            raise RuntimeError(
                "call cut() before resume(); the socket must be in a group with a history "
                "(WEBSOCKET_HISTORY)"
            )
        unread = self._peer.messages
        if self._client_id:
            entry = json.dumps({"c": self._client_id, "g": self._positions}).encode()
            subprotocols = [v1.PREFIX + urlsafe_b64encode(entry).decode().rstrip("=")]
            found = self._reopen("", subprotocols)
        else:
            at = ",".join(f"{name}@{where}" for name, where in self._positions.items())
            found = self._reopen(urlencode({"at": at}), ())
        del _unfinished[found]
        with connections_kept():
            self._exchange.end()
        self._use(found._exchange, found.response)
        self._peer.messages.extendleft(reversed(unread))

    @property
    def recovered(self) -> dict[str, bool | None]:
        """For each group whose position the client sent: whether no message is missing.

        ``None`` stands for a store that cannot be read yet.
        """
        brought = self._exchange.brought
        return {} if brought is None else dict(brought.recovered)

    def _open_socket(self) -> tuple[MemoryTransport, WebSocket]:
        """Return the socket of the server, which must be open, and its transport."""
        self._take_turns()
        self._require_open()
        transport = self._peer.transport
        assert transport is not None
        websocket = transport.websocket
        assert isinstance(websocket, WebSocket)
        return transport, websocket

    # Moving

    def handover(self) -> None:
        """Move the socket, as a deploy does: see ``WebSocketView.handover_state()``.

        The state of the view goes through JSON to a new view. ``connect()`` and ``disconnect()``
        are not called. The request is made again when the view uses it; if middleware refuses it,
        the socket is closed.

        Example::

            with self.client.websocket("/board/") as ws:
                ws.send("first")
                ws.handover()
                ws.send("second")
                self.assertReceives(ws, "first second")

        Raises:
            AssertionError: the socket cannot move. The message gives the reason, such as the
                attribute of the view that is of a type that does not move.
            ConnectionClosed: the socket is closed.
            Exception: what ``restore_handover()`` raised; the socket is closed with 1012.
        """
        transport, websocket = self._open_socket()
        handler = self._client.handler
        assert isinstance(handler, WebSocketClientHandler)
        assert handler.sockets is not None
        handover = Handover(websocket, self._exchange, handler.sockets)
        errors: list[Exception] = []

        def restore() -> None:
            try:
                handover.restore()
            except ConnectionClosed:
                pass  # the middleware has refused the request
            except Exception as error:
                errors.append(error)
                websocket.close(CloseCode.SERVICE_RESTART, "service restart")

        transport.spawn(restore)
        self._take_turns()
        if errors:
            raise errors[0]

    def finish(self) -> None:
        """Close the socket and end its view; the end of a ``with`` block calls it."""
        _unfinished.pop(self, None)
        try:
            self.close()
        finally:
            with connections_kept():
                self._exchange.end()

    def is_of(self, loop: Loop) -> bool:
        """Return whether the socket belongs to a thread's loop."""
        return self._loop is loop

    # Turns

    def _take_turns(self, seconds: float = 0) -> None:
        """Run the views until all of them wait or have ended."""
        with self._client.raising_errors(), connections_kept():
            self._loop.advance(seconds, self._has_news)
            take_turn(self._loop)
        unchecked = [*self._peer.unchecked]
        self._peer.unchecked.clear()  # so that the end of the test raises no more
        for message in unchecked:
            self._declared.check(message)

    def _has_news(self) -> bool:
        return bool(self._peer.messages) or self._peer.closed_with is not None

    def _require_open(self) -> None:
        if self._peer.closed_with is not None:
            raise ConnectionClosed(*self._peer.closed_with)

    # Descriptions

    @property
    def _path(self) -> str:
        return wire_path(self.response.request)

    def describe(self) -> str:
        """Describe the state of the socket and its view, for the messages of assertions."""
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


def _answer_to(ref: str | int, message: str | bytes) -> dict[str, Any] | None:
    """Return a message as an object if it answers a request; else ``None``."""
    try:
        value = json.loads(message) if isinstance(message, str) else None
    except ValueError:
        return None
    if not isinstance(value, dict) or value.get("ref") != ref:
        return None
    return value if value.keys() & {"reply", "errors"} else None


class WebSocketClient(Client):
    """``django.test.Client`` with sockets.

    Pages and sockets share cookies, so ``login()``, ``force_login()``, ``session`` and
    ``headers=`` work for sockets as for requests::

        client = WebSocketClient()
        client.force_login(user)
        with client.websocket("/chat/lobby/") as ws:
            ws.send("hi")
            assert ws.receive() == "hi"

    It uses no thread, no event loop and no sleep: see ``ClientWebSocket``. It takes the arguments
    of ``django.test.Client``.
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
            path: path of the URL, with its query string; see
                ``django_wsmux.urls.websocket_url()``.
            subprotocols: names to offer, in order of preference.
            headers: further headers of the handshake, by their HTTP names.
            origin: value of the ``Origin`` header; by default that of this site's pages. ``""``
                sends none, like a client that is not a browser.
            secure: whether the request comes over TLS.
            extra: entries of the WSGI environ, as for ``django.test.Client.get()``.

        Returns:
            The open socket; the view has run until it waits.

        Raises:
            HandshakeRefused: the handshake was refused; ``response`` is Django's response.
            Exception: the exception of the view; see ``raise_request_exception`` of
                ``django.test.Client``.
        """

        def reopen(query: str, more: Sequence[str]) -> ClientWebSocket:
            again = f"{path}{'&' if '?' in path else '?'}{query}" if query else path
            names = [*subprotocols, *more]
            return self.websocket(again, names, headers, origin, secure=secure, **extra)

        presence_hooks.set_manual(True)
        peer = MemoryPeer(subprotocols)
        exchange = Exchange(peer, has_origin=origin is None)
        environ = {**extra, EXCHANGE_KEY: exchange}
        if origin:
            environ["HTTP_ORIGIN"] = origin
        all_headers = {**peer.request_headers(), **(headers or {})}
        try:
            response = self.generic("GET", path, secure=secure, headers=all_headers, **environ)
            if not exchange.takeover.is_taken:
                raise HandshakeRefused(response)
        except BaseException:
            exchange.end()
            raise
        return ClientWebSocket(self, exchange, response, reopen)

    @contextmanager
    def raising_errors(self) -> Iterator[None]:
        """Raise what views raise meanwhile, unless ``raise_request_exception`` is ``False``."""
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
    """Finish every socket that a test left open, the last one first; forget what was kept."""
    with ExitStack() as stack:
        for websocket in _unfinished:
            if websocket.is_of(current_loop()):
                stack.callback(websocket.finish)
    forget_histories()
    forget_presence()
