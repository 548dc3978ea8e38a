"""The in-memory loop and transport of the test client."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from greenlet import getcurrent

from django_wsmux.testing.memory import MAX_POLLS, Loop, MemoryTransport, Task, current_loop


@pytest.fixture
def loop() -> Loop:
    """A loop for the test."""
    return Loop()


def wait() -> object:
    """Wait in a task."""
    task = getcurrent()
    assert isinstance(task, Task)
    assert task.parent is not None
    return task.parent.switch()


def test_order(loop: Loop) -> None:
    """Ready callbacks run in order; those that they add run after them."""
    seen: list[int] = []

    def first() -> None:
        loop.call(lambda: seen.append(3))
        seen.append(1)

    loop.call(first)
    loop.call(lambda: seen.append(2))
    assert seen == []
    loop.run()
    assert seen == [1, 2, 3]


def test_task(loop: Loop) -> None:
    """A task switches away when it waits, and continues when it is switched to."""
    seen: list[object] = []
    task = loop.start(lambda: seen.append(wait()))
    loop.run()
    assert seen == []
    loop.switch(task, "news")
    assert seen == ["news"]
    loop.switch(task, "too late")
    assert task.dead


def test_task_that_raises(loop: Loop) -> None:
    """A task's exception is raised by run(), and the rest runs the next time."""
    seen: list[int] = []
    loop.start(lambda: [][0])
    loop.call(lambda: seen.append(1))
    with pytest.raises(IndexError):
        loop.run()
    loop.run()
    assert seen == [1]


def test_run_in_a_task(loop: Loop) -> None:
    """A view may itself be a test: control returns to the code that runs the loop."""
    seen: list[object] = []

    def outer() -> None:
        inner = loop.start(lambda: seen.append(wait()))
        loop.run()
        loop.call(lambda: loop.switch(inner, "inner"))
        loop.run()
        seen.append("outer")

    loop.start(outer)
    loop.run()
    assert seen == ["inner", "outer"]


def test_end(loop: Loop) -> None:
    """A task is ended where it waits, and its finally clauses run."""
    seen: list[str] = []

    def view() -> None:
        try:
            wait()
        finally:
            seen.append("ended")

    task = loop.start(view)
    loop.run()
    loop.end(task)
    loop.end(task)
    loop.run()
    assert seen == ["ended"]
    assert task.dead


def test_time(loop: Loop) -> None:
    """Timers fire in the order of their times as time passes."""
    seen: list[str] = []
    loop.call_later(2, lambda: seen.append("two"))
    loop.call_later(1, lambda: seen.append("one"))
    cancel = loop.call_later(1.5, lambda: seen.append("cancelled"))
    loop.call_later(-1, lambda: seen.append("now"))
    cancel()
    loop.run()
    assert seen == ["now"]
    loop.advance(1, lambda: False)
    assert seen == ["now", "one"]
    loop.advance(0.9, lambda: False)
    assert seen == ["now", "one"]
    loop.advance(0.2, lambda: False)
    assert seen == ["now", "one", "two"]


def test_time_stops(loop: Loop) -> None:
    """Time stops when the awaited event happens."""
    seen: list[str] = []
    loop.call_later(1, lambda: seen.append("one"))
    loop.call_later(2, lambda: seen.append("two"))
    loop.advance(10, lambda: bool(seen))
    assert seen == ["one"]
    loop.call_later(0.5, lambda: seen.append("one and a half"))
    loop.advance(10, lambda: False)
    assert seen == ["one", "one and a half", "two"]


def test_polls(loop: Loop) -> None:
    """Timers that fire while no time passes are limited; with time they are not."""
    fired: list[int] = []

    def poll(seconds: float) -> None:
        fired.append(1)
        loop.call_later(seconds, lambda: poll(seconds))

    poll(0.001)
    loop.advance(2 * MAX_POLLS / 1000, lambda: False)
    assert len(fired) >= 2 * MAX_POLLS - 1
    poll(0)
    with pytest.raises(RuntimeError, match="again and again"):
        loop.run()


class Receiver:
    """Stands for both ends of a transport, and records what it receives."""

    def __init__(self) -> None:
        self.received: list[str] = []

    def data_received(self, data: bytes, size: int = 0) -> None:
        self.received.append(data.decode())

    def eof_received(self) -> None:
        self.received.append("eof")

    def connection_lost(self) -> None:
        self.received.append("lost")


def test_pause(loop: Loop) -> None:
    """Data sent while reading is paused arrives after it resumes, and not before."""
    server: Any = Receiver()
    transport = MemoryTransport(loop, server, server, lambda: None)
    transport.feed(b"before start, ")
    loop.run()
    assert server.received == []
    transport.start()
    transport.feed(b"then ")
    loop.run()
    transport.pause()
    transport.feed(b"paused, ")
    loop.run()
    assert server.received == ["before start, then "]
    transport.feed(b"still paused")
    transport.resume()
    loop.run()
    assert server.received == ["before start, then ", "paused, still paused"]


def test_abort(loop: Loop) -> None:
    """After abort(), nothing passes in either direction, and the end is reported once."""
    server, client = Receiver(), Receiver()
    websocket: Any = server
    peer: Any = client
    transport = MemoryTransport(loop, websocket, peer, lambda: None)
    transport.start()
    transport.write(b"hello")
    transport.feed(b"too late")
    transport.abort()
    transport.write(b"too late")
    transport.close(1, linger=False)
    transport.feed_eof()
    loop.run()
    assert client.received == ["hello", "eof"]
    assert server.received == ["lost"]


def test_one_loop_for_each_thread() -> None:
    """Each thread has a loop of its own."""
    loops = [current_loop(), current_loop()]
    thread = threading.Thread(target=lambda: loops.append(current_loop()))
    thread.start()
    thread.join()
    assert loops[0] is loops[1] is not loops[2]
