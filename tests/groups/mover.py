"""A process whose sockets move to another one, as the controller of the test demands.

``Mover`` starts and controls it. The process runs ``python -m tests.groups.mover`` with settings as
JSON; each command and each result is one packet of JSON, with the descriptors of sockets.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from typing import Any, Final

__all__ = ["Mover"]

#: Seconds after which an expected event counts as missing.
TIMEOUT: Final = 60.0

#: The most bytes of a packet.
_MOST: Final = 150_000


def send(sock: socket.socket, value: Any, descriptors: list[int]) -> None:
    """Send a value with descriptors."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    sock.sendmsg([json.dumps(value).encode()], [rights] if descriptors else [])


def receive(sock: socket.socket) -> tuple[Any, list[int]]:
    """Return the next value with its descriptors; ``None`` at the end."""
    data, ancillary, _, _ = sock.recvmsg(_MOST, socket.CMSG_SPACE(1_000))
    found = array.array("i")
    for _, _, rights in ancillary:
        found.frombytes(rights)
    return (json.loads(data) if data else None), list(found)


class Mover:
    """The process, from outside.

    Args:
        settings: its Django settings.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _MOST)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _MOST)
        self._socket.settimeout(TIMEOUT)
        command = [sys.executable, "-m", __name__, f"{theirs.fileno()}", json.dumps(settings)]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()

    def begin(self, command: str, *args: Any, descriptors: tuple[int, ...] = ()) -> None:
        """Give a command, with descriptors that the process owns from then on."""
        send(self._socket, [command, *args], list(descriptors))
        for each in descriptors:
            os.close(each)

    def end(self) -> Any:
        """Return the result of the command of ``begin()``; descriptors are added to a list."""
        value, descriptors = receive(self._socket)
        assert value is not None, "the process ended"
        assert "error" not in value, value["error"]
        return [value["value"], *descriptors] if descriptors else value["value"]

    def call(self, command: str, *args: Any, descriptors: tuple[int, ...] = ()) -> Any:
        """Give a command and return its result: see ``_Commands``."""
        self.begin(command, *args, descriptors=descriptors)
        return self.end()

    def stop(self) -> None:
        """End the process."""
        self._socket.close()
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()


class _Commands:
    """The commands; not imported before gevent has patched."""

    def __init__(self) -> None:
        from django_wsmux.connection.interfaces import DefaultHooks
        from django_wsmux.groups import moving
        from django_wsmux.groups import pubsub as pubsub_module
        from django_wsmux.groups.pubsub import pubsub

        class Hooks(DefaultHooks):
            """A framework that knows the groups of a user."""

            groups: tuple[Any, ...] = ()
            age = 0.0

            def leave(self, websocket: Any) -> None:
                """Leave the groups of the user."""
                for key in self.groups:
                    pubsub.discard(key, websocket)

            def __getattr__(self, name: str) -> Any:
                return lambda *args: None

        # The machine may be slow.
        moving._PATIENCE = pubsub_module._PATIENCE = TIMEOUT  # type: ignore[misc]
        self._hooks, self._moving, self._pubsub = Hooks, moving, pubsub
        self._sockets: dict[str, tuple[Any, Any]] = {}
        self._is_publishing = False
        self._publishers: list[Any] = []

    def _make(self) -> Any:
        from django_wsmux.protocol.options import Options
        from django_wsmux.websocket import WebSocket

        options = Options(max_unsent_bytes=2**24, ping_interval=0)
        return WebSocket({"PATH_INFO": "/"}, options, self._hooks())

    def open(self, name: str, groups: list[str], user: str, descriptors: list[int]) -> None:
        """Open a socket, and join groups."""
        import _socket

        from django_wsmux.groups import Group
        from django_wsmux.transports.gevent import transport_for

        stream = _socket.socket(fileno=descriptors[0])
        stream.setblocking(False)
        websocket = self._make()
        transport = transport_for(stream, websocket)
        websocket.opened(transport, b"", b"")
        self._pubsub.watch(name)
        for group in groups:
            Group(group).join(websocket, {"name": name})
        websocket.hooks.groups = (f"@user:{user}",)
        self._pubsub.add_all(websocket.hooks.groups, websocket)
        self._sockets[name] = websocket, transport

    def publish(self, groups: list[str], name: str) -> None:
        """Publish numbers to groups in turn, as fast as possible, until ``finish()``."""
        import gevent

        def run() -> int:
            number = 0
            while self._is_publishing:
                for group in groups:
                    self.send(group, f"{name}:{group}:{number}")
                number += 1
                # Others have their turn; a client must be able to read it all.
                time.sleep(0.001)
            return number

        self._is_publishing = True
        self._publishers.append(gevent.spawn(run))

    def publish_natively(self, groups: list[str], name: str) -> None:
        """The same in a native thread beside the hub."""
        import gevent

        from django_wsmux.groups import Group

        def run() -> int:
            number = 0
            while self._is_publishing:
                for group in groups:
                    Group(group).send(f"{name}:{group}:{number}")
                number += 1
                time.sleep(0.002)
            return number

        self._is_publishing = True
        pool = gevent.get_hub().threadpool
        self._publishers.append(gevent.spawn(pool.spawn(run).get))

    def finish(self) -> list[int]:
        """Stop publishing; return how many numbers each publisher has sent to each group."""
        self._is_publishing = False
        counts = [each.get() for each in self._publishers]
        self._publishers.clear()
        return counts

    def send(self, group: str, text: str) -> None:
        """Send one message. With a key, another attempt sends it only once."""
        from django_wsmux.exceptions import BackendUnavailable
        from django_wsmux.groups import Group

        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                Group(group).send(text, key=text if group.startswith("kept") else None)
                return
            except BackendUnavailable:
                if not group.startswith("kept") or time.monotonic() > deadline:
                    raise

    def close_group(self, group: str, code: int) -> None:
        """Close a group."""
        from django_wsmux.groups import Group

        Group(group).close(code)

    def close_user(self, user: str) -> None:
        """Close the sockets of a user."""
        from django_wsmux.groups import users

        users.disconnect(user)

    def request(self, names: list[str]) -> Any:
        """See ``moving``."""
        return self._moving.request([self._sockets[name][0] for name in names])

    def listen(self, request: Any, patience: float = TIMEOUT) -> Any:
        """See ``moving``; ``patience`` is how long to wait for other processes."""
        vars(self._moving)["_PATIENCE"] = patience
        return self._moving.listen(request)

    def wait_for(self, answer: Any, seconds: float) -> bool:
        """See ``moving``."""
        return self._moving.wait_for(answer, seconds)

    def give(self, names: list[str]) -> Any:
        """Detach sockets; return records, cut, and descriptors."""
        records = []
        descriptors = []
        for name in names:
            websocket, transport = self._sockets.pop(name)
            groups = self._moving.memberships(websocket)
            found = transport.detach()
            unread, unsent = (b64encode(each).decode() for each in (found.unread, found.unsent))
            records.append([name, groups, unread, unsent, found.codec_state])
            descriptors.append(found.fd)
        return [[records, self._moving.cut()], *descriptors]

    def take(self, records: Any, cut: Any, is_complete: bool, descriptors: list[int]) -> None:
        """Adopt sockets."""
        from django_wsmux.connection.interfaces import Detached
        from django_wsmux.transports.gevent import GeventTransport

        built = []
        for (name, groups, unread, unsent, state), fd in zip(records, descriptors, strict=True):
            detached = Detached(fd, b64decode(unread), b64decode(unsent), state)
            websocket = self._make()
            transport = GeventTransport.adopt(detached, websocket)
            websocket.adopted(transport, detached)
            websocket.hooks.groups = self._moving.people(groups)
            self._moving.rejoin(websocket, groups)
            built.append((name, websocket, transport, detached))
        self._moving.replay(cut, is_complete, [each[1] for each in built])
        for name, websocket, transport, detached in built:
            websocket.resume(detached.unread)
            self._sockets[name] = websocket, transport

    def finished(self, request: Any = None) -> None:
        """See ``moving.end()``."""
        self._moving.end(request)

    def members(self, group: str) -> list[Any]:
        """Return the infos of the members here."""
        from django_wsmux.groups.pubsub import members

        return [members.info(group, each) for each in members.of(group)]

    def count(self, name: str) -> int:
        """Return a counter."""
        from django_wsmux.connection.counters import counters

        return {**counters, **self._pubsub.counts()}[name]


def _serve(descriptor: int) -> None:
    sock = socket.socket(fileno=descriptor)
    commands = _Commands()
    while True:
        command, descriptors = receive(sock)
        if command is None:
            return
        name, *args = command
        try:
            value = getattr(commands, name)(*args, *([descriptors] if descriptors else []))
        except Exception as error:
            send(sock, {"error": repr(error)}, [])
            raise
        found: list[int] = []
        if name == "give":
            value, *found = value
        send(sock, {"value": value}, found)
        for each in found:
            os.close(each)


def _main(descriptor: str, settings: str) -> None:
    from gevent import monkey

    monkey.patch_all()
    import django
    from django.conf import settings as django_settings

    django_settings.configure(**json.loads(settings))
    django.setup()
    _serve(int(descriptor))


if __name__ == "__main__":
    _main(*sys.argv[1:])
