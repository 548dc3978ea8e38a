"""The documents: one of TypeScript, one of JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from .fields import Schema
from .records import JSON, Definitions
from .typescript import interface, property_name, type_of
from .views import MessageTypes, View, types_of

__all__ = ["json_schema", "typescript"]

_HEADER: Final = "Made by manage.py websocketschema --format {}. Do not edit."

# An integer may be a ref, too, but not if it is written as 1.0.
_REF: Final[Schema] = {"type": "string", "maxLength": 64}


def typescript(views: Sequence[View]) -> str:
    """Return a module with interfaces that type the client's ``connect()``.

    Raises:
        TypeError: a return annotation is not supported.
    """
    definitions = Definitions()
    definitions.name("Json")  # like a dataclass of this name in JSON Schema
    found = types_of(views, definitions)
    parts = [f"// {_HEADER.format('typescript')}\n"]
    for types in found:
        parts.append(_comment(types) + _messages(f"{types.name}Sends", types.sends))
        parts.append(_messages(f"{types.name}Receives", types.receives))
        parts.append(_messages(f"{types.name}Replies", types.replies))
    for name, schema in sorted(definitions.schemas.items()):
        if schema:
            parts.append(interface(name, schema))
    return "\n".join(parts)


def _comment(types: MessageTypes) -> str:
    view = types.view
    where = ", ".join(f"/{route}" for route in sorted(set(view.routes))).replace("*/", "* /")
    return f"/** {view.path}: {where} */\n"


def _messages(name: str, messages: dict[str, Schema] | None) -> str:
    if messages is None:
        return f"export type {name} = {{ [name: string]: any }};\n"
    lines = [f"  {property_name(kind)}: {type_of(each)};\n" for kind, each in messages.items()]
    return f"export interface {name} {{\n{''.join(lines)}}}\n"


def json_schema(views: Sequence[View]) -> str:
    """Return a document of JSON Schema, draft 2020-12.

    Raises:
        TypeError: a return annotation is not supported.
    """
    definitions = Definitions()
    definitions.name("Json")
    found = types_of(views, definitions)
    schemas: dict[str, Schema] = {}
    for types in found:
        schemas[f"{types.name}Sends"] = _union(types.sends, {"ref": _REF})
        schemas[f"{types.name}Receives"] = _union(types.receives, {})
        schemas[f"{types.name}Replies"] = {
            "type": "object",
            "properties": types.replies,
            "required": list(types.replies),
        }
    others = {name: schema for name, schema in definitions.schemas.items() if schema}
    schemas.update(sorted(others.items()))
    document: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": _HEADER.format("jsonschema"),
        "$defs": {**schemas, "Json": JSON},
    }
    return json.dumps(document, indent=2) + "\n"


def _union(messages: dict[str, Schema] | None, more: Schema) -> Schema:
    """Return the schema of a message of one of several types."""
    if messages is None:
        return {"type": "object"}
    options = []
    for kind, schema in messages.items():
        properties = {"type": {"const": kind}, **more, **schema["properties"]}
        options.append(
            {**schema, "properties": properties, "required": ["type", *schema["required"]]}
        )
    return {"anyOf": options} if options else {"not": {}}
