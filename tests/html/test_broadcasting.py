"""Broadcasts of models: what is sent for which change, and to whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core import serializers
from django.db import DatabaseError, connections, models, transaction
from django.db.models import F
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import translation

from django_wsmux.connection.counters import counters
from django_wsmux.html import broadcast, broadcasts
from django_wsmux.html.broadcasting import _rules
from django_wsmux.test import ClientWebSocket

from . import content, joined, received
from .lines.models import (
    Broken,
    Cell,
    Line,
    Measure,
    Note,
    PinnedLine,
    Room,
    Task,
    VoiceLine,
    room_of,
)
from .lines.templatetags.lines import rendered

pytestmark = [pytest.mark.usefixtures("tables"), pytest.mark.django_db(transaction=True)]


@pytest.fixture
def rooms() -> Iterator[list[ClientWebSocket]]:
    """Plain sockets in the groups of two rooms."""
    Room.objects.bulk_create([Room(pk=1), Room(pk=2)])
    with joined("room.1", "room.2") as rooms:
        yield rooms


def append(pk: int, text: str, hits: int = 0) -> str:
    """Return what is sent for a new line."""
    return (
        f'<turbo-stream action="append" target="lines"><template>{element(pk, text, hits)}'
        f"</template></turbo-stream>"
    )


def replace(pk: int, text: str, hits: int = 0) -> str:
    """Return what is sent for a line that was updated."""
    return (
        f'<turbo-stream action="replace" target="line-{pk}"><template>{element(pk, text, hits)}'
        f"</template></turbo-stream>"
    )


def element(pk: int, text: str, hits: int) -> str:
    """Return the element of a line."""
    return f'<p id="line-{pk}">{text} {hits}</p>\n'


def remove(pk: int) -> str:
    """Return what is sent for a line that was deleted."""
    return f'<turbo-stream action="remove" target="line-{pk}"></turbo-stream>'


def existing(**fields: Any) -> Line:
    """Return a line that was not sent."""
    line: Line = Line.objects.bulk_create([Line(**{"room_id": 1, "text": "hi"} | fields)])[0]
    return line


# Each change


def test_changes(rooms: list[ClientWebSocket]) -> None:
    """A row is appended, replaced and removed; a delete does not need the key that Django takes."""
    line = Line.objects.create(room_id=1, text="<script>")
    pk = line.pk
    line.text = "hi"
    line.save()
    line.delete()
    assert line.pk is None
    escaped = "&lt;script&gt;"
    assert received(rooms[0]) == [append(pk, escaped), replace(pk, "hi"), remove(pk)]
    assert received(rooms[1]) == []


def test_both_kinds() -> None:
    """A socket with ``wsmux.v1`` gets content; it is rendered once for all."""
    Room.objects.bulk_create([Room(pk=1)])
    with joined("room.1") as (plain,), joined(*["room.1"] * 2, subprotocols=("wsmux.v1",)) as v1:
        rendered.clear()
        line = Line.objects.create(room_id=1, text="hi")
        assert rendered == ["en-us"]
        assert plain.receive() == append(line.pk, "hi")
        assert [content(ws) for ws in v1] == [append(line.pk, "hi")] * 2


def test_htmx() -> None:
    """With ``format="htmx"`` the HTML is swapped out of band."""
    with joined("tasks", "changes") as (tasks, changes):
        task = Task.objects.create(text="a")
        task.text = "b"
        task.save()
        pk = task.pk
        task.delete()
        assert received(tasks) == [
            '<div hx-swap-oob="afterbegin:#tasks"><p>a</p>\n</div>',
            f'<p hx-swap-oob="outerHTML:#task-{pk}">b</p>\n',
            f'<div hx-swap-oob="delete:#task-{pk}"></div>',
        ]
        # The other broadcast of this model.
        assert received(changes) == [
            f'<turbo-stream action="replace" target="task-{pk}"><template><p>b</p>\n</template>'
            "</turbo-stream>"
        ]


def test_move(rooms: list[ClientWebSocket]) -> None:
    """A row that moves leaves its old group and enters the new one."""
    line = existing()
    line.room_id = 2
    line.save()
    assert received(rooms[0]) == [remove(line.pk)]
    assert received(rooms[1]) == [append(line.pk, "hi")]


def test_containers() -> None:
    """A row that moves to another container is removed, and added there."""
    with joined("board") as (board,):
        cell = Cell.objects.create(code='<a b:"', column=1)
        cell.column = 2
        cell.save()
        selector = "#cell-\\3c a\\20 b\\3a \\22 "
        cell_html = '<tr id="cell-&lt;a b:&quot;"></tr>\n'
        assert received(board) == [
            f'<tbody hx-swap-oob="beforeend:#column-1">{cell_html}</tbody>',
            f'<div hx-swap-oob="delete:{selector}"></div>',
            f'<tbody hx-swap-oob="beforeend:#column-2">{cell_html}</tbody>',
        ]


def test_no_group(rooms: list[ClientWebSocket]) -> None:
    """A row without a group is shown nowhere, and can appear and disappear."""
    line = Line.objects.create(room_id=1, text="draft")
    line.save()
    assert received(rooms[0]) == []
    line.text = "hi"
    line.save()
    assert received(rooms[0]) == [append(line.pk, "hi")]
    line.text = "draft"
    line.save()
    assert received(rooms[0]) == [remove(line.pk)]
    line.delete()
    assert received(rooms[0]) == []


def test_committed_values(rooms: list[ClientWebSocket]) -> None:
    """What was committed is sent: no field that was not saved, and no expression."""
    line = existing(hits=1)
    line.text = "not saved"
    line.hits = F("hits") + 1
    line.save(update_fields=["hits"])
    assert received(rooms[0]) == [replace(line.pk, "hi", 2)]
    line = Line.objects.only("pk").get()
    line.hits = 3
    line.save(update_fields=["hits"])
    assert received(rooms[0]) == [replace(line.pk, "hi", 3)]


def test_own_key(rooms: list[ClientWebSocket]) -> None:
    """A new instance with the key of a row updates the row."""
    line = existing()
    Line(pk=line.pk, room_id=2, text="other").save()
    assert received(rooms[0]) == [remove(line.pk)]
    assert received(rooms[1]) == [append(line.pk, "other")]


def test_deleted_as_stored(rooms: list[ClientWebSocket]) -> None:
    """A row is removed where it is shown, whatever the fields of the instance say."""
    line, other = existing(), existing()
    pk = line.pk
    line.room_id = 2
    line.delete()
    Line(pk=other.pk).delete()
    assert received(rooms[0]) == [remove(pk), remove(other.pk)]
    assert received(rooms[1]) == []


def test_keys_as_text(rooms: list[ClientWebSocket]) -> None:
    """A key may be given in another type than the database returns, such as that of a form."""
    line = existing()
    with transaction.atomic():
        Line(pk=f"{line.pk}", room_id=2, text="other").save()
        line.save()
    assert received(rooms[0]) == [replace(line.pk, "hi")]
    with joined("tasks", "measures") as (tasks, measures):
        task = Task.objects.create(text="a")
        received(tasks)
        Task(pk=task.pk.hex, text="b").delete()
        assert received(tasks) == [f'<div hx-swap-oob="delete:#task-{task.pk}"></div>']
        Measure.objects.create(device=1, number="2", value=5)
        Measure(device=1, number="2").delete()
        assert received(measures)[1:] == [
            '<turbo-stream action="remove" target="measure-1-2"></turbo-stream>'
        ]
    assert received(rooms[1]) == []


def test_copy(rooms: list[ClientWebSocket]) -> None:
    """A row that is copied as Django recommends is a row of its own, in one transaction, too."""
    with transaction.atomic():
        line = existing()
        first = line.pk
        line.save()
        line.pk, line._state.adding, line.text = None, True, "copy"
        line.save()
    assert received(rooms[0]) == [replace(first, "hi"), append(line.pk, "copy")]


def test_language(rooms: list[ClientWebSocket]) -> None:
    """A row is rendered in the language that was active when it was saved last."""
    rendered.clear()
    with transaction.atomic():
        with translation.override("de"):
            line = Line.objects.create(room_id=1, text="hi")
        Line.objects.create(room_id=1, text="hi")
        with translation.override("de"):
            line.save()
    assert rendered == ["de", "en-us"]


def test_raw(rooms: list[ClientWebSocket]) -> None:
    """Fixtures are not sent."""
    text = serializers.serialize("json", [Line(pk=7, room_id=1, text="hi")])
    for each in serializers.deserialize("json", text):
        each.save()
    assert Line.objects.count() == 1
    assert received(rooms[0]) == []


@pytest.mark.usefixtures("other")
@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_other_database(rooms: list[ClientWebSocket]) -> None:
    """Each database has its own transactions and rows."""
    line = existing()
    Room.objects.using("other").bulk_create([Room(pk=1), Room(pk=2)])
    with transaction.atomic(using="other"):
        twin = Line(pk=line.pk, room_id=2, text="twin")
        twin.save(using="other")
        with transaction.atomic():
            line.text = "first"
            line.save()
        assert received(rooms[0]) == [replace(line.pk, "first")]
        assert received(rooms[1]) == []
    assert received(rooms[1]) == [append(line.pk, "twin")]
    twin.delete()
    assert received(rooms[1]) == [remove(line.pk)]
    broadcast(Line.objects.using("other").bulk_create([Line(pk=9, room_id=1, text="o")]))
    assert received(rooms[0]) == [replace(9, "o")]


def test_exclude(rooms: list[ClientWebSocket]) -> None:
    """The function ``exclude`` gets the instance that was saved."""
    with joined("room.1", subprotocols=("wsmux.v1",)) as (v1,):
        v1.send("my id")
        client_id = v1.receive_json()["data"]["client"]
        line = Line(room_id=1, text="hi")
        line.sender = client_id
        line.save()
        assert received(v1) == []
        assert received(rooms[0]) == [append(line.pk, "hi")]
        line.sender = None
        broadcast(line, exclude=client_id)
        broadcast([line])
        assert content(v1) == replace(line.pk, "hi")
        assert received(v1) == []
        assert len(received(rooms[0])) == 2


def prefix() -> str:
    """Return the prefix of the present tenant."""
    return _tenant[-1]


_tenant = ["one."]


def test_prefix() -> None:
    """After the commit, groups have the prefix that they had at the save."""
    Room.objects.bulk_create([Room(pk=1)])
    with override_settings(WEBSOCKET_GROUP_PREFIX=f"{__name__}.prefix"), joined("room.1") as (ws,):
        line = existing()
        with transaction.atomic():
            line.save()
            _tenant.append("two.")
        line.save()
        _tenant.pop()
        assert received(ws) == [replace(line.pk, "hi")]


# Relations between models


def test_proxy(rooms: list[ClientWebSocket]) -> None:
    """A proxy is sent as its model."""
    line = PinnedLine.objects.create(room_id=1, text="hi")
    pk = line.pk
    line.save()
    line.delete()
    assert received(rooms[0]) == [append(pk, "hi"), replace(pk, "hi"), remove(pk)]


def test_child(rooms: list[ClientWebSocket]) -> None:
    """A model that inherits the table is sent as its parent, and removed once."""
    line = VoiceLine.objects.create(room_id=1, text="hi")
    pk = line.pk
    line.room_id = 2
    line.save()
    line.delete()
    assert received(rooms[0]) == [append(pk, "hi"), remove(pk)]
    assert received(rooms[1]) == [append(pk, "hi"), remove(pk)]
    line = VoiceLine.objects.create(room_id=1, text="hi")
    pk = line.pk
    received(rooms[0])
    line.delete(keep_parents=True)
    assert received(rooms[0]) == [replace(pk, "hi")]
    Line.objects.get().delete()
    assert received(rooms[0]) == [remove(pk)]


def test_extended(rooms: list[ClientWebSocket]) -> None:
    """A row that gets a part in the table of a subclass is the same row."""
    line = existing()
    VoiceLine(line_ptr=line, room_id=1, text="voice").save()
    assert received(rooms[0]) == [replace(line.pk, "voice")]
    other = existing()
    VoiceLine(line_ptr=other, room_id=2, text="moved").save()
    assert received(rooms[0]) == [remove(other.pk)]
    assert received(rooms[1]) == [append(other.pk, "moved")]


def test_abstract() -> None:
    """The models of an abstract base are sent under their own names."""
    with joined("entries") as (entries,):
        note = Note.objects.create(text="hi")
        assert received(entries) == [
            '<turbo-stream action="append" target="notes"><template><p>hi</p>\n</template>'
            "</turbo-stream>"
        ]
        note.delete()
        assert received(entries) == [
            '<turbo-stream action="remove" target="note-1"></turbo-stream>'
        ]


def test_composite_key() -> None:
    """A key of several columns is joined with hyphens."""
    with joined("measures") as (measures,):
        Measure.objects.create(device="a", number=1, value=5)
        measure = Measure.objects.get()
        measure.value = 6
        measure.save()
        measure.delete()
        assert received(measures)[1:] == [
            '<turbo-stream action="replace" target="measure-a-1"><template><p>6</p>\n</template>'
            "</turbo-stream>",
            '<turbo-stream action="remove" target="measure-a-1"></turbo-stream>',
        ]


def test_cascade(rooms: list[ClientWebSocket]) -> None:
    """Rows that are deleted with another, or with a query, are removed."""
    first, second = existing(), existing()
    third = existing(room_id=2)
    Room.objects.get(pk=1).delete()
    assert sorted(map(str, received(rooms[0]))) == [remove(first.pk), remove(second.pk)]
    Line.objects.all().delete()
    assert received(rooms[1]) == [remove(third.pk)]


# Changes without signals


def test_broadcast(rooms: list[ClientWebSocket]) -> None:
    """Rows that were changed without signals are sent when they are named."""
    lines = Line.objects.bulk_create([Line(room_id=1, text=text) for text in ("a", "draft", "c")])
    broadcast(lines, created=True)
    assert received(rooms[0]) == [append(lines[0].pk, "a"), append(lines[2].pk, "c")]
    with transaction.atomic():
        before = list(Line.objects.order_by("pk"))
        broadcast(before)
        Line.objects.filter(text="a").update(room=2)
        Line.objects.filter(text="c").update(text="d")
    assert received(rooms[0]) == [remove(lines[0].pk), replace(lines[2].pk, "d")]
    assert received(rooms[1]) == [append(lines[0].pk, "a")]
    with transaction.atomic():
        broadcast(Line.objects.all())
        connections["default"].cursor().execute("DELETE FROM lines_line")
    assert received(rooms[0]) == [remove(lines[2].pk)]
    assert received(rooms[1]) == [remove(lines[0].pk)]


def test_broadcast_errors() -> None:
    """Only rows of models with ``@broadcasts`` can be sent, and they need a key."""
    with pytest.raises(TypeError, match="Room has no @broadcasts"):
        broadcast(Room(pk=1))
    with pytest.raises(ValueError, match="has no primary key"):
        broadcast(Line(room_id=1))


# Errors


def test_errors(rooms: list[ClientWebSocket], caplog: pytest.LogCaptureFixture) -> None:
    """An error of a template or a function is logged and counted, and breaks nothing else."""
    before = counters["html_failed"]
    ran: list[str] = []
    with transaction.atomic():
        transaction.on_commit(lambda: ran.append("first"))
        Broken.objects.create(text="a")
        transaction.on_commit(lambda: ran.append("last"))
        line = Line.objects.create(room_id=1, text="hi")
    assert ran == ["first", "last"]
    assert received(rooms[0]) == [append(line.pk, "hi")]
    assert counters["html_failed"] == before + 1
    (record,) = caplog.records
    assert record.getMessage() == "HTML for lines.Broken 1 was not sent"
    assert record.exc_info
    assert isinstance(record.exc_info[1], ArithmeticError)


def test_errors_of_functions(
    rooms: list[ClientWebSocket], caplog: pytest.LogCaptureFixture
) -> None:
    """A function that fails does not keep a row from being saved."""
    (rule,) = (rule for rule in _rules if rule.group is room_of)
    lines = [existing(), existing()]

    def fail(line: Any) -> Any:
        raise ArithmeticError

    for name in ("group", "exclude"):
        kept = getattr(rule, name)
        object.__setattr__(rule, name, fail)
        try:
            lines[0].save()
            lines.pop(0).delete()
        finally:
            object.__setattr__(rule, name, kept)
        names = {record.getMessage() for record in caplog.records}
        assert "HTML for lines.Line was not sent" in names
        caplog.clear()
    # Without ``exclude``, everyone gets it.
    assert len(received(rooms[0])) == 2
    assert Line.objects.count() == 0


def test_unknown_place(rooms: list[ClientWebSocket]) -> None:
    """If it is not known where a row was shown, it counts as one that has not moved."""
    (rule,) = (rule for rule in _rules if rule.group is room_of)
    line = existing()
    failures = [ArithmeticError()]

    def fail_once(line: Line) -> str | None:
        if failures:
            raise failures.pop()
        return room_of(line)

    object.__setattr__(rule, "group", fail_once)
    try:
        line.save()
    finally:
        object.__setattr__(rule, "group", room_of)
    assert received(rooms[0]) == [replace(line.pk, "hi")]


def test_errors_of_databases() -> None:
    """An error of the database is raised: the transaction may not go on."""
    (rule,) = (rule for rule in _rules if rule.group is room_of)
    Room.objects.bulk_create([Room(pk=1)])
    line = existing()

    def fail(line: Line) -> str:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT nothing")
        return "room.1"

    object.__setattr__(rule, "group", fail)
    try:
        with pytest.raises(DatabaseError, match="nothing"):
            line.save()
    finally:
        object.__setattr__(rule, "group", room_of)


def test_decoration() -> None:
    """Wrong arguments are errors where the model is declared."""

    def declare(**arguments: Any) -> None:
        broadcasts(**{"group": "a", "template": "a.html"} | arguments)(Room)

    wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (TypeError, r'on=\("create",\)', {"on": "create"}),
        (ValueError, "must be one or more of create, update, delete", {"on": ["save"]}),
        (ValueError, "must be one or more of", {"on": ()}),
        (ValueError, "format='html' must be one of turbo, htmx", {"format": "html"}),
        (TypeError, r'template is missing: only on=\("delete",\)', {"template": None}),
        (TypeError, "template is missing", {"template": None, "on": ["delete", "update"]}),
        (TypeError, "template=5 must be the name", {"template": 5}),
        (TypeError, "group=5 must be a name, or a function", {"group": 5}),
        (ValueError, "group name '@a'", {"group": "@a"}),
        (ValueError, "target must be the id", {"container": "#lines"}),
        (TypeError, "container=5 must be an id", {"container": 5}),
        (ValueError, "insert='first' must be one of append, prepend", {"insert": "first"}),
        (TypeError, "exclude='x' must be a function", {"exclude": "x"}),
    ]
    before = len(_rules)
    for kind, problem, arguments in wrong:
        with pytest.raises(kind, match=problem):
            declare(**arguments)
    not_a_model: Any = object
    with pytest.raises(TypeError, match="decorates models"):
        broadcasts(group="a", template="a.html")(not_a_model)
    assert len(_rules) == before


def test_existing_subclasses(rooms: list[ClientWebSocket]) -> None:
    """A model can be decorated when its subclasses exist: only deletions, without a template."""

    class Late(models.Model):
        class Meta:
            app_label = "tests"
            db_table = "lines_room"

    class LateProxy(Late):
        class Meta:
            app_label = "tests"
            proxy = True

    broadcasts(group="late", on=("delete",))(Late)
    with joined("late") as (ws,):
        LateProxy(pk=3).save()
        LateProxy(pk=3).delete()
        assert received(ws) == ['<turbo-stream action="remove" target="late-3"></turbo-stream>']


def test_queries(rooms: list[ClientWebSocket]) -> None:
    """A row is read once before it may move, and once after the commit with all others."""
    line = existing()
    with CaptureQueriesContext(connections["default"]) as queries, transaction.atomic():
        for _ in range(3):
            line.save()
        for number in range(5):
            Line.objects.create(room_id=1, text=f"{number}")
    selects = [each["sql"] for each in queries.captured_queries if "SELECT" in each["sql"]]
    assert len(selects) == 2
    # A row whose key Python makes is new.
    with CaptureQueriesContext(connections["default"]) as queries:
        Task.objects.create(text="a")
    selects = [each["sql"] for each in queries.captured_queries if "SELECT" in each["sql"]]
    assert len(selects) == 1
    with CaptureQueriesContext(connections["default"]) as queries:
        broadcast(Line.objects.all())
    assert len(queries.captured_queries) == 2
