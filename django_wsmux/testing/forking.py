"""Processes that are forks of one that has imported what they need: a template.

The tests of a backend start hundreds of processes, and importing takes most of the time of each.
"""

from __future__ import annotations

import _socket
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO, Any, Final

__all__ = ["Fork", "become_fork", "fork_of"]

#: Seconds between two looks at a process whose end is awaited.
_PAUSE: Final = 0.005

#: Bytes of the longest request.
_LONGEST: Final = 65_536

# Not what gevent puts in their place in the template: it needs a hub, which runs in no template.
_fork, _waitpid, _close = os.fork, os.waitpid, os.close


class Fork:
    """A process, with what the tests need of ``subprocess.Popen``.

    Args:
        template: its parent.
        pid: its process id.
        stdin: writes to it.
        stdout: reads what it prints.
        stderr: reads what it logs.
    """

    def __init__(
        self, template: _Template, pid: int, stdin: IO[str], stdout: IO[str], stderr: IO[str]
    ) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self._template = template
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code; ``None`` while the process runs."""
        self._has_stopped()
        return self._code

    def wait(self, timeout: float) -> int:
        """Wait for the end of the process; return its exit code."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(_PAUSE)
        return code

    def wait_until_stopped(self) -> None:
        """Wait until SIGSTOP has stopped all threads."""
        while not self._has_stopped():
            time.sleep(_PAUSE)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _has_stopped(self) -> bool:
        """Note whether the process has ended; return whether it has stopped since the last call."""
        if self._code is not None:
            return False
        pid, status = self._template.ask(self.pid)
        if pid and os.WIFSTOPPED(status):
            return True
        if pid:
            self._code = os.waitstatus_to_exitcode(status)
            self._template.forks -= 1
        return False


class _Template:
    """The other process.

    Args:
        command: its command; the program calls ``become_fork()``.
        env: all of its environment.

    Attributes:
        forks: how many of its forks have not ended.
    """

    def __init__(self, command: list[str], env: Mapping[str, str]) -> None:
        self.forks = 0
        self._lock = threading.Lock()
        self._socket, other = socket.socketpair()
        with other:
            self._process = subprocess.Popen(command, stdin=other.fileno(), env=env)  # noqa: S603

    def ask(self, request: Any, descriptors: list[int] | None = None) -> Any:
        """Send a request to the process; return its answer."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors or [])
            answer = self._socket.recv(_LONGEST)
        if not answer:
            raise AssertionError(f"the template ended with {self._process.wait()}")
        return json.loads(answer)

    def fork(self, arguments: list[str]) -> Fork:
        """Make a fork."""
        (stdin, writer), (reader, stdout), (errors, stderr) = (os.pipe() for _ in range(3))
        pid = self.ask(arguments, [stdin, stdout, stderr])
        for each in (stdin, stdout, stderr):
            os.close(each)
        self.forks += 1
        return Fork(self, pid, os.fdopen(writer, "w"), os.fdopen(reader), os.fdopen(errors))

    def end(self) -> None:
        """End the process, which has no forks any more."""
        self._socket.close()
        self._process.wait()


_templates: Final[dict[tuple[object, ...], _Template]] = {}


def fork_of(module: str, kind: list[str], env: Mapping[str, str], arguments: list[str]) -> Fork:
    """Return a process that runs a module with an environment.

    Args:
        module: name of the module, which calls ``become_fork()``.
        kind: arguments of the template.
        env: all environment variables.
        arguments: what ``become_fork()`` returns in the fork.
    """
    # The name of the test; a template outlives it.
    env = {name: value for name, value in env.items() if name != "PYTEST_CURRENT_TEST"}
    place = tuple(sorted(env.items()))
    key = (module, *kind, place)
    if key not in _templates:
        _end_idle(but=place)
        _templates[key] = _Template([sys.executable, "-m", module, *kind], env)
    return _templates[key].fork(arguments)


def _end_idle(but: object = None) -> None:
    """End templates without forks, except those with an environment."""
    for key, template in list(_templates.items()):
        if not template.forks and key[-1] != but:
            template.end()
            del _templates[key]


atexit.register(_end_idle)


def become_fork() -> list[str]:
    """Wait for requests at standard input; return only in forks, with the arguments of each.

    The template itself ends when its parent closes the connection.
    """
    # The C class, as gevent's would need the hub.
    connection = _socket.socket(fileno=os.dup(0))
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, _LONGEST, 3)  # type: ignore[arg-type]
        if not request:
            sys.exit()
        if descriptors:
            answer: Any = _fork()
            if answer == 0:
                for number, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, number)
                    _close(descriptor)
                connection.close()
                return list(json.loads(request))
            for descriptor in descriptors:
                _close(descriptor)
        else:
            answer = _waitpid(json.loads(request), os.WNOHANG | os.WUNTRACED)
        with contextlib.suppress(BrokenPipeError):  # the parent has ended
            connection.sendall(json.dumps(answer).encode())
