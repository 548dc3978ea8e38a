"""Dataclasses: what a schema accepts, the dataclass accepts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, make_dataclass
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings

from django_wsmux.handlers.hints import check_of, record_of
from django_wsmux.handlers.json_values import INVALID, MAX_DEPTH, Problems
from django_wsmux.schema.records import JSON, Definitions
from tests.handlers.test_json_values import Everything, Point, Tree
from tests.support import TIMES

from .values import accepted, validator

#: As in test_fields.py.
VALUES = 5 * TIMES


@dataclass
class Json:
    """A dataclass with a name that the definitions need."""

    value: Any = None
    computed: int = field(init=False, default=5)


@dataclass
class Tagged:
    kind: Literal["tagged"] = "tagged"


@dataclass
class Other:
    kind: Literal["other"] = "other"


def document_of(hint: Any, *, is_input: bool) -> dict[str, Any]:
    """Return a schema with its definitions."""
    definitions = Definitions()
    definitions.schemas["Json"] = JSON
    schema = definitions.schema_of(check_of(hint, ""), is_input=is_input)
    return {**schema, "$defs": definitions.schemas}


@pytest.mark.parametrize("name", record_of(Everything).fields)
def test_accepted(name: str) -> None:
    """Whatever the schema of a field accepts, the dataclass accepts."""
    hint = record_of(Everything).fields[name].check
    definitions = Definitions()
    definitions.schemas["Json"] = JSON
    schema = definitions.schema_of(hint, is_input=True)

    @settings(
        max_examples=VALUES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(accepted(schema, {"$defs": definitions.schemas}))
    def check(value: Any) -> None:
        problems = Problems()
        found = hint.check(json.loads(json.dumps(value)), None, problems)
        assert found is not INVALID, problems.found

    check()


def test_usual_values() -> None:
    """The schema accepts what clients send, with and without defaults."""
    document = document_of(Tree, is_input=True)
    check = validator({"$ref": document["$ref"]}, document)
    good: list[Any] = [
        {"name": "a"},
        {"name": "a", "children": [{"name": "b", "shape": None}]},
        {"name": "a", "extra": {"x": 5, "y": {"name": ""}}},
        {"name": "a", "shape": {"kind": "circle", "radius": 1}},
    ]
    bad: list[Any] = [
        {},
        {"name": 5},
        {"name": "\x00"},
        {"name": "a", "unknown": 1},
        {"name": "a", "shape": {"radius": 1}},
        {"name": "a", "extra": {"x": "y"}},
    ]
    for data in good:
        check.validate(data)
    assert not any(map(check.is_valid, bad))


def test_names() -> None:
    """What clients send and what they get have names of their own; names are unique."""
    definitions = Definitions()
    definitions.name("Json")
    for is_input in (True, False):
        definitions.schema_of(record_of(Json), is_input=is_input)
        definitions.schema_of(record_of(Point), is_input=is_input)
        definitions.schema_of(record_of(Point), is_input=is_input)
    assert list(definitions.schemas) == ["Json", "JsonInput", "PointInput", "Json2", "Point"]
    assert definitions.schemas["PointInput"]["required"] == ["x"]
    assert definitions.schemas["Point"]["required"] == ["x", "y"]
    assert "computed" not in definitions.schemas["JsonInput"]["properties"]
    assert definitions.schemas["Json2"]["required"] == ["value", "computed"]


def test_odd_names() -> None:
    """Names that TypeScript does not accept are changed."""
    definitions = Definitions()
    hints = [
        make_dataclass(name, [("x", int)]) for name in ("string", "chess-move", "1st", "Größe")
    ]
    for hint in hints:
        definitions.schema_of(record_of(hint), is_input=False)
    assert list(definitions.schemas) == ["String", "Chess_move", "_1st", "Größe"]


def test_tags() -> None:
    """A union requires the field that tells its dataclasses apart, although it has a default."""
    definitions = Definitions()
    definitions.schema_of(record_of(Tagged), is_input=True)
    definitions.schema_of(check_of(Tagged | Other, ""), is_input=True)
    assert definitions.schemas["TaggedInput"]["required"] == []
    assert definitions.schemas["TaggedInput2"]["required"] == ["kind"]


def test_depth() -> None:
    """Values may be nested as deeply as the manual says."""
    value: Any = {"name": ""}
    for _ in range(MAX_DEPTH // 2 - 1):
        value = {"name": "", "children": [value]}
    document = document_of(Tree, is_input=True)
    validator({"$ref": document["$ref"]}, document).validate(value)
    assert record_of(Tree).check(value, None, Problems()) is not INVALID
