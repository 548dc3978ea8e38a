"""The outbox: transactions, savepoints, errors and the sweep, on SQLite."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.db.models.signals import pre_delete, pre_save
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext

from django_wsmux.connection.counters import counters
from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import Group, outbox, outbox_table
from django_wsmux.groups.envelope import EXCLUDED, unpack
from django_wsmux.groups.pubsub import pubsub
from django_wsmux.groups.sequencer import sequencer
from django_wsmux.history import memory, stores
from django_wsmux.history.memory import MemoryStore
from django_wsmux.history.store import KEY_SECONDS, Appended
from django_wsmux.models import Outbox

ROOM, HALL = Group("room.1"), Group("room.2")

committing = pytest.mark.django_db(transaction=True)

SETTINGS = {
    "WEBSOCKET_HISTORY": {"room.*": {"messages": 10_000, "seconds": 600}},
    "WEBSOCKET_BACKEND": "memory://",
    "WEBSOCKET_OUTBOX": True,
}


class Store(MemoryStore):
    """A store that can be away.

    Attributes:
        room: how many messages it accepts until it is unavailable.
    """

    room = 10**6

    def append(self, *args: Any, **options: Any) -> Appended | None:
        """Number a message and keep it."""
        if not self.room:
            raise BackendUnavailable("redis://", "gone", "")
        self.room -= 1
        return super().append(*args, **options)


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store of the test's history."""
    monkeypatch.setattr(memory, "MemoryStore", Store)
    monkeypatch.setattr(outbox._pause, "until", 0.0)
    monkeypatch.setattr(outbox, "_deleted", {})
    with override_settings(**SETTINGS):
        stores.reset()
        sequencer.reset()
        store = sequencer.store()
        assert isinstance(store, Store)
        yield store
        sequencer.reset()
        stores.reset()


def sent(group: Group = ROOM) -> list[str | bytes]:
    """Return the messages that were sent to a group."""
    return [message.data for message in group.history().messages]


def put(text: str, group: Group = ROOM) -> None:
    """Send a message with the current transaction."""
    group.send(text, on_commit=True, stored=True)


def left() -> int:
    """Return how many rows there are."""
    return Outbox.objects.count()


@committing
def test_commit() -> None:
    """Messages are sent in order once the transaction commits, and their rows are deleted."""
    with transaction.atomic():
        for number in range(10):
            put(f"{number}", ROOM if number % 2 else HALL)
        assert (left(), sent(), sent(HALL)) == (10, [], [])
    assert (sent(), sent(HALL)) == (["1", "3", "5", "7", "9"], ["0", "2", "4", "6", "8"])
    assert left() == 0


@committing
def test_rollback() -> None:
    """No message of a transaction that is rolled back is sent."""
    with transaction.atomic():
        put("never")
        transaction.set_rollback(True)
    put("now")
    assert (sent(), left()) == (["now"], 0)


@committing
def test_savepoints() -> None:
    """A message is sent unless its own savepoint is rolled back, in any order."""
    for is_first_lost in (True, False):
        with transaction.atomic():
            for number in range(4):
                with transaction.atomic():
                    put(f"{number}")
                    if (number % 2 == 0) == is_first_lost:
                        transaction.set_rollback(True)
            with transaction.atomic(), transaction.atomic():
                put("nested")
        assert left() == 0
    assert sent() == ["1", "3", "nested", "0", "2", "nested"]


@committing
def test_autocommit() -> None:
    """Without a transaction the message is sent at once."""
    put("now")
    assert (sent(), left()) == (["now"], 0)


@committing
def test_value() -> None:
    """JSON and binary messages arrive as they were sent."""
    with transaction.atomic():
        ROOM.send_json({"a": 1}, on_commit="default", stored=True)
        ROOM.send(b"\0\xff", on_commit=True, stored=True)
    assert sent() == ['{"a": 1}', b"\0\xff"]


@committing
def test_one_drain() -> None:
    """One statement inserts a message; two send and delete all messages of a transaction."""
    with CaptureQueriesContext(connection) as inside, transaction.atomic():
        put("1")
        put("2", HALL)
    commands = [each["sql"].split()[0] for each in inside.captured_queries]
    assert commands == ["BEGIN", "INSERT", "INSERT", "COMMIT", "SELECT", "DELETE"]


@committing
def test_no_signals() -> None:
    """Receivers of the project's signals, which may send to groups, are not called."""
    seen: list[Any] = []

    def receive(**kwargs: Any) -> None:
        seen.append(kwargs)

    pre_save.connect(receive)
    pre_delete.connect(receive)
    try:
        put("x")
    finally:
        pre_save.disconnect(receive)
        pre_delete.disconnect(receive)
    assert (sent(), seen) == (["x"], [])


@committing
def test_store_unavailable(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """If the store is unavailable, rows are left to the sweep, and their order is kept."""
    store.room = 2
    with transaction.atomic():
        for number in range(4):
            put(f"{number}")
        User.objects.create(username="ann")
    assert User.objects.exists()
    assert (sent(), left()) == (["0", "1"], 2)
    assert "messages wait in the outbox: redis://: gone" in caplog.text
    outbox.sweep()
    assert (sent(), left()) == (["0", "1"], 2)
    store.room = 100
    put("4")  # does not try, as the store was away a moment ago
    assert (sent(), left()) == (["0", "1"], 3)
    outbox.sweep()
    assert (sent(), left()) == (["0", "1", "2", "3", "4"], 0)


@committing
def test_store_available_again(store: Store) -> None:
    """A sender retries some time after a failure of the store, and sends the earlier rows, too."""
    fill(store, 2)
    put("2")
    assert (sent(), left()) == (["0", "1", "2"], 0)


@committing
def test_sweep(store: Store) -> None:
    """The sweep sends the remaining rows of each group, in order."""
    store.room = 0
    with transaction.atomic():
        for number in range(6):
            put(f"{number}", HALL if number % 2 else ROOM)
    store.room = 100
    outbox.sweep()
    assert (sent(), sent(HALL), left()) == (["0", "2", "4"], ["1", "3", "5"], 0)


def fill(store: Store, count: int) -> None:
    """Leave messages in the outbox."""
    store.room = 0
    with transaction.atomic():
        for number in range(count):
            put(f"{number}")
    store.room = 10**6
    outbox._pause.until = 0.0
    assert left() == count


@committing
def test_large_backlog(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog is sent in parts, in order."""
    monkeypatch.setattr(outbox, "_TURN", 60.0)
    count = 2 * outbox_table.MAX_ROWS
    fill(store, count)
    put(f"{count}")
    assert (sent(), left()) == ([f"{number}" for number in range(count + 1)], 0)


@committing
def test_turn(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that has sent for some time leaves the rest to others."""
    count = 2 * outbox_table.MAX_ROWS
    fill(store, count)
    monkeypatch.setattr(outbox, "_TURN", -1.0)
    put(f"{count}")
    assert (len(sent()), left()) == (outbox_table.MAX_ROWS, count + 1 - outbox_table.MAX_ROWS)
    monkeypatch.setattr(outbox, "_TURN", 60.0)
    outbox.sweep()
    assert (sent(), left()) == ([f"{number}" for number in range(count + 1)], 0)


@committing
def test_twice() -> None:
    """A row that was sent but could not be deleted is not sent again."""
    with transaction.atomic():
        put("once")
        row = Outbox.objects.get()
    row.save(force_insert=True)
    outbox.sweep()
    assert (sent(), left()) == (["once"], 0)


@committing
def test_unreadable(caplog: pytest.LogCaptureFixture, store: Store) -> None:
    """A row that cannot be read is kept, but does not stop the rows after it, nor is it retried."""
    store.room = 0
    put("before")
    first = Outbox.objects.get()
    damaged = Outbox.objects.create(group=first.group, key="x", envelope=b"\xff")
    put("after")
    store.room = 2
    before = counters["outbox_damaged"]
    for _ in range(2):
        outbox.sweep()
        assert (sent(), left()) == (["before", "after"], 1)
    assert Outbox.objects.get(pk=damaged.pk).group == outbox_table.ASIDE
    assert counters["outbox_damaged"] == before + 1
    assert f"row {damaged.pk} of the outbox cannot be read, and is set aside" in caplog.text
    Outbox.objects.update(group=1, envelope=first.envelope)
    store.room = 1
    outbox.sweep()
    assert (sent(), left()) == (["before", "after", "before"], 0)


@pytest.mark.django_db
def test_excluded() -> None:
    """The ids of clients that do not get the message are stored with it."""
    outbox.put("room.1", 1, b"x", ("a.1", "b"))
    found = unpack(bytes(Outbox.objects.get().envelope))
    assert found.fields == {EXCLUDED: b"a.1 b"}


def test_errors() -> None:
    """The errors name the missing argument or setting."""
    with pytest.raises(ValueError, match="add on_commit=True"):
        ROOM.send("x", stored=True)
    with pytest.raises(ValueError, match="add on_commit=True"):
        ROOM.send_json("x", stored=True)
    with pytest.raises(ImproperlyConfigured, match="WEBSOCKET_HISTORY"):
        Group("lobby").send("x", on_commit=True, stored=True)
    with (
        override_settings(WEBSOCKET_OUTBOX=False),
        pytest.raises(ImproperlyConfigured, match="WEBSOCKET_OUTBOX = True"),
    ):
        ROOM.send("x", on_commit=True, stored=True)


class TestInTransaction(TestCase):
    """Tests of projects that run in a transaction."""

    def test_capture(self) -> None:
        """The callbacks can be captured and executed repeatedly."""
        for number in range(2):
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                put(f"{number}")
                put(f"{number}'")
                assert left() == 2
            assert len(callbacks) == 2
            assert left() == 0
        assert sent() == ["0", "0'", "1", "1'"]

    def test_no_capture(self) -> None:
        """Without capturing, nothing is sent."""
        put("never")
        assert (sent(), left()) == ([], 1)


@committing
def test_keys(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store remembers the key of a row for long only until the row is deleted."""
    monkeypatch.setattr(outbox, "_MANY", 2)
    for number in range(2):
        with transaction.atomic():
            put(f"{number}")
    keys = store._rows[ROOM.name].keys
    assert len(keys) == 2
    assert max(keys.values()) < time.time_ns() / 1000 + 2 * KEY_SECONDS * 10**6


@committing
def test_without_history(store: Store) -> None:
    """A row of a group that no longer has a history is sent like other messages."""
    fill(store, 1)
    with override_settings(WEBSOCKET_HISTORY={}, WEBSOCKET_BACKEND="redis://127.0.0.1:1"):
        outbox.sweep()
        assert left() == 1
    with override_settings(WEBSOCKET_HISTORY={}):
        outbox.sweep()
    assert (sent(), left()) == ([], 0)


@committing
def test_key_of_the_message() -> None:
    """A message with its own key is sent once, from the outbox or directly."""
    with transaction.atomic():
        ROOM.send("paid", on_commit=True, stored=True, key="order-17")
        ROOM.send("paid again", on_commit=True, stored=True, key="order-17")
    ROOM.send("and again", key="order-17")
    assert (sent(), left()) == (["paid"], 0)


def test_no_sweep_in_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without other processes, as in tests of projects, no process sweeps."""
    monkeypatch.setattr(pubsub, "starters", [])
    outbox.install()
    pubsub.serve()
    assert "django_wsmux outbox" not in {thread.name for thread in threading.enumerate()}
