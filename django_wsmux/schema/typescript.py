"""TypeScript from the JSON Schemas of this package."""

from __future__ import annotations

import json
import re
from typing import Final

from .fields import Schema

__all__ = ["interface", "property_name", "type_of"]

_IDENTIFIER: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")

_PRIMITIVES: Final = {
    "array": "unknown[]",
    "boolean": "boolean",
    "integer": "number",
    "null": "null",
    "number": "number",
    "object": "object",
    "string": "string",
}


def type_of(schema: Schema) -> str:
    """Return the type of a schema.

    Example:
        >>> type_of({"type": "array", "items": {"enum": ["a", 1]}})
        '("a" | 1)[]'
    """
    if "not" in schema:
        return "never"
    if "enum" in schema:
        return _union([json.dumps(each) for each in schema["enum"]])
    kinds = schema.get("type")
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name != "Json":
            return str(name)
        # An object may also be a list.
        return _union([_PRIMITIVES[each] for each in kinds or () if each != "array"]) or "unknown"
    if kinds is None:
        return _union([type_of(each) for each in schema.get("anyOf", ())]) or "unknown"
    return _union([_type(each, schema) for each in ([kinds] if isinstance(kinds, str) else kinds)])


def _type(kind: str, schema: Schema) -> str:
    if kind == "array" and "items" in schema:
        item = type_of(schema["items"])
        return f"({item})[]" if " | " in item else f"{item}[]"
    if kind == "object" and "properties" in schema:
        return _object(schema)
    if kind == "object" and "additionalProperties" in schema:
        return f"{{ [name: string]: {type_of(schema['additionalProperties'])} }}"
    return _PRIMITIVES[kind]


def _union(types: list[str]) -> str:
    return " | ".join(dict.fromkeys(types))


def _object(schema: Schema) -> str:
    members = "; ".join(_members(schema))
    return f"{{ {members} }}" if members else "{}"


def _members(schema: Schema) -> list[str]:
    required = schema.get("required", ())
    return [
        f"{property_name(name)}{'' if name in required else '?'}: {type_of(each)}"
        for name, each in schema["properties"].items()
    ]


def property_name(name: str) -> str:
    """Return the name of a property, with quotes if it needs some."""
    return name if _IDENTIFIER.fullmatch(name) else json.dumps(name)


def interface(name: str, schema: Schema) -> str:
    """Return an interface with a line for each property of an object."""
    lines = [f"  {member};\n" for member in _members(schema)]
    return f"export interface {name} {{\n{''.join(lines)}}}\n"
