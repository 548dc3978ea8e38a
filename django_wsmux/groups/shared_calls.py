"""One call shared by all callers that need the same result at the same moment."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, TypeVar

__all__ = ["SharedCalls"]

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class _Call(Generic[Result]):
    """A call that is waiting or running.

    Attributes:
        turn: set when the call may begin.
        done: set when the call has ended.
        outcome: the result in a list; ``None`` until there is one.
        error: the exception that the call raised.
    """

    __slots__ = ("done", "error", "outcome", "turn")

    def __init__(self) -> None:
        self.turn = threading.Event()
        self.done = threading.Event()
        self.outcome: list[Result] | None = None
        self.error: Exception | None = None


class SharedCalls(Generic[Key, Result]):
    """Makes one call for all callers that arrive while the previous call runs.

    A caller never gets the result of a call that began before it arrived, so the result reflects
    what the caller did before. For each key one call runs at a time and at most one waits, however
    many callers there are.
    """

    def __init__(self) -> None:
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        # No code waits while it holds this lock, which may be older than gevent's patching.
        self._lock = threading.Lock()
        # By key: the call that runs, and the one for callers that have arrived since.
        self._running: dict[Key, _Call[Result]] = {}
        self._waiting: dict[Key, _Call[Result]] = {}

    def call(self, key: Key, function: Callable[[], Result]) -> Result:
        """Return the result of ``function()``, called by this caller or by another one.

        Args:
            key: callers with the same key share a call.
            function: the same for all callers with this key.

        Raises:
            Exception: what ``function()`` raised.
        """
        while True:
            with self._lock:
                call = self._waiting.get(key)
                is_mine = call is None
                if call is None:
                    call = _Call()
                    if key in self._running:
                        self._waiting[key] = call
                    else:
                        self._running[key] = call
                        call.turn.set()
            if is_mine:
                return self._make(key, call, function)
            call.done.wait()
            if call.error is not None:
                raise call.error
            if call.outcome is not None:
                return call.outcome[0]
            # The caller that was to make the call was interrupted, perhaps by its own timeout.

    def _make(self, key: Key, call: _Call[Result], function: Callable[[], Result]) -> Result:
        try:
            call.turn.wait()
            result = function()
            call.outcome = [result]
            return result
        except Exception as error:
            call.error = error
            raise
        finally:
            self._pass_on(key, call)

    def _pass_on(self, key: Key, call: _Call[Result]) -> None:
        """End a call and let the waiting one begin."""
        following = None
        with self._lock:
            if self._waiting.get(key) is call:  # interrupted before its turn
                del self._waiting[key]
            if self._running.get(key) is call:
                following = self._waiting.pop(key, None)
                if following is None:
                    del self._running[key]
                else:
                    self._running[key] = following
        call.done.set()
        if following is not None:
            following.turn.set()


_all: Final[weakref.WeakSet[SharedCalls[Any, Any]]] = weakref.WeakSet()


def _begin_all() -> None:
    """Forget the calls of the parent process, which never end in this process."""
    for each in list(_all):
        each._begin()


if hasattr(os, "register_at_fork"):
    # Windows has no fork.
    os.register_at_fork(after_in_child=_begin_all)
