"""The base class of every backend."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest

from django_wsmux.backends import Backend, BackendUnavailable
from tests.support import ROOT


class Null(Backend):
    """A backend that reaches no process."""

    def listen(self) -> None:
        """Wait for the end."""
        self.listening()
        while not self.stopping:
            self.waiter.wait(None)

    def transmit(self, channel: str, packet: bytes) -> None:
        """Drop the message."""

    def reply(self, asker: bytes, packet: bytes) -> None:
        """Drop the reply."""


def test_default_backend_is_simple() -> None:
    """Inherited defaults work: a backend starts once and stops, and its questions end."""
    backend = Null("null://")
    backend.start(lambda channel, payload: None)
    backend.start(lambda channel, payload: None)
    assert backend.subscribe("room").wait(20)
    assert sum(thread.name == "django_wsmux backend" for thread in threading.enumerate()) == 1
    assert backend.ask("room", b"?", timeout=0.05) == []
    backend.publish("room", b"")
    assert (backend.counts.published, backend.counts.unanswered) == (1, 1)
    backend.close()
    backend.close()
    assert not any(thread.name == "django_wsmux backend" for thread in threading.enumerate())


def test_error_text() -> None:
    """The error names backend, event and remedy, without the password."""
    backend = Null("redis://user:secret@host:1/2")
    error = backend.unavailable("it burns", "put it out")
    assert isinstance(error, BackendUnavailable)
    assert str(error) == "redis://host:1/2: it burns; put it out"


class _Raising(logging.Handler):
    """A logging handler whose server is down."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ConnectionError("no server for logs")


class _Late(Null):
    """A backend that fails to listen at the first attempt."""

    attempts = 0

    def listen(self) -> None:
        """Fail once."""
        self.attempts += 1
        if self.attempts == 1:
            raise self.unavailable("not yet")
        super().listen()


def test_logging_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in a logging handler does not end the listener."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger = logging.getLogger("django_wsmux.backends")
    handler = _Raising()
    logger.addHandler(handler)
    backend = _Late("null://")
    try:
        backend.start(lambda channel, payload: None)
        assert backend.effective.wait(60)
    finally:
        logger.removeHandler(handler)
        backend.close()


#: Three waiters of one backend that never listens: after the first has waited in vain, the second
#: comes, and the third gives up, all in one round of gevent's loop.
_WAITERS = """
from gevent import monkey
block = monkey.get_original("time", "sleep")
monkey.patch_all()
import threading
import gevent
from tests.backends.test_base import Null

class Deaf(Null):
    def listen(self):
        while not self.stopping:
            self.waiter.wait(None)

backend = Deaf("null://")
backend.start(lambda channel, payload: None)
event = threading.Event()
waiters = [
    gevent.spawn(backend.wait_for, event, 0.1),
    gevent.spawn(lambda: threading.Event().wait(0.2) or backend.wait_for(event, 0.1)),
    gevent.spawn(backend.wait_for, event, 0.3),
]
gevent.sleep(0)
block(0.5)
print(len(gevent.joinall(waiters, timeout=5)))
"""


def test_waiters_that_give_up_together() -> None:
    """Each waiter for a backend returns, also with gevent."""
    result = subprocess.run(
        [sys.executable, "-c", _WAITERS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout == "3\n", result.stdout + result.stderr
