"""The client's end of a socket in memory: turns messages into bytes and back.

The protocol is that of the ``websockets`` client, so another implementation checks what the server
does in the handshake, masking, compression and the closing handshake. It does not use Django.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from ..protocol.frames import CloseCode
from .memory import MemoryTransport

__all__ = ["MemoryPeer"]


class MemoryPeer:
    """A client that behaves like a browser: it offers compression and answers pings and closes.

    Args:
        subprotocols: subprotocols to offer, in order of preference.

    Attributes:
        messages: messages that have arrived and were not received yet.
        unchecked: messages that have arrived and were not compared with the view's declarations.
        transport: carries the bytes; ``None`` until the handshake is accepted.
    """

    def __init__(self, subprotocols: Sequence[str] = ()) -> None:
        self._protocol = ClientProtocol(
            parse_uri("ws://testserver/"),
            extensions=[ClientPerMessageDeflateFactory(client_max_window_bits=True)],
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            max_size=None,
        )
        self.messages: deque[str | bytes] = deque()
        self.unchecked: list[str | bytes] = []
        self.transport: MemoryTransport | None = None
        self._response: Response | None = None
        self._parts: list[Frame] = []

    # The handshake

    def request_headers(self) -> dict[str, str]:
        """Return the headers of the handshake, except ``Host``."""
        request = self._protocol.connect()
        self._protocol.send_request(request)
        self._protocol.data_to_send()  # discards the same request as bytes
        headers = dict(request.headers.raw_items())
        del headers["Host"]
        return headers

    def response_headers(self) -> Headers:
        """Return the headers of the 101.

        Raises:
            websockets.exceptions.InvalidHandshake: the 101 is invalid.
        """
        if self._protocol.handshake_exc is not None:
            raise self._protocol.handshake_exc
        assert self._response is not None
        return self._response.headers

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol."""
        return self._protocol.subprotocol

    # testing.memory.Peer

    def connected(self, transport: MemoryTransport) -> None:
        """Take the transport of the accepted handshake."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take bytes from the server; answer pings and closes."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._response = event
            elif isinstance(event, Frame):
                self._frame_received(event)
        self._flush()

    def _frame_received(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        self._parts.append(frame)
        if frame.fin:
            parts, self._parts = self._parts, []
            payload = b"".join(bytes(part.data) for part in parts)
            is_text = parts[0].opcode is Opcode.TEXT
            message = payload.decode() if is_text else payload
            self.messages.append(message)
            self.unchecked.append(message)

    def eof_received(self) -> None:
        """Note that the server has closed the connection."""
        self._protocol.receive_eof()
        self._flush()

    def _flush(self) -> None:
        assert self.transport is not None
        for data in self._protocol.data_to_send():
            if data:
                self.transport.feed(data)
            else:
                self.transport.feed_eof()

    # Called by tests

    def send(self, message: str | bytes) -> None:
        """Send one message."""
        if isinstance(message, str):
            self._protocol.send_text(message.encode())
        else:
            self._protocol.send_binary(message)
        self._flush()

    def send_close(self, code: int, reason: str) -> None:
        """Start the closing handshake; 1005 sends no code (section 7.1.5)."""
        self._protocol.send_close(None if code == CloseCode.NO_STATUS else code, reason)
        self._flush()

    @property
    def closed_with(self) -> tuple[int, str] | None:
        """Code and reason of the side that closed first; ``None`` while the socket is open."""
        protocol = self._protocol
        if protocol.state is OPEN:
            return None
        first = protocol.close_rcvd if protocol.close_rcvd_then_sent else protocol.close_sent
        if first is None or protocol.close_rcvd is None:
            return CloseCode.ABNORMAL, ""
        return first.code, first.reason
