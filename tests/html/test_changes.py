"""Transactions: what is left of many changes of a row, savepoints, errors, the outbox."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.template import TemplateDoesNotExist
from django.test import TestCase, override_settings

from django_wsmux.connection.counters import counters
from django_wsmux.groups import Group, outbox
from django_wsmux.html import broadcast, changes
from django_wsmux.models import Outbox
from django_wsmux.test import ClientWebSocket

from . import content, joined, received
from .lines.models import Line, Room, Stored, Task
from .lines.templatetags.lines import rendered
from .test_broadcasting import append, existing, remove, replace, rooms

__all__ = ["rooms"]

pytestmark = [pytest.mark.usefixtures("tables"), pytest.mark.django_db(transaction=True)]

Rooms = list[ClientWebSocket]


# One transaction


def test_saves(rooms: Rooms) -> None:
    """Several saves of one row are sent once, as it is at the commit, in the order of rows."""
    with transaction.atomic():
        first = Line.objects.create(room_id=1, text="a")
        second = Line.objects.create(room_id=1, text="b")
        first.text = "c"
        first.save()
        assert received(rooms[0]) == []
        rendered.clear()
    assert received(rooms[0]) == [append(first.pk, "c"), append(second.pk, "b")]
    assert len(rendered) == 2


def test_created_and_deleted(rooms: Rooms) -> None:
    """A row that was created and deleted is not sent."""
    rendered.clear()
    with transaction.atomic():
        line = Line.objects.create(room_id=1, text="a")
        line.save()
        line.delete()
    assert received(rooms[0]) == []
    assert rendered == []


def test_saved_and_deleted(rooms: Rooms) -> None:
    """A row that was moved and deleted leaves its old group only."""
    line = existing()
    pk = line.pk
    with transaction.atomic():
        line.room_id = 2
        line.save()
        line.delete()
    assert received(rooms[0]) == [remove(pk)]
    assert received(rooms[1]) == []


def test_deleted_and_created(rooms: Rooms) -> None:
    """A row that was deleted and created with the same key is replaced."""
    line = existing()
    pk = line.pk
    with transaction.atomic():
        line.delete()
        Line.objects.create(pk=pk, room_id=1, text="new")
    assert received(rooms[0]) == [replace(pk, "new")]


def test_there_and_back(rooms: Rooms) -> None:
    """A row that has moved through groups leaves the first and enters the last."""
    line = existing()
    with transaction.atomic():
        for room in (2, 1):
            line.room_id = room
            line.save()
    assert received(rooms[0]) == [replace(line.pk, "hi")]
    assert received(rooms[1]) == []


def test_rollback(rooms: Rooms) -> None:
    """Nothing of a transaction that is rolled back is sent, nor remembered."""
    line = existing()
    with transaction.atomic():
        line.room_id = 2
        line.save()
        transaction.set_rollback(True)
    line.room_id = 1
    line.save()
    assert received(rooms[0]) == [replace(line.pk, "hi")]
    assert received(rooms[1]) == []


# Savepoints


def test_savepoint(rooms: Rooms) -> None:
    """What was changed only in a savepoint that was rolled back is not sent."""
    kept, lost, moved = existing(), existing(), existing()
    with transaction.atomic():
        kept.text = "first"
        kept.save()
        with transaction.atomic():
            Line.objects.create(room_id=1, text="new")
            Line.objects.get(pk=kept.pk).delete()
            lost.save()
            moved.room_id = 2
            moved.save()
            transaction.set_rollback(True)
        moved.text = "moved"
        moved.save()
    assert received(rooms[0]) == [replace(kept.pk, "first"), remove(moved.pk)]
    assert received(rooms[1]) == [append(moved.pk, "moved")]


def test_savepoint_first(rooms: Rooms) -> None:
    """A savepoint that was rolled back before all other changes does not matter."""
    line = existing()
    with transaction.atomic():
        with transaction.atomic():
            line.text = "lost"
            line.save()
            Task.objects.create(text="lost")
            transaction.set_rollback(True)
        with transaction.atomic():
            line.text = "kept"
            line.save()
    assert received(rooms[0]) == [replace(line.pk, "kept")]


def test_savepoint_last(rooms: Rooms) -> None:
    """A savepoint that was rolled back after all other changes does not matter."""
    line = existing()
    pk = line.pk
    with transaction.atomic():
        line.text = "kept"
        line.save()
        with transaction.atomic():
            line.room_id, line.text = 2, "lost"
            line.save()
            line.delete()
            transaction.set_rollback(True)
    assert received(rooms[0]) == [replace(pk, "kept")]
    assert received(rooms[1]) == []


# Errors


def test_unreadable(
    rooms: Rooms, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the rows cannot be read after the commit, nothing is sent: none counts as deleted."""
    before = counters["html_failed"]
    lines = [existing(), existing()]

    def fail(*args: Any) -> Any:
        raise DatabaseError("gone")

    with transaction.atomic():
        for line in lines:
            line.save()
        monkeypatch.setattr(changes, "rows_of", fail)
    assert received(rooms[0]) == []
    assert counters["html_failed"] == before + 2
    assert len(caplog.records) == 2


def test_many_rows(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows are read in several queries."""
    monkeypatch.setattr(changes, "_MOST", 2)
    with transaction.atomic():
        lines = [Line.objects.create(room_id=1, text=f"{number}") for number in range(5)]
    expected = [append(line.pk, f"{number}") for number, line in enumerate(lines)]
    assert received(rooms[0]) == expected


class WithTestCase(TestCase):
    """In Django's test case, transactions commit where the test says so."""

    def test_callbacks(self) -> None:
        """Each block is a transaction of its own."""
        Room.objects.bulk_create([Room(pk=1)])
        with joined("room.1") as (ws,):
            with self.captureOnCommitCallbacks(execute=True):
                line = Line.objects.create(room_id=1, text="a")
                line.save()
            assert received(ws) == [append(line.pk, "a")]
            with self.captureOnCommitCallbacks(execute=True):
                line.save()
            assert received(ws) == [replace(line.pk, "a")]


# Histories and the outbox


def sent(name: str) -> list[str | bytes]:
    """Return the messages of a group."""
    return [message.data for message in Group(name).history().messages]


def stored(action: str, target: str, text: str | None = None) -> str:
    """Return what is sent for a row of ``Stored``."""
    content = "" if text is None else f"<template><p>{text}</p>\n</template>"
    return f'<turbo-stream action="{action}" target="{target}">{content}</turbo-stream>'


@pytest.mark.usefixtures("kept")
def test_replayed(rooms: Rooms) -> None:
    """HTML of groups with a history is stored, and replayed as HTML."""
    with joined("room.1", subprotocols=("wsmux.v1",)) as (ws,):
        first = Line.objects.create(room_id=1, text="a")
        assert content(ws) == append(first.pk, "a")
        ws.cut()
        second = Line.objects.create(room_id=1, text="b")
        rendered.clear()
        ws.resume()
        assert "welcome" in ws.receive_json()
        assert content(ws) == append(second.pk, "b")
    assert rendered == []
    assert sent("room.1") == [append(first.pk, "a"), append(second.pk, "b")]


@pytest.mark.usefixtures("kept")
def test_excluded_from_replays(rooms: Rooms) -> None:
    """A client that is excluded does not get the HTML later either."""
    with joined("room.1", subprotocols=("wsmux.v1",)) as (ws,):
        ws.send("my id")
        client_id = ws.receive_json()["data"]["client"]
        ws.cut()
        line = Line(room_id=1, text="mine")
        line.sender = client_id
        line.save()
        other = Line.objects.create(room_id=1, text="other")
        ws.resume()
        assert "welcome" in ws.receive_json()
        assert content(ws) == append(other.pk, "other")


@pytest.mark.usefixtures("kept")
def test_stored() -> None:
    """Messages lie in the outbox until the commit: one for each row, the last."""
    with transaction.atomic():
        row = Stored.objects.create(room=1, text="a")
        gone = Stored.objects.create(room=1, text="gone")
        row.text = "b"
        row.save()
        gone.delete()
        assert Outbox.objects.count() == 1
        assert sent("kept.1") == []
    assert sent("kept.1") == [stored("append", "storeds", "b")]
    assert Outbox.objects.count() == 0
    row.room = 2
    row.save()
    broadcast(row)
    pk = row.pk
    row.delete()
    assert sent("kept.1")[1:] == [stored("remove", f"stored-{pk}")]
    assert sent("kept.2") == [
        stored("append", "storeds", "b"),
        stored("replace", f"stored-{pk}", "b"),
        stored("remove", f"stored-{pk}"),
    ]


@pytest.mark.usefixtures("kept")
def test_stored_savepoints() -> None:
    """A savepoint that is rolled back restores the message before it."""
    with transaction.atomic():
        row = Stored.objects.create(room=1, text="a")
        with transaction.atomic():
            row.text = "b"
            row.save()
            transaction.set_rollback(True)
        assert Outbox.objects.count() == 1
        with transaction.atomic():
            other = Stored.objects.create(room=1, text="c")
            other.text = "d"
            other.save()
    assert sent("kept.1") == [stored("append", "storeds", "a"), stored("append", "storeds", "d")]
    with transaction.atomic():
        for text in "ef":
            with transaction.atomic():
                row.text = text
                row.save()
                transaction.set_rollback(text == "f")
        row.text = "g"
        row.save()
    assert sent("kept.1")[2:] == [stored("replace", f"stored-{row.pk}", "g")]


@pytest.mark.usefixtures("kept")
def test_stored_and_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the process dies after the commit, the sweep of another process sends the message."""
    monkeypatch.setattr(outbox._Batch, "send", lambda batch: None)
    Stored.objects.create(room=1, text="a")
    assert sent("kept.1") == []
    outbox.sweep()
    assert sent("kept.1") == [stored("append", "storeds", "a")]


@pytest.mark.usefixtures("kept")
def test_stored_error() -> None:
    """Errors of the template and of functions are raised, and the transaction fails."""
    with override_settings(TEMPLATES=[]), pytest.raises(TemplateDoesNotExist), transaction.atomic():
        Stored.objects.create(room=1, text="a")
    assert (Stored.objects.count(), Outbox.objects.count()) == (0, 0)
    row = Stored.objects.create(room=1, text="a")
    row.room = -1
    with pytest.raises(ValueError, match="negative"), transaction.atomic():
        row.save()
    row.delete()
    assert len(sent("kept.1")) == 2
