"""Values that fit a type, values that do not, and that no value of a peer raises."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from datetime import time as clock
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone
from hypothesis import example, given, settings
from hypothesis import strategies as st

from django_wsmux.handlers.hints import check_of, record_of
from django_wsmux.handlers.json_values import (
    INVALID,
    MAX_DEPTH,
    MAX_ERRORS,
    Check,
    ListOf,
    MapOf,
    Problems,
)
from tests.handlers.test_json_forms import VALUES
from tests.support import TIMES


class Color(Enum):
    RED = "red"
    NONE = None
    TWO = 2


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Side(StrEnum):
    LEFT = "left"


UserId = NewType("UserId", int)


@dataclass
class Point:
    x: int
    y: float = 0


@dataclass
class Circle:
    radius: float
    kind: Literal["circle"] = "circle"


@dataclass
class Square:
    kind: Literal["square"]
    side: float = 1


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)
    shape: Circle | Square | None = None
    extra: dict[str, Tree | int] = field(default_factory=dict)


@dataclass
class Range:
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValidationError({"high": ValidationError("too low", code="order")})
        if self.low < 0:
            raise ValidationError("negative", code="negative")


@dataclass
class Everything:
    """A field of each kind."""

    flag: bool
    whole: int
    number: float
    text: str
    moment: datetime
    day: date
    hour: clock
    money: Decimal
    key: UUID
    color: Color
    level: Level
    side: Side
    literal: Literal["a", 1, None, Color.RED]
    items: list[int]
    named: dict[str, float]
    point: Point
    tree: Tree
    shape: Circle | Square
    mixed: int | str | list[str] | Point | None
    moments: datetime | date | str
    anything: Any
    user: UserId
    noted: Annotated[int, "a note"]
    nothing: None


def checked(hint: Any, value: Any) -> Any:
    """Return the value for a view, or the errors in the format of forms."""
    problems = Problems()
    found = check_of(hint, "place").check(value, None, problems)
    assert (found is INVALID) == bool(problems.found)
    if found is not INVALID:
        return found
    return {
        path: [(str(each.messages[0]), each.code) for each in errors]
        for path, errors in problems.found.items()
    }


def codes(hint: Any, value: Any) -> Any:
    """Return the error codes by path; the value itself if there are none."""
    found = checked(hint, value)
    if not isinstance(found, dict):
        return found
    return {path: [each[1] for each in errors] for path, errors in found.items()}


MOMENT = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (bool, True, True),
        (int, 5, 5),
        (int, 5.0, 5),
        (int, 10**100, 10**100),
        (float, 5, 5.0),
        (float, 1.5, 1.5),
        (str, "", ""),
        (str, "\U0001f600", "\U0001f600"),
        (datetime, "2026-05-01T12:00:00Z", MOMENT),
        (datetime, "2026-05-01T14:00:00.000+02:00", MOMENT),
        (date, "2026-05-01", date(2026, 5, 1)),
        (clock, "12:30", clock(12, 30)),
        (Decimal, "1.50", Decimal("1.50")),
        (Decimal, 1.5, Decimal("1.5")),
        (Decimal, 2, Decimal(2)),
        (UUID, "00000000-0000-0000-0000-0000000000Ab", UUID(int=0xAB)),
        (Color, "red", Color.RED),
        (Color, None, Color.NONE),
        (Color, 2.0, Color.TWO),
        (Level, 1, Level.LOW),
        (Side, "left", Side.LEFT),
        (Literal["a", 1], 1, 1),
        (Literal[Color.RED], "red", Color.RED),
        (None, None, None),
        (int | None, None, None),
        (int | str, "5", "5"),
        (int | str, 5, 5),
        (bool | int, 1, 1),
        (bool | int, True, True),
        (date | str, "2026-05-01", date(2026, 5, 1)),
        (date | str, "tomorrow", "tomorrow"),
        (list[int], [], []),
        (list[int | None], [1, None], [1, None]),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (int | list[int], [1], [1]),
        (Point, {"x": 1}, Point(1)),
        (Point, {"x": 1, "y": 2, "z": "ignored"}, Point(1, 2.0)),
        (Circle | Square, {"kind": "square"}, Square("square")),
        (Circle | Square, {"kind": "circle", "radius": 2}, Circle(2.0)),
        (int | Point, {"x": 1}, Point(1)),
        (UserId, 5, 5),
        (Annotated[int, "a note"], 5, 5),
        (Any, {"a": [None, 1.5, "\x00"]}, {"a": [None, 1.5, "\x00"]}),
        (Any | int, [[]], [[]]),
        (Range, {"low": 1, "high": 2}, Range(1, 2)),
        (Tree, {"name": "a", "children": [{"name": "b"}]}, Tree("a", [Tree("b")])),
    ],
)
def test_fits(hint: Any, value: Any, expected: Any) -> None:
    """A value that fits becomes one of the type that the hint says."""
    found = checked(hint, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (bool, 1, {"__all__": ["invalid"]}),
        (bool, "true", {"__all__": ["invalid"]}),
        (int, True, {"__all__": ["invalid"]}),
        (int, "5", {"__all__": ["invalid"]}),
        (int, 5.5, {"__all__": ["invalid"]}),
        (int, float("inf"), {"__all__": ["invalid"]}),
        (int, None, {"__all__": ["invalid"]}),
        (float, False, {"__all__": ["invalid"]}),
        (float, float("inf"), {"__all__": ["invalid"]}),
        (float, float("nan"), {"__all__": ["invalid"]}),
        (float, 10**400, {"__all__": ["invalid"]}),
        (str, 5, {"__all__": ["invalid"]}),
        (str, "\ud800", {"__all__": ["invalid"]}),
        (str, "a\x00", {"__all__": ["null_characters_not_allowed"]}),
        (datetime, 5, {"__all__": ["invalid"]}),
        (datetime, "tomorrow", {"__all__": ["invalid"]}),
        (datetime, "0001-01-01T00:00:00+00:01", {"__all__": ["invalid"]}),
        (datetime, "9999-12-31T23:59:59-00:01", {"__all__": ["invalid"]}),
        (date, "2026-02-30", {"__all__": ["invalid"]}),
        (clock, "12:30Z", {"__all__": ["invalid"]}),
        (Decimal, True, {"__all__": ["invalid"]}),
        (Decimal, "NaN", {"__all__": ["invalid"]}),
        (Decimal, "1e999999", {"__all__": ["invalid"]}),
        (UUID, "{00000000-0000-0000-0000-000000000000}", {"__all__": ["invalid"]}),
        (Color, "blue", {"__all__": ["invalid_choice"]}),
        (Color, [], {"__all__": ["invalid_choice"]}),
        (Level, True, {"__all__": ["invalid_choice"]}),
        (Literal[1], "1", {"__all__": ["invalid_choice"]}),
        (int | None, "5", {"__all__": ["invalid"]}),
        (list[int], {"a": 1}, {"__all__": ["invalid_list"]}),
        (list[int], ["a", 1, None], {"0": ["invalid"], "2": ["invalid"]}),
        (list[int] | None, ["a"], {"0": ["invalid"]}),
        (dict[str, int], [], {"__all__": ["invalid"]}),
        (dict[str, int], {"a": "b"}, {"a": ["invalid"]}),
        (dict[str, int], {"\ud800": 1}, {"__all__": ["invalid"]}),
        (dict[str, int], {"\x00": 1}, {"__all__": ["null_characters_not_allowed"]}),
        (Point, [], {"__all__": ["invalid"]}),
        (Point, {"y": 1}, {"x": ["required"]}),
        (Point, {"x": None}, {"x": ["invalid"]}),
        (Point | None, {"x": "1"}, {"x": ["invalid"]}),
        (Circle | Square, {}, {"kind": ["required"]}),
        (Circle | Square, {"kind": "line"}, {"kind": ["invalid_choice"]}),
        (Circle | Square, {"kind": "circle"}, {"radius": ["required"]}),
        (Circle | Square, 5, {"__all__": ["invalid"]}),
        (int | date, "5", {"__all__": ["invalid"]}),
        (Any, {"\ud800": 1}, {"__all__": ["invalid"]}),
        (Range, {"low": 2, "high": 1}, {"high": ["order"]}),
        (list[Range], [{"low": -2, "high": 1}], {"0": ["negative"]}),
        (
            Tree,
            {"name": "a", "children": [{"children": [], "extra": {"k": {"name": 5}}}]},
            {"children.0.name": ["required"], "children.0.extra.k.name": ["invalid"]},
        ),
    ],
)
def test_does_not_fit(hint: Any, value: Any, expected: Any) -> None:
    """A value that does not fit has errors under the paths of what is wrong."""
    assert codes(hint, value) == expected


def test_time_zone() -> None:
    """A time without an offset is one of the current time zone, where it must exist."""
    with timezone.override("Europe/Berlin"):
        assert codes(datetime, "0001-01-01T00:00:00") == {"__all__": ["invalid"]}
        assert checked(datetime, "2026-05-01T14:00:00") == MOMENT
        assert codes(datetime, "2026-03-29T02:30:00") == {"__all__": ["ambiguous_timezone"]}
        assert codes(datetime | int, "2026-03-29T02:30:00") == {"__all__": ["invalid"]}


def test_many_digits() -> None:
    """A number with more digits than Python converts is an error."""
    assert codes(Decimal, 10**5000) == {"__all__": ["invalid"]}


def test_messages() -> None:
    """The messages are Django's, so they are translated."""
    assert checked(Point, {"x": "a"}) == {"x": [("Enter a whole number.", "invalid")]}


EVERYTHING = list(Everything.__annotations__)


@settings(max_examples=50 * TIMES, deadline=None, database=None)
@example(dict.fromkeys(EVERYTHING, "\ud800"))
@example(dict.fromkeys(EVERYTHING, 10**4000))
@example(dict.fromkeys(EVERYTHING, float("inf")))
@example({name: {"kind": []} for name in EVERYTHING})
@example({name: {"kind": {}, "extra": {"a": True}} for name in EVERYTHING})
@example(dict.fromkeys(EVERYTHING, "0001-01-01"))
@example(dict.fromkeys(EVERYTHING, "9999-12-31T23:59:59.999999"))
@example(dict.fromkeys(EVERYTHING, "0001-01-01T00:00+23:59"))
@given(st.dictionaries(st.sampled_from(EVERYTHING), VALUES, min_size=1))
def test_any_value(message: dict[str, Any]) -> None:
    """No value raises; errors can be sent."""
    problems = Problems()
    assert record_of(Everything).check(message, None, problems) is INVALID  # a field is missing
    for path, errors in problems.found.items():
        json.dumps([path, [str(text) for each in errors for text in each.messages]])


@pytest.mark.parametrize("depth", [10, 60, 64, 65, 900])
def test_deep(depth: int) -> None:
    """Deep nesting is an error, from a fixed depth on."""
    value: Any = {"name": "leaf"}
    for _ in range(depth // 2):
        value = {"name": "", "children": [value]}
    found = checked(Tree, value)
    if depth < MAX_DEPTH:
        assert isinstance(found, Tree)
    else:
        assert [code for errors in found.values() for _, code in errors] == ["too_deep"]


def test_deep_anything() -> None:
    """Anything may be nested as deeply as the parser allows."""
    value: Any = []
    for _ in range(100_000):
        value = [value]
    assert check_of(Any, "").check(value, None, Problems()) is value
    while value:
        value = value.pop()


def test_number_of_errors() -> None:
    """The errors, and the peer's keys in them, are limited."""
    problems = Problems()
    value = {f"{number}".zfill(1000): "a" for number in range(10_000)}
    assert check_of(dict[str, int], "").check(value, None, problems) is INVALID
    assert sum(map(len, problems.found.values())) == MAX_ERRORS
    assert max(map(len, problems.found)) == 64


class Counting(Check):
    """Refuses everything, and counts."""

    calls = 0

    def check(self, value: Any, path: Any, problems: Problems) -> Any:
        self.calls += 1
        problems.add(path, ValidationError("no"))
        return INVALID


@pytest.mark.parametrize("kind", [ListOf, MapOf])
def test_enough_errors(kind: type[ListOf | MapOf]) -> None:
    """After enough errors the rest of a list or an object costs nothing."""
    items = Counting()
    check = ListOf(kind(items))
    value = [[1] * 15 if kind is ListOf else dict.fromkeys(map(str, range(15)))] * 1000
    assert check.check(value, None, Problems()) is INVALID
    assert items.calls == MAX_ERRORS


def test_linear() -> None:
    """A union in a dataclass that contains itself takes no exponential time."""
    value: Any = {"name": "x", "shape": {"kind": "circle"}}
    for _ in range(30):
        value = {"name": "", "extra": {"a": value, "b": 1}}
    started = time.monotonic()
    assert len(checked(Tree, value)) == 1
    assert time.monotonic() - started < 60  # 2 ** 30 steps would take longer
