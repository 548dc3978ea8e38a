"""Models that are sent, in every way."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from django.db import models

from django_wsmux.html import broadcasts

__all__ = [
    "Broken",
    "Cell",
    "Entry",
    "Line",
    "Measure",
    "Note",
    "PinnedLine",
    "Room",
    "Stored",
    "Task",
    "VoiceLine",
]


class Room(models.Model):
    """A room, which is not sent itself."""

    objects: ClassVar[models.Manager[Any]]

    class Meta:
        app_label = "lines"


def room_of(line: Any) -> str | None:
    """Return the group of a line; drafts are not shown."""
    return None if line.text == "draft" else f"room.{line.room_id}"


@broadcasts(group=room_of, template="lines/sent.html", exclude=lambda line: line.sender)
class Line(models.Model):
    """A line in a room, which it may leave for another.

    Attributes:
        sender: the client that has sent the form.
    """

    objects: ClassVar[models.Manager[Any]]

    room = models.ForeignKey(Room, models.CASCADE)
    room_id: int
    text = models.TextField()
    hits = models.IntegerField(default=0)

    sender: str | None = None

    class Meta:
        app_label = "lines"


class PinnedLine(Line):
    """A proxy."""

    objects: ClassVar[models.Manager[Any]]

    class Meta:
        app_label = "lines"
        proxy = True


class VoiceLine(Line):
    """A line with a table of its own."""

    objects: ClassVar[models.Manager[Any]]

    seconds = models.IntegerField(default=0)

    class Meta:
        app_label = "lines"


@broadcasts(group="tasks", template="lines/task.html", insert="prepend", format="htmx")
@broadcasts(
    group="changes",
    template="lines/task.html",
    on=["update"],
    container=lambda task: "tasks",
)
class Task(models.Model):
    """A model with two broadcasts, whose key is made by Python."""

    objects: ClassVar[models.Manager[Any]]

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    text = models.TextField()

    class Meta:
        app_label = "lines"


@broadcasts(
    group="board",
    container=lambda cell: f"column-{cell.column}",
    template="lines/cell.html",
    format="htmx",
)
class Cell(models.Model):
    """A row of a table that moves between containers; its key is a text."""

    objects: ClassVar[models.Manager[Any]]

    code = models.CharField(primary_key=True, max_length=50)
    column = models.IntegerField()

    class Meta:
        app_label = "lines"


@broadcasts(group="entries", template="lines/note.html")
class Entry(models.Model):
    """An abstract base."""

    text = models.TextField()

    class Meta:
        app_label = "lines"
        abstract = True


class Note(Entry):
    """A model that inherits its broadcast."""

    objects: ClassVar[models.Manager[Any]]

    class Meta:
        app_label = "lines"


class Measure(models.Model):
    """A model with a key of two columns."""

    objects: ClassVar[models.Manager[Any]]

    pk = models.CompositePrimaryKey("device", "number")
    device = models.CharField(max_length=9)
    number = models.IntegerField()
    value = models.IntegerField()

    class Meta:
        app_label = "lines"


broadcasts(group="measures", template="lines/measure.html")(Measure)


@broadcasts(group="broken", template="lines/broken.html")
class Broken(models.Model):
    """A model whose template fails."""

    objects: ClassVar[models.Manager[Any]]

    text = models.TextField()

    class Meta:
        app_label = "lines"


def kept_group_of(row: Any) -> str:
    """Return the group of a row, which has a history."""
    if row.room < 0:
        raise ValueError("the room is negative")
    return f"kept.{row.room}"


@broadcasts(group=kept_group_of, template="lines/stored.html", stored=True)
class Stored(models.Model):
    """A model whose messages go through the outbox."""

    objects: ClassVar[models.Manager[Any]]

    room = models.IntegerField()
    text = models.TextField()

    class Meta:
        app_label = "lines"
