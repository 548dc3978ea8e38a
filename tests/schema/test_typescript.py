"""Types from schemas."""

from __future__ import annotations

from typing import Any

import pytest

from django_wsmux.schema.typescript import interface, type_of


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, "unknown"),
        ({"not": {}}, "never"),
        ({"type": "string", "pattern": "a"}, "string"),
        ({"type": ["integer", "null"]}, "number | null"),
        ({"type": ["number", "integer"]}, "number"),
        ({"type": "boolean", "enum": [True]}, "true"),
        ({"enum": ["a", 1, None, '"']}, r'"a" | 1 | null | "\""'),
        ({"type": "array", "items": {"type": "string"}}, "string[]"),
        ({"type": "array", "items": {"type": ["string", "null"]}}, "(string | null)[]"),
        ({"type": "object", "additionalProperties": {"type": "null"}}, "{ [name: string]: null }"),
        ({"type": "object", "properties": {}}, "{}"),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b-c": {}},
                "required": ["a"],
            },
            '{ a: string; "b-c"?: unknown }',
        ),
        ({"$ref": "#/$defs/Point"}, "Point"),
        ({"$ref": "#/$defs/Json"}, "unknown"),
        ({"type": ["object", "array", "null"], "$ref": "#/$defs/Json"}, "object | null"),
        ({"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Point"}]}, "string | Point"),
        ({"type": ["string", "null"], "anyOf": [{"maxLength": 0}]}, "string | null"),
    ],
)
def test_type_of(schema: dict[str, Any], expected: str) -> None:
    """Each schema has a type."""
    assert type_of(schema) == expected


def test_interface() -> None:
    """An object becomes an interface."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": []}
    assert interface("A", schema) == "export interface A {\n  a?: string;\n}\n"
