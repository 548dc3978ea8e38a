"""Handshakes reuse the database connections of earlier ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

#: Returns whether a connection of SQLite is open.
IS_OPEN = """
def is_open(raw):
    try:
        raw.execute("SELECT 1")
    except Exception as error:
        assert "closed" in str(error), error
        return False
    return True
"""

#: A patched process like gunicorn's; ``handshake()`` mimics the handler.
PREPARED = """
from gevent import monkey
monkey.patch_all()
import sys
import django
import gevent
from django.conf import settings
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}
databases = {"default": database, "other": database | {"CONN_MAX_AGE": 60}}
settings.configure(WEBSOCKET_BACKEND="memory://", DATABASES=databases)
django.setup()
from django.core.signals import request_finished
from django.db import connection, connections, transaction
from django_wsmux.handlers import databases

closed = []

def ask(alias="default"):
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")
    raw = connections[alias].connection
    return raw

def handshake(view):
    def run():
        databases.begin_handshake()
        try:
            return view()
        finally:
            request_finished.send(None)
            databases.end_handshake()
            databases.end_handshake()
            assert not connections.all(initialized_only=True)
            databases.discard()
    return gevent.spawn(run)

def wait_until(condition):
    while not condition():
        gevent.sleep(0.005)
"""
PREPARED += IS_OPEN


def run(tmp_path: Path, program: str) -> None:
    """Run a program in its own patched process."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        PREPARED + program,
        str(tmp_path / "db.sqlite3"),
    ]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr


def test_successive_handshakes(tmp_path: Path) -> None:
    """Successive handshakes use the same connections, per database; idle ones are closed."""
    run(
        tmp_path,
        """
both = lambda: (ask(), ask("other"))
first, second = handshake(both).get(), handshake(both).get()
assert first == second
assert all(map(is_open, first))
wait_until(lambda: not any(map(is_open, first)))
assert not any(raw in first for raw in handshake(both).get())
""",
    )


def test_concurrent_handshakes(tmp_path: Path) -> None:
    """Concurrent handshakes have separate connections; the last one used is reused first."""
    run(
        tmp_path,
        """
def slow(seconds):
    def view():
        raw = ask()
        gevent.sleep(seconds)
        assert ask() is raw
        return raw
    return view
early, late = handshake(slow(0.001)), handshake(slow(0.01))
assert early.get() is not late.get()
assert handshake(ask).get() is late.get()
wait_until(lambda: not is_open(early.get()) and not is_open(late.get()))
""",
    )


def test_maximum_age(tmp_path: Path) -> None:
    """A connection is closed at its maximum age even if handshakes never pause."""
    run(
        tmp_path,
        """
first = handshake(ask).get()
wait_until(lambda: handshake(ask).get() is not first)
assert not is_open(first)
""",
    )


def test_connections_that_are_not_kept(tmp_path: Path) -> None:
    """No reuse in a transaction, after an error, with a pool, or with ``CONN_MAX_AGE = 0``."""
    run(
        tmp_path,
        """
def inside():
    transaction.atomic().__enter__()
    return ask()
assert not is_open(handshake(inside).get())

def broken():
    raw = ask()
    connection.errors_occurred = True
    connection.is_usable = lambda: False  # SQLite's always are
    return raw
assert not is_open(handshake(broken).get())

def promised():
    raw = ask()
    connection.settings_dict["CONN_MAX_AGE"] = 0
    connection.vendor = "postgresql"
    return raw
assert not is_open(handshake(promised).get())

def pooled():
    raw = ask()
    connection.settings_dict["OPTIONS"] = {"pool": True}
    return raw
assert not is_open(handshake(pooled).get())
""",
    )


def test_stopped(tmp_path: Path) -> None:
    """A stopped handshake does not pass on its connection: a query may be in progress."""
    run(
        tmp_path,
        """
from contextvars import copy_context
from django.core.handlers.wsgi import WSGIHandler
from django_wsmux.handlers.handshake import Handshake
from django_wsmux.server.takeover import Takeover

def call(self, environ, start_response):
    raw.append(ask())
    if len(raw) == 2:
        raise gevent.Timeout
    start_response("404 Not Found", [])
    return []

WSGIHandler.__call__ = call

def answer():
    try:
        shake = Handshake(WSGIHandler(), lambda request: None, Takeover(), lambda *args: None)
        shake.run({}, copy_context())
    except gevent.Timeout:
        assert not connections.all(initialized_only=True)

raw = []
for _ in range(3):
    gevent.spawn(answer).get()
assert raw[0] is raw[1]
assert not is_open(raw[0])
assert is_open(raw[2])
""",
    )


#: Collects log messages in ``said``. After ``both()``, closing the first of two connections fails.
FAILING = """
import logging
said = []
class Handler(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logger = logging.getLogger("django_wsmux.databases")
logger.addHandler(Handler())
logger.propagate = False

def both():
    raw = ask(), ask("other")
    def fail():
        raise OSError("gone")
    connection.close = fail
    return raw
"""


def test_close_fails(tmp_path: Path) -> None:
    """A failure to close is logged, and the other connections are closed."""
    run(
        tmp_path,
        FAILING
        + """
one, other = handshake(both).get()
wait_until(lambda: not is_open(other))
assert said == ["Closing a database connection failed"], said
assert handshake(ask).get() is not one
""",
    )


def test_close_fails_at_the_end(tmp_path: Path) -> None:
    """The same holds for a connection that is not kept, when the socket is already open."""
    run(
        tmp_path,
        FAILING
        + """
def obsolete():
    databases.begin_handshake()
    raw = both()
    connection.close_at = 0
    databases.end_handshake()
    return raw
one, other = gevent.spawn(obsolete).get()
assert set(said) == {"Closing a database connection failed"}, said
assert handshake(lambda: ask("other")).get() is other
""",
    )


def test_close_fails_between_messages(tmp_path: Path) -> None:
    """The greenlet that handles messages continues, and its other connections are closed."""
    run(
        tmp_path,
        FAILING
        + """
def messages():
    one, other = both()
    connection.close_at = connections["other"].close_at = 0
    databases.begin_message()
    assert not is_open(other)
    again = ask("other")
    databases.end_message()
    assert is_open(again)
    databases.discard()
    assert not is_open(again)
    assert not connections.all(initialized_only=True)
gevent.spawn(messages).get()
assert set(said) == {"Closing a database connection failed"}, said
""",
    )


def test_pages_keep_their_own(tmp_path: Path) -> None:
    """A connection that an earlier page on the same TCP connection opened is not touched."""
    run(
        tmp_path,
        """
def serve():
    raw = ask()
    databases.begin_handshake()
    assert ask() is raw
    databases.end_handshake()
    assert ask() is raw
    databases.discard()
    assert not is_open(raw)
gevent.spawn(serve).get()
""",
    )


def test_taken_apart(tmp_path: Path) -> None:
    """A greenlet that ends leaves nothing to the garbage collector, also if it has waited."""
    run(
        tmp_path,
        """
import gc
import weakref
gc.disable()
left = []

def view(waits):
    databases.discard()  # nothing to do yet
    for _ in range(2):
        ask()
        left.append(weakref.ref(connections["default"]))
        if waits:
            databases.release()
        databases.discard()

for waits in (False, True):
    gevent.spawn(view, waits).get()
assert len(left) == 4
assert not [each for each in left if each() is not None]
""",
    )
