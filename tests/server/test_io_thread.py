"""The thread that waits for all sockets: calls, timers, its end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from django_wsmux.server import io_thread
from django_wsmux.server.io_thread import IOThread

TIMEOUT = 10.0


def running() -> list[threading.Thread]:
    """Return those of its kind that run now."""
    return [thread for thread in threading.enumerate() if thread.name == "django_wsmux"]


def end(thread: IOThread) -> None:
    """Leave it as the last one, and wait for its end."""
    (native,) = running()
    thread.call(lambda: io_thread.leave(thread))
    native.join(TIMEOUT)
    assert not running()


@pytest.fixture
def thread() -> Iterator[IOThread]:
    """A running one."""
    thread = io_thread.enter()
    yield thread
    end(thread)


def test_is_there_while_it_is_needed(thread: IOThread) -> None:
    """One serves all, until the last has left."""
    assert io_thread.enter() is thread
    heard: SimpleQueue[bool] = SimpleQueue()
    thread.call(lambda: io_thread.leave(thread))
    thread.call(lambda: heard.put(thread.is_current))
    assert heard.get(timeout=TIMEOUT)
    assert not thread.is_current
    assert len(running()) == 1


def test_ended() -> None:
    """A call that comes too late is no error, and the next to need a thread gets a new one."""
    first = io_thread.enter()
    end(first)
    first.call(lambda: None)
    second = io_thread.enter()
    assert second is not first
    end(second)


def test_timers(thread: IOThread) -> None:
    """They fire in the order of their time, and not at all when they are cancelled."""
    fired: SimpleQueue[str] = SimpleQueue()
    started = time.monotonic()
    thread.later(0.1, lambda: fired.put("second"))
    thread.later(0.05, lambda: fired.put("cancelled")).cancel()
    thread.later(0.05, lambda: fired.put("first"))
    assert [fired.get(timeout=TIMEOUT) for _ in range(2)] == ["first", "second"]
    assert time.monotonic() - started >= 0.1
    assert fired.empty()


def test_one_bug_ends_nothing(thread: IOThread, caplog: pytest.LogCaptureFixture) -> None:
    """What a callback raises is logged, and the next one is called."""
    heard: SimpleQueue[str] = SimpleQueue()
    with caplog.at_level(logging.ERROR, "django_wsmux.connection"):
        thread.call(lambda: [][0])
        thread.call(lambda: heard.put("next"))
        assert heard.get(timeout=TIMEOUT) == "next"
    assert "IndexError" in caplog.text
