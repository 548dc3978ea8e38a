"""The thread that waits for all sockets: calls, timers, its end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from django_wsmux.transports import io_thread
from django_wsmux.transports.io_thread import IOThread

TIMEOUT = 10.0


def running() -> list[threading.Thread]:
    """Return the I/O threads that are running."""
    return [thread for thread in threading.enumerate() if thread.name == "django_wsmux"]


def end(thread: IOThread) -> None:
    """Release the thread as its last user, and wait for its end."""
    (native,) = running()
    thread.call(lambda: io_thread.leave(thread))
    native.join(TIMEOUT)
    assert not running()


@pytest.fixture
def thread() -> Iterator[IOThread]:
    """A running thread."""
    thread = io_thread.enter()
    yield thread
    end(thread)


def test_shared_until_the_last_release(thread: IOThread) -> None:
    """One thread serves all users, until the last one has released it."""
    assert io_thread.enter() is thread
    heard: SimpleQueue[bool] = SimpleQueue()
    thread.call(lambda: io_thread.leave(thread))
    thread.call(lambda: heard.put(thread.is_current))
    assert heard.get(timeout=TIMEOUT)
    assert not thread.is_current
    assert len(running()) == 1


def test_ended() -> None:
    """A call after the end is no error, and the next user gets a new thread."""
    first = io_thread.enter()
    end(first)
    first.call(lambda: None)
    second = io_thread.enter()
    assert second is not first
    end(second)


def test_timers(thread: IOThread) -> None:
    """Timers fire in the order of their times, unless they are cancelled."""
    fired: SimpleQueue[str] = SimpleQueue()
    started = time.monotonic()
    thread.later(0.1, lambda: fired.put("second"))
    thread.later(0.05, lambda: fired.put("cancelled")).cancel()
    thread.later(0.05, lambda: fired.put("first"))
    assert [fired.get(timeout=TIMEOUT) for _ in range(2)] == ["first", "second"]
    assert time.monotonic() - started >= 0.1
    assert fired.empty()


def test_one_bug_ends_nothing(thread: IOThread, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a callback is logged, and the next callback is called."""
    heard: SimpleQueue[str] = SimpleQueue()
    with caplog.at_level(logging.ERROR, "django_wsmux.connection"):
        thread.call(lambda: [][0])
        thread.call(lambda: heard.put("next"))
        assert heard.get(timeout=TIMEOUT) == "next"
    assert "IndexError" in caplog.text
