"""What a view remembers comes back equal and with the same type, or is refused by name."""

from __future__ import annotations

import enum
import json
import math
import threading
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.auth.models import Group as UserGroup
from django.contrib.sessions.models import Session
from django.db import connection, connections
from django.db.models import Model
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from django_wsmux.groups import Group
from django_wsmux.handlers import view_state
from django_wsmux.handlers.view_state import CannotCarry, Gone
from django_wsmux.views import WebSocketView
from tests.support import TIMES

ZONES = [
    None,
    UTC,
    timezone(timedelta(hours=5, minutes=30)),
    timezone(timedelta(0), "GMT"),
    ZoneInfo("Europe/Berlin"),
    ZoneInfo("UTC"),
]

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.sampled_from(ZONES))
    | st.dates()
    | st.times(timezones=st.sampled_from(ZONES))
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.builds(Group, st.from_regex(r"[a-z.$]{1,9}", fullmatch=True))
)
KEYS = st.recursive(SCALARS, lambda each: st.tuples(each, each), max_leaves=3)
VALUES = st.recursive(
    SCALARS,
    lambda each: (
        st.lists(each)
        | st.lists(each).map(tuple)
        | st.sets(KEYS)
        | st.dictionaries(st.text() | st.sampled_from(["$set", "$dict", "$x", "$"]), each)
        | st.dictionaries(KEYS, each)
    ),
    max_leaves=20,
)


class Board(WebSocketView):
    """A view with the default state."""


def carried(value: Any, instances: Any = None) -> Any:
    """Return a value as it arrives in another process."""
    packed = json.loads(json.dumps(view_state.encode(value, "value")))
    return view_state.decode(packed, instances)


def shape(value: Any) -> Any:
    """Return something that is equal only for equal values of the same types, nested ones too."""
    kind = type(value)
    if kind in (list, tuple):
        return kind, [shape(each) for each in value]
    if kind is set:
        return kind, {repr(shape(each)) for each in value}
    if kind is dict:
        return kind, [(shape(key), shape(each)) for key, each in value.items()]
    if isinstance(value, (datetime, time)):
        # Equal moments may have different zones, and two zones of one class may be equal.
        return kind, repr(value), repr(value.tzinfo), value.fold
    return kind, hex(value) if kind is int else repr(value)


@settings(max_examples=50 * TIMES, deadline=None)
@given(VALUES)
@example({"$set": 1})
@example({True: 1, "1": 2})
@example([10**5000, -(10**5000), 2**64, -(2**63)])
@example([math.inf, -math.inf, 0.0, -0.0, Decimal("-0.00"), Decimal("1E+999999")])
@example(datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")))
@example(["\ud800", "\0", mark_safe("x") + ""])
def test_round_trip(value: Any) -> None:
    """Every value of the listed types comes back equal, of the same type, in the same order."""
    again = carried(value)
    assert shape(again) == shape(value)
    assert again == value


Point = namedtuple("Point", "x y")


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    ANN = "ann"


class Text(str):
    pass


class Number(int):
    pass


class Moment(datetime):
    pass


class Zone(tzinfo):
    """A zone of a project's own, like those of pytz."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(0)

    dst = utcoffset

    def tzname(self, when: datetime | None) -> str:
        return "own"


class OwnGroup(Group):
    pass


REFUSED = {
    "nan": math.nan,
    "decimal nan": Decimal("nan"),
    "signaling nan": Decimal("snan"),
    "str": Text("x"),
    "safe": mark_safe("x"),
    "int": Number(1),
    "enum": Color.RED,
    "int enum": Level.LOW,
    "str enum": Name.ANN,
    "lazy": gettext_lazy("Yes"),
    "lazy object": SimpleLazyObject(lambda: [1]),
    "named tuple": Point(1, 2),
    "datetime": Moment(2026, 1, 1),
    "zone": datetime(2026, 1, 1, tzinfo=Zone()),
    "zone of a time": time(1, tzinfo=Zone()),
    "other zone": datetime(2026, 1, 1, tzinfo=ZoneInfo.no_cache("Europe/Berlin")),
    "frozenset": frozenset([1]),
    "bytearray": bytearray(b"x"),
    "complex": 1j,
    "fraction": Fraction(1, 2),
    "ordered": OrderedDict(a=1),
    "default": defaultdict(list),
    "function": len,
    "lambda": lambda: 1,
    "class": int,
    "object": object(),
    "lock": threading.Lock(),
    "generator": (each for each in "x"),
    "range": range(3),
    "anonymous": AnonymousUser(),
    "namespace": SimpleNamespace(),
    "group": OwnGroup("x"),
    "unsaved": User(username="x"),
    "unsaved with key": User(pk=5),
    "error": ValueError("x"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    """Any other type is refused, however deeply nested; the attribute and its class are named."""
    for value, place in [
        (REFUSED[kind], "Board.own"),
        ([1, REFUSED[kind]], "Board.own[1]"),
        ({"a": ({5: REFUSED[kind]},)}, "Board.own['a'][0][5]"),
    ]:
        view = Board()
        view.other, view.own = [1, 2], value  # type: ignore[attr-defined]
        with pytest.raises(CannotCarry) as refused:
            view_state.pack(view)
        assert str(refused.value).startswith(f"{place} ")
        assert "0x" not in str(refused.value)


def test_refused_key() -> None:
    """A key of a dictionary and an element of a set are named, too; no repr() runs."""
    for value, place in [
        ({Level.LOW: 1}, "value (the key [...])"),
        ({"a": {Color.RED}}, "value['a']{...}"),
    ]:
        with pytest.raises(CannotCarry) as refused:
            view_state.encode(value, "value")
        assert str(refused.value).startswith(f"{place} is of type ")


def test_endless() -> None:
    """A list that contains itself is refused, and so is one that is nested without an end."""
    endless: list[Any] = []
    endless.append({"again": endless})
    view = Board()
    view.own = endless  # type: ignore[attr-defined]
    with pytest.raises(CannotCarry, match=r"^Board.own.*nested too deeply, or contains itself"):
        view_state.pack(view)
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    assert carried(deep) == deep


def test_shared() -> None:
    """What two places share becomes equal, separate objects, except a row, which is one object."""
    shared = [1]
    first, second = carried([shared, shared])
    assert first == second
    assert first is not second


def test_unknown_tag() -> None:
    """A tag of a newer version is an error, also when only references are wanted."""
    for read in (view_state.decode, view_state.references):
        with pytest.raises(ValueError, match="unknown tag \\$new"):
            read([{"$new": 1}])


# Model instances


@pytest.fixture
def other(django_db_setup: None, django_db_blocker: Any) -> Iterator[str]:
    """Another database, with a table of user groups; return its alias."""
    connections.settings["other"] = {**connections.settings["default"], "NAME": ":memory:"}
    # The mark of pytest-django allows no database that is added later.
    with django_db_blocker.unblock():
        try:
            with connections["other"].schema_editor() as editor:
                editor.create_model(UserGroup)
            yield "other"
        finally:
            UserGroup.objects.all().delete()
            connections["other"].close()
            del connections["other"], connections.settings["other"]


@pytest.mark.django_db
def test_instances() -> None:
    """An instance is read again; a place that held the same row holds the same object."""
    ann = User.objects.create(username="ann", first_name="Ann")
    value = {"user": ann, "seen": [ann, (ann, {ann.pk: "x"})], "users": {ann}}
    packed = json.loads(json.dumps(view_state.encode(value, "value")))
    User.objects.update(first_name="Anna")
    with CaptureQueriesContext(connection) as queries:
        again = view_state.decode(packed)
    assert len(queries) == 1
    assert again == value
    assert type(again["user"]) is User
    assert again["user"] is not ann
    assert again["user"] is again["seen"][0] is again["seen"][1][0]
    assert again["user"].first_name == "Anna"
    assert again["user"]._state.db == "default"


@pytest.mark.django_db
def test_lazy_user() -> None:
    """``request.user`` is a lazy object: it is carried as the user if it was read."""
    ann = User.objects.create(username="ann")
    lazy = SimpleLazyObject(lambda: ann)
    with pytest.raises(CannotCarry, match="value is a lazy object that was not read yet"):
        view_state.encode(lazy, "value")
    assert lazy.username == "ann"
    assert carried(lazy) == ann
    assert type(carried(lazy)) is User


@pytest.mark.django_db
def test_other_keys() -> None:
    """A primary key may be of any type that is carried."""
    session = Session.objects.create(session_key="k", expire_date=datetime(2026, 1, 1, tzinfo=UTC))
    assert carried(session) == session


def test_other_database(other: str) -> None:
    """An instance is read from the database that it came from."""
    here = UserGroup.objects.create(pk=1, name="here")
    there = UserGroup.objects.using(other).create(pk=1, name="there")
    again = carried([here, there])
    assert [each.name for each in again] == ["here", "there"]
    assert again[1]._state.db == other


@pytest.mark.django_db
def test_deferred() -> None:
    """An instance with deferred fields comes back whole, without queries when it is packed."""
    User.objects.create(username="ann", email="ann@example.com")
    ann = User.objects.only("username").get()
    with CaptureQueriesContext(connection) as queries:
        packed = view_state.encode(ann, "value")
    assert not queries
    again = view_state.decode(packed)
    assert again == ann
    assert not again.get_deferred_fields()


@pytest.mark.django_db
def test_gone() -> None:
    """A row that was deleted is an error that names it; so is one missing in the batch."""
    ann = User.objects.create(username="ann")
    packed = view_state.encode([ann], "value")
    (reference,) = view_state.references(packed)
    with pytest.raises(Gone, match=r"auth.User .* is not in the database 'default' any more"):
        view_state.decode(packed, {})
    User.objects.all().delete()
    with pytest.raises(Gone, match=f"auth.User {reference[2]} is not in"):
        view_state.decode(packed)
    ann.delete()
    with pytest.raises(CannotCarry, match=r"value is a auth.User that is not stored"):
        view_state.encode(ann, "value")


@pytest.mark.django_db
def test_batches() -> None:
    """Instances that were read for a batch of views are used; each view gets its own objects."""
    ann, bob = (User.objects.create(username=name) for name in ("ann", "bob"))
    packed = json.loads(json.dumps(view_state.encode({"a": ann, "b": [bob, {bob}]}, "value")))
    wanted = view_state.references(packed)
    assert wanted == {("default", "auth.User", ann.pk), ("default", "auth.User", bob.pk)}
    read = User._base_manager.using("default").in_bulk([pk for *_, pk in wanted])
    instances: dict[view_state.Reference, Model] = {
        (alias, label, pk): read[pk] for alias, label, pk in wanted
    }
    with CaptureQueriesContext(connection) as queries:
        one = view_state.decode(packed, instances)
        two = view_state.decode(packed, instances)
    assert not queries
    assert one == two == {"a": ann, "b": [bob, {bob}]}
    one["a"].username = "changed"
    assert two["a"].username == "ann"
    one["a"]._state.db = "changed"
    assert two["a"]._state.db == "default"


def test_unknown_model() -> None:
    """A model that the new code does not have is an error before anything is read."""
    with pytest.raises(ValueError, match=r"the state of a view names the model auth\.Nothing"):
        view_state.references({"$model": ["default", "auth.Nothing", 1]})


# Views


def test_view() -> None:
    """A view with the default methods has the same attributes afterwards, private ones too."""
    view = Board()
    view.room, view._seen, view.at = Group("room"), {1, 2}, (date(2026, 1, 1),)  # type: ignore[attr-defined]
    packed = json.loads(json.dumps(view_state.pack(view)))
    again = Board()
    view_state.unpack(again, packed)
    assert vars(again) == vars(view)


def test_options() -> None:
    """An option of ``as_view()`` stays with the code, unless the view has changed it."""
    view = Board(authenticators=[len], subprotocols=["a"], compression=False)
    view.room = "x"  # type: ignore[attr-defined]
    view.subprotocols = ["b"]
    assert view_state.pack(view) == {"room": "x", "subprotocols": ["b"]}


def test_attributes_of_django() -> None:
    """What ``setup()`` sets does not move."""

    class Both(WebSocketView):
        def get(self, request: Any) -> None: ...

    view = Both()
    view.setup(RequestFactory().get("/"), 1, a=2)
    assert {"args", "head", "kwargs", "request", "websocket"} <= vars(view).keys()
    assert view_state.pack(view) == {}


def test_state_without_restoring() -> None:
    """A state that the default ``restore_handover()`` cannot set is an error that says so."""

    class Half(WebSocketView):
        def handover_state(self) -> Any:
            return [1]

    with pytest.raises(TypeError, match=r"Half.handover_state\(\) returned list: define restore"):
        view_state.unpack(Half(), view_state.pack(Half()))


class Counted(WebSocketView):
    """A view that says what moves."""

    def handover_state(self) -> Any:
        return self.state  # type: ignore[attr-defined]

    def restore_handover(self, state: Any) -> None:
        self.restored = state


@pytest.mark.parametrize("state", [None, 5, [1], {"a": UUID(int=1)}, {1: 2}, {"$set": 1}])
def test_own_state(state: Any) -> None:
    """``restore_handover()`` gets exactly what ``handover_state()`` has returned."""
    view, again = Counted(), Counted()
    view.state = state  # type: ignore[attr-defined]
    view_state.unpack(again, json.loads(json.dumps(view_state.pack(view))))
    assert shape(again.restored) == shape(state)
    assert not hasattr(again, "state")


def test_own_state_refused() -> None:
    """What is wrong in a state of the view's own is named, and so is an error that it raises."""
    view = Counted()
    view.state = [len]  # type: ignore[attr-defined]
    with pytest.raises(CannotCarry, match=r"^Counted.handover_state\(\)\[0\] is of type builtins"):
        view_state.pack(view)
    del view.state  # type: ignore[attr-defined]
    with pytest.raises(CannotCarry, match=r"Counted.handover_state\(\) raised AttributeError"):
        view_state.pack(view)
