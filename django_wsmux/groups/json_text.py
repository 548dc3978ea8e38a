"""JSON text as this package writes it, with ``WEBSOCKET_JSON_ENCODER``."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from .. import conf

__all__ = ["dump_json"]


def dump_json(value: Any, **options: Any) -> str:
    """Return a value as JSON text.

    Args:
        value: anything that ``json.dumps`` accepts with the encoder of ``WEBSOCKET_JSON_ENCODER``;
            also dataclasses, as objects of their fields, and members of enumerations, as their
            values.
        options: passed on to ``json.dumps``; ``cls`` is another encoder.

    Raises:
        TypeError: the encoder cannot encode the value.

    Example:
        >>> from datetime import date
        >>> dump_json({"when": date(2026, 5, 1)})
        '{"when": "2026-05-01"}'
    """
    if "cls" in options:
        return json.dumps(value, **options)
    encoder: Any = conf.json_encoder()
    try:
        return json.dumps(value, cls=encoder, **options)
    except TypeError:
        pass  # perhaps because of a dataclass
    return json.dumps(value, cls=_with_dataclasses(encoder), **options)


@cache
def _with_dataclasses(encoder: Any) -> type[json.JSONEncoder]:
    """Return an encoder that also encodes dataclasses and members of enumerations."""

    class Encoder(encoder):  # type: ignore[misc]
        def default(self, value: Any) -> Any:
            try:
                return super().default(value)
            except TypeError:
                if isinstance(value, Enum):
                    return value.value
                if is_dataclass(value) and not isinstance(value, type):
                    return {field.name: getattr(value, field.name) for field in fields(value)}
                raise

    return Encoder
