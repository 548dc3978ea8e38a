"""The store of presence in this process, and what is done about it later.

A job runs in a thread of its own (a greenlet under gevent), which does not wait while it holds a
lock. Under a test's client, jobs are done between the turns of the views.
"""

from __future__ import annotations

import _thread
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from .. import conf
from ..connection.counters import count
from ..logs import LogLimit, get_logger
from ..presence import stores
from ..presence.store import PresenceStore
from . import presence_hooks
from .namespace import namespace
from .pubsub import pubsub

__all__ = ["Jobs", "jobs"]

logger = get_logger("django_wsmux.presence")


class Jobs:
    """The store, and jobs; see the module.

    Attributes:
        is_away: whether the last call of the store has failed. It is then tried once a second.
    """

    def __init__(self) -> None:
        self._failed = LogLimit()
        self.begin()

    def begin(self) -> None:
        """Start over, in a forked child or in another test: jobs that wait are not done."""
        self.is_away = False
        self._store: tuple[object, str, PresenceStore] | None = None
        self._waiting: deque[Callable[[], None]] = deque()
        self._life = object()

    def store(self) -> PresenceStore:
        """Return the store of the settings.

        Raises:
            ImproperlyConfigured: there is none for the backend.
        """
        backend, url = pubsub.backend(), conf.get("WEBSOCKET_HISTORY_STORE")
        found = self._store
        if found is None or found[0] is not backend or found[1] != url:
            found = self._store = backend, url, stores.store(backend, namespace())
        return found[2]

    def later(self, seconds: float, function: Callable[[], None]) -> bool:
        """Call a function later; never waits.

        Returns:
            False if there are too many threads: the function will not be called.
        """
        if presence_hooks.is_manual:
            self._waiting.append(function)
            return True
        try:
            _thread.start_new_thread(self._run, (seconds, function, self._life))
        except RuntimeError:
            return False
        return True

    def _run(self, seconds: float, function: Callable[[], None], life: object) -> None:
        if seconds > 0:
            time.sleep(seconds)
        if life is not self._life:
            return
        try:
            function()
        except Exception:
            logger.exception("Bug in django_wsmux: a job of presence has failed")

    def run_waiting(self) -> None:
        """Do what is due, for a test."""
        while self._waiting:
            self._waiting.popleft()()

    def note_failure(self, error: object) -> None:
        """Note that the store cannot be used."""
        count("presence_failed")
        was_away, self.is_away = self.is_away, True
        suffix = None if was_away else self._failed.suffix()
        if suffix is not None:
            logger.error("presence: the store cannot be used: %s%s", error, suffix)

    def note_success(self) -> None:
        """Note that the store can be used."""
        if self.is_away:
            self.is_away = False
            logger.info("presence: the store can be used again")


#: The jobs of this process.
jobs: Final = Jobs()
