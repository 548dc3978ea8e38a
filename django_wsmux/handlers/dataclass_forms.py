"""Dataclasses in the place of forms.

A ``DataclassForm`` has the methods of a form that views use, so views treat both alike. Processes
without dataclasses in ``forms`` do not import this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.forms.utils import ErrorDict, ErrorList

from .hints import check_of, record_of
from .json_values import INVALID, Problems

__all__ = ["DataclassForm", "require_message"]


class DataclassForm:
    """A message that is checked by the type hints of a dataclass.

    Args:
        dataclass: the class.
        data: the whole message.
        message_type: its ``type``.

    Attributes:
        data, message_type: the arguments.
        value: the instance, if the message is valid; otherwise ``None``.
        errors: errors by the dotted paths of fields; ``errors.get_json_data()`` is what clients
            get.

    Example:
        >>> form = DataclassForm(Move, {"type": "move", "x": "1"}, "move")
        >>> form.is_valid()
        False
        >>> form.errors.get_json_data()
        {'x': [{'message': 'Enter a whole number.', 'code': 'invalid'}]}
    """

    #: Fields of a form; see ``json_forms.is_valid()``.
    fields: Final[Mapping[str, Any]] = {}

    def __init__(self, dataclass: Any, data: dict[str, Any], message_type: str) -> None:
        self.data = data
        self.message_type = message_type
        problems = Problems()
        value = record_of(dataclass).check(data, None, problems)
        self.value = None if value is INVALID else value
        self.errors = ErrorDict(
            {path: ErrorList(errors) for path, errors in problems.found.items()}
        )

    def is_valid(self) -> bool:
        """Return whether the message fits the dataclass."""
        return not self.errors

    def add_error(self, field: str | None, error: Any) -> None:
        """Add an error; see ``Form.add_error()``."""
        problems = Problems()
        error = error if isinstance(error, ValidationError) else ValidationError(error)
        problems.add(None if field is None else (None, field), error)
        for path, errors in problems.found.items():
            self.errors.setdefault(path, ErrorList()).extend(errors)
        self.value = None


def require_message(dataclass: Any, kind: str, place: str, *, is_input: bool) -> None:
    """Raise unless a class can describe messages of a type.

    Args:
        dataclass: the class.
        kind: the ``type`` of the messages.
        place: what lists the class, for errors.
        is_input: whether clients send the messages.

    Raises:
        TypeError: it is no dataclass, a hint is not supported, instances cannot be made, or it has
            a field that the key ``type`` or ``ref`` of a message does not fit.
    """
    if not (isinstance(dataclass, type) and is_dataclass(dataclass)):
        raise TypeError(f"{place}: {dataclass!r} is not a dataclass: decorate it with @dataclass")
    if is_input:
        check_of(dataclass, place, is_made=True)
    fields = record_of(dataclass).fields
    if "ref" in fields:
        raise TypeError(
            f"{place}: {dataclass.__qualname__}.ref: messages have a key ref: rename it"
        )
    if "type" in fields and fields["type"].check.check(kind, None, Problems()) is INVALID:
        raise TypeError(
            f"{place}: {dataclass.__qualname__}.type does not fit: write "
            f'type: Literal["{kind}"] = "{kind}"'
        )
