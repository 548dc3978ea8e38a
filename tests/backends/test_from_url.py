"""The backend that a URL names."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest

from django_wsmux.backends import SCHEMES, Backend, BackendUnavailable, Gap, from_url
from django_wsmux.backends.local import LocalBackend
from django_wsmux.backends.outages import ReconnectBackoff


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


def test_local() -> None:
    """local:// needs no library."""
    backend = from_url("local://", namespace="mysite")
    assert isinstance(backend, LocalBackend)
    assert (backend.namespace, backend.name) == ("mysite", "local://")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes(scheme: str) -> None:
    """Every scheme makes a backend without connecting."""
    hosts = {"local": "", "postgres": "", "redis+unix": "/nowhere"}
    host = hosts.get(scheme, "127.0.0.1:1/service")
    assert isinstance(from_url(f"{scheme}://{host}"), Backend)


@pytest.mark.parametrize("url", ["kafka://host", "local", "", "redi://x"])
def test_unknown(url: str) -> None:
    """An unknown scheme is refused; the error lists those that exist."""
    with pytest.raises(ValueError, match=r"unknown backend .*local://, redis://.*dotted path"):
        from_url(url)


def test_third_party() -> None:
    """A dotted path is imported; URL and namespace are passed to it."""
    backend = from_url(f"{__name__}.Null://user:secret@host/x?a=1&namespace=n&b=", namespace="m")
    assert isinstance(backend, Null)
    assert backend.url.endswith("@host/x?a=1&b=")
    assert backend.namespace == "n"
    assert backend.name == f"{__name__}.Null://host/x"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("no.such.Backend", "No module named 'no'"),
        (f"{__name__}.Missing", "has no attribute 'Missing'"),
        ("builtins.dict", "builtins.dict is not a subclass"),
    ],
)
def test_invalid_dotted_path(path: str, problem: str) -> None:
    """The error says what is wrong with a dotted path."""
    with pytest.raises(ValueError, match=problem):
        from_url(f"{path}://")


@pytest.mark.parametrize(("scheme", "library"), [("redis", "redis"), ("postgres", "psycopg")])
def test_library_missing(scheme: str, library: str) -> None:
    """The error names the package to install."""
    code = (
        "import sys\n"
        f"sys.modules[{library!r}] = None\n"
        "from django_wsmux.backends import from_url\n"
        f"from_url('{scheme}://')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f'pip install "django-wsmux[{scheme}]"' in result.stderr


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


def test_outages() -> None:
    """Retries come later and later, at random; the whole outage is one gap."""
    outages = ReconnectBackoff()
    assert outages.end() is None
    assert outages.begin("gone") is True
    assert outages.begin("still gone") is False
    delays = [outages.delay() for _ in range(200)]
    assert delays[0] <= 0.2
    assert 5 < max(delays) <= 10
    gap = outages.end()
    assert isinstance(gap, Gap)
    assert gap.reason == "gone"
    assert outages.end() is None
    outages.suspect()
    assert outages.begin("slow") is True
    gap = outages.end()
    assert gap is not None
    assert gap.reason == "slow"
    outages.suspect()
    gap = outages.end()
    assert gap is not None
    assert gap.reason == "connecting took long"


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
