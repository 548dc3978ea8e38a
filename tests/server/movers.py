"""Processes with sockets that hand them over to each other, and the peers of the sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..support import ROOT, TIMEOUT, frame

__all__ = ["Client", "Process", "Said", "running"]

PROGRAM = "tests.server.mover_process"


class Said(NamedTuple):
    """An answer of the view."""

    pid: int
    number: int
    text: str


class Client:
    """The peer of a socket.

    Args:
        path: the socket's path; those under ``/stays`` do not move, ``/refused`` is refused.
    """

    def __init__(self, path: str = "/") -> None:
        self.path = path
        self.sock, self.theirs = socket.socketpair()
        self.sock.settimeout(TIMEOUT)
        self._sent = 0
        self._data = b""

    def tell(self) -> None:
        """Send the next message, if anyone is there."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.say()

    def say(self) -> None:
        """Send the next message."""
        self._sent += 1
        self.sock.sendall(frame(0x81, b"%d" % self._sent))

    def hear(self) -> Said | int | None:
        """Return the next answer, the code of a close frame, or ``None`` at the end."""
        head = self._read(2)
        if head is None:
            return None
        payload = self._read(head[1])
        assert payload is not None
        if head[0] == 0x88:
            return int.from_bytes(payload[:2], "big")
        assert head[0] == 0x81
        pid, number, text = payload.decode().split()
        return Said(int(pid), int(number), text)

    def echo(self) -> Said | int | None:
        """Send the next message and return its answer, which must be the right one."""
        self.tell()
        said = self.hear()
        if isinstance(said, Said):
            assert (said.number, said.text) == (self._sent, str(self._sent))
        return said

    def _read(self, size: int) -> bytes | None:
        while len(self._data) < size:
            try:
                data = self.sock.recv(2**16)
            except ConnectionResetError:
                data = b""
            if not data:
                assert not self._data, "a frame is cut off"
                return None
            self._data += data
        data, self._data = self._data[:size], self._data[size:]
        return data


class Process:
    """A process with sockets.

    Args:
        directory: where processes meet.
        generation: its generation.
        clients: the peers of its sockets.
        limits: the most descriptors that it may open, or 0.
    """

    def __init__(
        self, directory: Path, generation: str, clients: Sequence[Client] = (), files: int = 0
    ) -> None:
        control, theirs = socket.socketpair()
        control.settimeout(TIMEOUT)
        self._control = control
        self._lines = control.makefile("rb")
        fds = [theirs.fileno(), *(client.theirs.fileno() for client in clients)]
        paths = [client.path for client in clients]
        arguments = json.dumps([str(directory), generation, fds, paths, files])
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", PROGRAM, arguments], cwd=ROOT, pass_fds=fds
        )
        self.pid = self.process.pid
        theirs.close()
        for client in clients:
            client.theirs.close()
        assert self.hear() == "ready"

    def tell(self, command: str, *arguments: Any) -> None:
        """Send a command."""
        self._control.sendall(json.dumps([command, *arguments]).encode() + b"\n")

    def hear(self) -> Any:
        """Return the next answer."""
        line = self._lines.readline()
        assert line, "the process has ended"
        return json.loads(line)

    def ask(self, command: str, *arguments: Any) -> Any:
        """Send a command and return its answer."""
        self.tell(command, *arguments)
        return self.hear()

    def stop(self) -> None:
        """Stop the process; return when it has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        self.await_stopped()

    def await_stopped(self) -> None:
        """Wait until the process is stopped."""
        assert os.WIFSTOPPED(os.waitpid(self.pid, os.WUNTRACED)[1])

    def go_on(self) -> None:
        """Let a stopped process continue."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait(TIMEOUT)
        self._lines.close()
        self._control.close()


@contextmanager
def running(
    directory: Path, clients: Sequence[Client], takers: int = 1, **limits: Any
) -> Iterator[tuple[Process, list[Process]]]:
    """Run a process that has the sockets of these clients, and others that can take them."""
    processes = [Process(directory, "1", clients)]
    try:
        for _ in range(takers):
            processes.append(Process(directory, "2", **limits))
            assert processes[-1].ask("offer") == "offered"
        yield processes[0], processes[1:]
    finally:
        for process in processes:
            process.kill()
        for client in clients:
            client.sock.close()
