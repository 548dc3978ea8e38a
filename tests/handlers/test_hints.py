"""Type hints that are not supported: errors that say what to write."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from enum import Enum
from typing import Any, Generic, Literal, TypeVar

import pytest
from typing_extensions import TypeAliasType

from django_wsmux.handlers.hints import check_of, record_of
from django_wsmux.handlers.json_values import Problems
from tests.handlers.test_json_values import Point, Range


@dataclass
class Unsupported:
    bare: list  # type: ignore[type-arg]


@dataclass
class Sets:
    inner: dict[str, list[set[int]]]


@dataclass
class Keys:
    keys: dict[int, str]


@dataclass
class Unknown:
    model: Missing  # type: ignore[name-defined]  # noqa: F821


@dataclass
class Initialized:
    init: InitVar[int]


T = TypeVar("T")


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Boxes:
    box: Box[int]


@dataclass
class Lists:
    lists: list[int] | list[str]


@dataclass
class Untagged:
    either: Point | Range


@dataclass
class MapOrRecord:
    either: Point | dict[str, int]


@dataclass
class Bytes:
    data: bytes


class Empty(Enum):
    pass


class Halves(Enum):
    HALF = 0.5


@pytest.mark.parametrize(
    ("dataclass", "message"),
    [
        (Unsupported, r"test_hints.Unsupported.bare: .* list is not supported: write list\[str\]"),
        (Sets, r"Sets.inner: the type hint set\[int\] is not supported: write list\[str\], say"),
        (Keys, r"Keys.keys: .*: write dict\[str, \.\.\.\], since the keys"),
        (Unknown, r"Unknown: a type hint cannot be evaluated \(name 'Missing' is not defined\)"),
        (Initialized, r"Initialized.init: InitVar is not supported: write a plain field"),
        (Box, r"Box.content: the type hint ~T is not supported: write str, int, float"),
        (Boxes, r"Boxes.box: the type hint .*Box\[int\] is not supported"),
        (Lists, r"Lists.lists: a union of several lists is not supported: write list\[A \| B\]"),
        (Untagged, r'Untagged.either: several objects .*: write kind: Literal\["a"\]'),
        (MapOrRecord, r"MapOrRecord.either: several objects in a union"),
        (Bytes, r"Bytes.data: .*bytes is not supported: write str, and send it in Base64"),
    ],
)
def test_unsupported(dataclass: Any, message: str) -> None:
    """A hint that is not supported is an error that names the field and what to write."""
    with pytest.raises(TypeError, match=message):
        record_of(dataclass)


@pytest.mark.parametrize("hint", [Empty, Halves, Literal[b"a"], tuple[int, int], "text", 5, object])
def test_unsupported_hint(hint: Any) -> None:
    """The same holds for a hint that belongs to no dataclass."""
    with pytest.raises(TypeError, match="place: "):
        check_of(hint, "place")


Ids = TypeAliasType("Ids", int | list[int])


def test_alias() -> None:
    """The name of a type may be in the place of the type."""
    for value in (1, [1]):
        assert check_of(Ids | None, "").check(value, None, Problems()) == value


def test_endless() -> None:
    """A hint without an end, as an alias that contains itself has none, is an error."""
    hint: Any = int
    for _ in range(5000):
        hint = list[hint]
    with pytest.raises(TypeError, match="place: the type hint is nested too deeply"):
        check_of(hint, "place")
