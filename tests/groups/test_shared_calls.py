"""``SharedCalls``: one call for all callers that want the same at the same moment."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from django_wsmux.groups.shared_calls import SharedCalls

TIMEOUT = 60.0


class Question:
    """Returns how often it was called, once the test releases it."""

    def __init__(self) -> None:
        self.asked = 0
        self.begun = threading.Semaphore(0)
        self.released = threading.Semaphore(0)
        self.error: BaseException | None = None

    def __call__(self) -> int:
        """Wait for the test."""
        self.asked += 1
        number = self.asked
        self.begun.release()
        assert self.released.acquire(timeout=TIMEOUT)
        if self.error is not None:
            raise self.error
        return number


def waiting(calls: SharedCalls[str, int], key: str, number: int) -> bool:
    """Return whether this many callers share the next call."""
    with calls._lock:
        call = calls._waiting.get(key)
    # The caller that made it waits for its turn, the others for its end.
    return call is not None and len(call.done._cond._waiters) >= number - 1  # type: ignore[attr-defined]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true."""
    tick = threading.Event()
    for _ in range(int(TIMEOUT / 0.01)):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("timed out")


def test_crowd() -> None:
    """Callers that arrive during a call share the next one, which starts after they came."""
    calls: SharedCalls[str, int] = SharedCalls()
    question = Question()
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(calls.call, "a", question)
        assert question.begun.acquire(timeout=TIMEOUT)
        crowd = [pool.submit(calls.call, "a", question) for _ in range(10)]
        wait_for(lambda: waiting(calls, "a", 10))
        assert question.asked == 1
        question.released.release(2)
        assert first.result(TIMEOUT) == 1
        assert [each.result(TIMEOUT) for each in crowd] == [2] * 10
    assert question.asked == 2
    assert not calls._running
    assert not calls._waiting


def test_keys() -> None:
    """Calls with different keys do not wait for each other."""
    calls: SharedCalls[str, int] = SharedCalls()
    question = Question()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(calls.call, "a", question)
        assert question.begun.acquire(timeout=TIMEOUT)
        assert calls.call("b", lambda: 7) == 7
        question.released.release()
        assert first.result(TIMEOUT) == 1


def test_error() -> None:
    """Each caller gets the exception of the call; the next call starts again."""
    calls: SharedCalls[str, int] = SharedCalls()
    question = Question()
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(calls.call, "a", question)
        assert question.begun.acquire(timeout=TIMEOUT)
        crowd = [pool.submit(calls.call, "a", question) for _ in range(3)]
        wait_for(lambda: waiting(calls, "a", 3))
        question.error = ValueError("no")
        question.released.release(2)
        for each in (first, *crowd):
            with pytest.raises(ValueError, match="no"):
                each.result(TIMEOUT)
    assert calls.call("a", lambda: 1) == 1


def test_interrupted() -> None:
    """If the caller that runs the shared call is interrupted, another one runs it for the rest."""
    calls: SharedCalls[str, int] = SharedCalls()
    question = Question()

    class Interrupted(BaseException):
        pass

    def interrupted() -> int:
        raise Interrupted

    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(calls.call, "a", question)
        assert question.begun.acquire(timeout=TIMEOUT)
        second = pool.submit(calls.call, "a", interrupted)
        wait_for(lambda: waiting(calls, "a", 1))
        crowd: list[Future[int]] = [pool.submit(calls.call, "a", lambda: 3) for _ in range(3)]
        wait_for(lambda: waiting(calls, "a", 4))
        question.released.release()
        assert first.result(TIMEOUT) == 1
        assert isinstance(second.exception(TIMEOUT), Interrupted)
        assert [each.result(TIMEOUT) for each in crowd] == [3] * 3


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork() -> None:
    """A child process does not wait for a call of its parent."""
    calls: SharedCalls[str, int] = SharedCalls()
    question = Question()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(calls.call, "a", question)
        assert question.begun.acquire(timeout=TIMEOUT)
        pid = os.fork()
        if pid == 0:
            signal.alarm(int(TIMEOUT))
            try:
                os._exit(calls.call("a", lambda: 7))
            finally:
                os._exit(1)
        question.released.release()
        assert first.result(TIMEOUT) == 1
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
