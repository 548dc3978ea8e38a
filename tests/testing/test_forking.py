"""Processes that are forks of a template: their ends, signals and environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from django_wsmux.testing.forking import Fork, become_fork, fork_of
from tests.support import TIMEOUT


def start(command: str, **env: str) -> Fork:
    """Return a process that runs this module as a program."""
    return fork_of(__name__, [], {**os.environ, **env}, [command])


def finish(fork: Fork) -> int:
    """Wait for the end of a process; return its exit code."""
    fork.stdin.close()
    code = fork.wait(TIMEOUT)
    fork.stdout.close()
    fork.stderr.close()
    return code


def parent_of(fork: Fork) -> int:
    """Return the process id of the parent that a process has written."""
    return int(fork.stdout.readline())


def test_forks_are_separate() -> None:
    """Forks have one parent, and their own pipes, which end with them."""
    one, two = start("echo"), start("echo")
    assert parent_of(one) == parent_of(two) != os.getpid()
    assert one.poll() is None
    assert finish(one) == 0
    two.stdin.write("hello")
    two.stdin.close()
    assert two.stdout.read() == "hello"
    assert two.stderr.read() == "the end"
    assert finish(two) == 0


def test_exit_code() -> None:
    """The exit code is that of the fork, also after a signal."""
    failing, killed = start("fail"), start("echo")
    assert finish(failing) == 3
    killed.kill()
    assert finish(killed) == -signal.SIGKILL
    killed.kill()  # does nothing


def test_stopped() -> None:
    """A process that is stopped does not end."""
    fork = start("echo")
    parent_of(fork)
    fork.send_signal(signal.SIGSTOP)
    fork.wait_until_stopped()
    with pytest.raises(subprocess.TimeoutExpired):
        fork.wait(0)
    fork.send_signal(signal.SIGCONT)
    assert finish(fork) == 0


def test_environment() -> None:
    """Another environment has another template; one without forks ends."""
    first = start("variable", TEST_FORKING="one")
    parent = parent_of(first)
    assert first.stdout.read() == "one"
    second = start("variable", TEST_FORKING="two")
    assert parent_of(second) != parent
    assert second.stdout.read() == "two"
    assert finish(first) == finish(second) == 0
    third = start("variable", TEST_FORKING="three")
    with pytest.raises(ProcessLookupError):
        os.kill(parent, 0)
    assert finish(third) == 0


def _main(command: str) -> None:
    print(os.getppid(), flush=True)
    if command == "echo":
        sys.stdout.write(sys.stdin.read())
        sys.stderr.write("the end")
    elif command == "variable":
        sys.stdout.write(os.environ["TEST_FORKING"])
    else:
        sys.exit(3)


if __name__ == "__main__":
    _main(*become_fork())
