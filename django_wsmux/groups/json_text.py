"""JSON text as this package writes it, with ``WEBSOCKET_JSON_ENCODER``."""

from __future__ import annotations

import json
from typing import Any

from .. import conf

__all__ = ["dump_json"]


def dump_json(value: Any, **options: Any) -> str:
    """Return a value as JSON text.

    Args:
        value: anything that ``json.dumps`` accepts with the encoder of ``WEBSOCKET_JSON_ENCODER``.
        options: passed on to ``json.dumps``; ``cls`` is another encoder.

    Raises:
        TypeError: the encoder cannot encode the value.

    Example:
        >>> from datetime import date
        >>> dump_json({"when": date(2026, 5, 1)})
        '{"when": "2026-05-01"}'
    """
    options.setdefault("cls", conf.json_encoder())
    return json.dumps(value, **options)
