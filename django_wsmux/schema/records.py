"""JSON Schemas of dataclasses, by their checks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from django.conf import settings

from ..handlers.json_values import (
    Anything,
    Check,
    Choice,
    ListOf,
    MapOf,
    OneOf,
    Record,
    Scalar,
)
from . import patterns
from .fields import MAX_FLOAT, Schema, text_schema
from .patterns import whole

__all__ = ["JSON", "Definitions", "type_name"]

#: The schema of any JSON value whose texts can be encoded.
JSON: Final[Schema] = {
    "anyOf": [
        {"type": ["null", "boolean", "number"]},
        {"type": "string", "pattern": r"^[^\ud800-\udfff]*$"},
        {"type": "array", "items": {"$ref": "#/$defs/Json"}},
        {
            "type": "object",
            "propertyNames": {"pattern": r"^[^\ud800-\udfff]*$"},
            "additionalProperties": {"$ref": "#/$defs/Json"},
        },
    ]
}


def type_name(described: type[Any]) -> str:
    """Return the name of a class, as one that TypeScript accepts.

    Reserved words of TypeScript, such as ``string``, begin with a small letter.

    Example:
        >>> type_name(make_dataclass("chess-move", []))
        'Chess_move'
    """
    name = re.sub(r"\W|^(?=[0-9])", "_", described.__name__)
    return name[:1].upper() + name[1:]


class Definitions:
    """The dataclasses inside of messages, each with a name.

    A dataclass that clients send has ``Input`` after its name: its defaults may be missing, and
    its texts are limited by patterns. What clients receive is complete.

    Attributes:
        schemas: schemas by name.
    """

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def name(self, wanted: str) -> str:
        """Return a free name: the one wanted, or one with a number."""
        found, number = wanted, 1
        while found in self.schemas:
            number += 1
            found = f"{wanted}{number}"
        self.schemas[found] = {}
        return found

    def schema_of(self, check: Check, *, is_input: bool) -> Schema:
        """Return the schema of a value.

        Args:
            check: the check of the value.
            is_input: whether clients send the value.
        """
        if isinstance(check, Scalar):
            return (_INPUTS if is_input else _OUTPUTS)[check.kind]()
        if isinstance(check, Choice):
            return {"enum": check.json}
        if isinstance(check, Anything):
            return {"$ref": "#/$defs/Json"} if is_input else {}
        if isinstance(check, ListOf):
            return {"type": "array", "items": self.schema_of(check.item, is_input=is_input)}
        if isinstance(check, MapOf):
            schema: Schema = {"type": "object"}
            if is_input:
                schema["propertyNames"] = {"pattern": patterns.ANY_TEXT}
            schema["additionalProperties"] = self.schema_of(check.item, is_input=is_input)
            return schema
        if isinstance(check, OneOf):
            options = [self.schema_of(each, is_input=is_input) for each in check.options]
            return options[0] if len(options) == 1 else {"anyOf": options}
        assert isinstance(check, Record)
        return {"$ref": f"#/$defs/{self._record(check, is_input=is_input)}"}

    def _record(self, record: Record, *, is_input: bool) -> str:
        # A union may require a field that has a default, to tell its dataclasses apart.
        required = [name for name, field in record.inputs.items() if field.is_required]
        key = (record.dataclass, is_input, *(required if is_input else ()))
        found = self._names.get(key)
        if found is None:
            wanted = type_name(record.dataclass) + ("Input" if is_input else "")
            found = self._names[key] = self.name(wanted)
            self.schemas[found].update(self.fields_of(record, is_input=is_input))
        return found

    def fields_of(self, record: Record, *, is_input: bool) -> Schema:
        """Return the schema of an object with the fields of a dataclass."""
        fields = record.inputs if is_input else record.fields
        properties = {
            name: self.schema_of(field.check, is_input=is_input) for name, field in fields.items()
        }
        schema: Schema = {"type": "object", "properties": properties}
        if is_input:
            schema["required"] = [name for name, field in fields.items() if field.is_required]
            schema["additionalProperties"] = False
        else:
            schema["required"] = list(properties)
        return schema


def _datetime() -> Schema:
    if settings.USE_TZ:
        return text_schema(whole(patterns.DATETIME), format="date-time")
    return text_schema(whole(patterns.LOCAL_DATETIME))


_INPUTS: Final[dict[str, Callable[[], Schema]]] = {
    "null": lambda: {"type": "null"},
    "bool": lambda: {"type": "boolean"},
    "date": lambda: text_schema(whole(patterns.DATE), format="date"),
    "datetime": _datetime,
    "decimal": lambda: text_schema(whole(patterns.NUMBER)),
    "float": lambda: {"type": "number", "minimum": -MAX_FLOAT, "maximum": MAX_FLOAT},
    "int": lambda: {"type": "integer"},
    "str": lambda: text_schema(patterns.ANY_TEXT),
    "time": lambda: text_schema(whole(patterns.TIME)),
    "uuid": lambda: text_schema(whole(patterns.UUID), format="uuid"),
}

_OUTPUTS: Final[dict[str, Callable[[], Schema]]] = {
    "null": lambda: {"type": "null"},
    "bool": lambda: {"type": "boolean"},
    "date": lambda: {"type": "string", "format": "date"},
    "datetime": lambda: {"type": "string"},
    "decimal": lambda: {"type": "string"},
    "float": lambda: {"type": "number"},
    "int": lambda: {"type": "integer"},
    "str": lambda: {"type": "string"},
    "time": lambda: {"type": "string"},
    "uuid": lambda: {"type": "string", "format": "uuid"},
}
