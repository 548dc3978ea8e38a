"""A TCP proxy whose WebSockets can be cut, delayed, frozen and refused.

Tests in Python call its methods. Programs in Node send the same commands to ``control``, an address
that speaks HTTP: see ``tests/client/proxy.mjs``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from tests.support import TIMEOUT

__all__ = ["Proxy"]

T = TypeVar("T")


class Proxy:
    """A proxy on a port of its own. Commands concern WebSockets; pages pass through unchanged.

    A delay, a freeze and a refusal last until ``resume()``. The attributes count all handshakes
    that have arrived, refused ones included, and the WebSockets that are open.

    Args:
        target: the port of the server at 127.0.0.1.

    Example:
        >>> proxy = Proxy(server.port)
        >>> with server.connect(...), ...:
        ...     proxy.cut()
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.handshakes = 0
        self._sockets: set[asyncio.Task[None]] = set()
        self._seconds = 0.0
        self._is_refusing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers = self._run(self._listen())
        self.port, control = (each.sockets[0].getsockname()[1] for each in self._servers)
        self.control = f"http://127.0.0.1:{control}/"

    @property
    def open(self) -> int:
        """How many WebSockets are open."""
        return len(self._sockets)

    # Commands

    def cut(self) -> None:
        """Reset each WebSocket at both ends, without a close frame."""
        self._run(self._command("cut"))

    def delay(self, seconds: float) -> None:
        """Pass on what arrives in each direction this many seconds later."""
        self._run(self._command("delay", seconds=str(seconds)))

    def freeze(self) -> None:
        """Pass on nothing, on new connections neither. All of it follows after ``resume()``."""
        self._run(self._command("freeze"))

    def refuse(self) -> None:
        """Reset new WebSockets before their handshake reaches the server."""
        self._run(self._command("refuse"))

    def resume(self) -> None:
        """End delay, freeze and refusal."""
        self._run(self._command("resume"))

    def stop(self) -> None:
        """Close all connections, and stop listening."""
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()

    # In the thread of the loop

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(TIMEOUT)

    async def _listen(self) -> list[asyncio.Server]:
        return [
            await asyncio.start_server(each, "127.0.0.1", 0)
            for each in (self._accept, self._control)
        ]

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _command(self, name: str, seconds: str = "0") -> None:
        if name == "cut":
            for task in self._sockets:
                task.cancel()
        elif name == "delay":
            self._seconds = float(seconds)
        elif name == "freeze":
            self._flowing.clear()
        elif name == "refuse":
            self._is_refusing = True
        elif name == "resume":
            self._seconds = 0.0
            self._is_refusing = False
            self._flowing.set()
        else:
            assert name == "state", name

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request for ``/<command>?<arguments>`` with the state of the proxy."""
        head = await reader.readuntil(b"\r\n\r\n")
        url = urlsplit(head.split()[1].decode())
        await self._command(url.path.strip("/"), **dict(parse_qsl(url.query)))
        body = json.dumps({"handshakes": self.handshakes, "open": self.open}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        # Either end may disconnect at any time.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._forward(task, reader, writer)
        _reset(writer)
        self._tasks.discard(task)

    async def _forward(
        self,
        task: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        is_socket = b"\r\nupgrade: websocket\r\n" in head.lower()
        if is_socket:
            self.handshakes += 1
            if self._is_refusing:
                return
            self._sockets.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection("127.0.0.1", self.target)
            if is_socket:
                await self._wait()
            upstream.write(head)
            await asyncio.gather(
                self._pump(reader, upstream, is_socket), self._pump(answers, writer, is_socket)
            )
        finally:
            self._sockets.discard(task)
            if upstream is not None:
                _reset(upstream)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_socket: bool
    ) -> None:
        while data := await reader.read(2**16):
            if is_socket:
                await self._wait()
            writer.write(data)
            await writer.drain()
        if is_socket:
            await self._wait()
        writer.write_eof()

    async def _wait(self) -> None:
        if self._seconds:
            await asyncio.sleep(self._seconds)
        await self._flowing.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a RST, unless it is closed."""
    with contextlib.suppress(OSError):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
