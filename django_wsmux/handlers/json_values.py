"""JSON values of a known type: checks that a peer cannot make raise.

A check is strict: it converts only what JSON cannot express (dates, decimals, enumerations), and
``true`` is not a number. It takes linear time and bounded depth.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
import types
import uuid
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.forms.utils import from_current_timezone
from django.utils.translation import gettext_lazy as _

__all__ = [
    "INVALID",
    "MAX_DEPTH",
    "MAX_ERRORS",
    "NULL",
    "SCALARS",
    "Anything",
    "Check",
    "Choice",
    "Field",
    "ListOf",
    "MapOf",
    "OneOf",
    "Problems",
    "Record",
    "Scalar",
]

#: The deepest nesting of a value, and the most errors that are reported for one.
MAX_DEPTH: Final = 64
MAX_ERRORS: Final = 20

#: The most characters of a key of the peer in the path of an error.
_MAX_KEY: Final = 64

#: Returned by checks instead of a value.
INVALID: Final = object()

#: A path from a value to the whole: ``((None, "moves"), 2)``.
Path = tuple[Any, str | int] | None


class Problems:
    """The errors of one value, by the dotted paths of what they concern.

    Args:
        is_complete: whether dataclasses must have all fields and no others, as what a server sends
            has; no instances are made then.

    Attributes:
        depth: how deep the current value is nested.
        found: errors by path; the path of the whole is ``__all__``.
    """

    __slots__ = ("_count", "depth", "found", "is_complete")

    def __init__(self, *, is_complete: bool = False) -> None:
        self.is_complete = is_complete
        self.depth = self._count = 0
        self.found: dict[str, list[ValidationError]] = {}

    @property
    def is_full(self) -> bool:
        """Whether there are enough errors; the rest of the value need not be checked."""
        return self._count >= MAX_ERRORS

    def add(self, path: Path, error: ValidationError) -> None:
        """Add an error, or several, unless there are enough."""
        if hasattr(error, "error_dict"):
            for name, errors in error.error_dict.items():
                inner = path if name == NON_FIELD_ERRORS else (path, name)
                self.add(inner, ValidationError(errors))
            return
        self._count += 1
        if self._count <= MAX_ERRORS:
            self.found.setdefault(_text_of(path), []).extend(error.error_list)


def _text_of(path: Path) -> str:
    parts: list[str] = []
    while path is not None:
        path, key = path
        parts.append(str(key)[:_MAX_KEY])
    return ".".join(reversed(parts)) or NON_FIELD_ERRORS


class Check:
    """Checks a value; the base of all kinds."""

    def check(self, value: Any, path: Path, problems: Problems) -> Any:
        """Return the value for the view, or ``INVALID``, with the reason in ``problems``."""
        raise NotImplementedError


class Scalar(Check):
    """A value without parts.

    Args:
        kind: the name of the type, which ``schema`` describes.
        parse: returns the value for the view, or ``INVALID``; may raise ``ValidationError``.
        message: the error of a value that does not fit.
    """

    def __init__(self, kind: str, parse: Callable[[Any], Any], message: Any) -> None:
        self.kind = kind
        self.parse = parse
        self.message = message

    def check(self, value: Any, path: Path, problems: Problems) -> Any:
        """See ``Check``."""
        try:
            found = self.parse(value)
        except ValidationError as error:
            problems.add(path, error)
            return INVALID
        if found is INVALID:
            problems.add(path, ValidationError(self.message, "invalid"))
        return found


class Choice(Check):
    """One of several values: a ``Literal`` or an ``Enum``.

    Args:
        values: values for the view by those in JSON, which are strings, integers, flags or null.
    """

    def __init__(self, values: Sequence[tuple[Any, Any]]) -> None:
        # 1, 1.0 and true are equal in Python.
        self._values = {(type(json), json): value for json, value in values}
        self.json = [json for json, _value in values]

    def get(self, value: Any) -> Any:
        """Return the value for the view, or ``INVALID``."""
        if type(value) is float and value.is_integer():
            value = int(value)
        if not isinstance(value, (str, int, bool, types.NoneType)):
            return INVALID
        return self._values.get((type(value), value), INVALID)

    def check(self, value: Any, path: Path, problems: Problems) -> Any:
        """See ``Check``."""
        found = self.get(value)
        if found is INVALID:
            problems.add(path, ValidationError(_CHOOSE, "invalid_choice"))
        return found


class Anything(Check):
    """Any JSON value, without text that cannot be encoded."""

    def check(self, value: Any, path: Path, problems: Problems) -> Any:
        """See ``Check``."""
        rest = [value]
        while rest:
            each = rest.pop()
            if isinstance(each, dict):
                rest.extend(each)
                rest.extend(each.values())
            elif isinstance(each, list):
                rest.extend(each)
            elif isinstance(each, str) and not _is_encodable(each):
                problems.add(path, ValidationError(_VALID, "invalid"))
                return INVALID
        return value


class _Nested(Check):
    """A value with parts, which must not be nested too deeply."""

    def check(self, value: Any, path: Path, problems: Problems) -> Any:
        """See ``Check``."""
        if problems.depth >= MAX_DEPTH:
            problems.add(path, ValidationError(_DEEP, "too_deep"))
            return INVALID
        problems.depth += 1
        try:
            return self.check_parts(value, path, problems)
        finally:
            problems.depth -= 1

    def check_parts(self, value: Any, path: Path, problems: Problems) -> Any:
        """Check a value that is not nested too deeply."""
        raise NotImplementedError


class ListOf(_Nested):
    """A list of values of one type."""

    def __init__(self, item: Check) -> None:
        self.item = item

    def check_parts(self, value: Any, path: Path, problems: Problems) -> Any:
        """See ``Check``."""
        if type(value) is not list:
            problems.add(path, ValidationError(_LIST, "invalid_list"))
            return INVALID
        check = self.item.check
        found = []
        is_valid = True
        for index, each in enumerate(value):
            item = check(each, (path, index), problems)
            if item is INVALID:
                is_valid = False
                if problems.is_full:
                    break
            found.append(item)
        return found if is_valid else INVALID


class MapOf(_Nested):
    """An object with values of one type, under any names."""

    def __init__(self, item: Check) -> None:
        self.item = item

    def check_parts(self, value: Any, path: Path, problems: Problems) -> Any:
        """See ``Check``."""
        if type(value) is not dict:
            problems.add(path, ValidationError(_VALID, "invalid"))
            return INVALID
        found = {}
        is_valid = True
        for key, each in value.items():
            item = SCALARS[str].check(key, path, problems)
            if item is not INVALID:
                item = found[key] = self.item.check(each, (path, key), problems)
            if item is INVALID:
                is_valid = False
                if problems.is_full:
                    break
        return found if is_valid else INVALID


@dataclasses.dataclass
class Field:
    """A field of a dataclass."""

    check: Check
    is_required: bool


class Record(_Nested):
    """An object with the fields of a dataclass; other keys are ignored.

    Attributes:
        dataclass: the class.
        fields: all its fields by name.
        inputs: those that ``__init__()`` takes.
    """

    def __init__(self, dataclass: type[Any]) -> None:
        self.dataclass = dataclass
        self.fields: dict[str, Field] = {}
        self.inputs: dict[str, Field] = {}

    def check_parts(self, value: Any, path: Path, problems: Problems) -> Any:
        """See ``Check``. ``__post_init__()`` may raise ``ValidationError``."""
        if type(value) is not dict:
            problems.add(path, ValidationError(_VALID, "invalid"))
            return INVALID
        if problems.is_complete:
            return self._check_all(value, path, problems)
        found = {}
        is_valid = True
        for name, field in self.inputs.items():
            if name in value:
                each = found[name] = field.check.check(value[name], (path, name), problems)
                is_valid = is_valid and each is not INVALID
            elif field.is_required:
                problems.add((path, name), ValidationError(_REQUIRED, "required"))
                is_valid = False
        if not is_valid:
            return INVALID
        try:
            return self.dataclass(**found)
        except ValidationError as error:
            problems.add(path, error)
            return INVALID

    def _check_all(self, value: dict[str, Any], path: Path, problems: Problems) -> Any:
        for name in {**self.fields, **value}:
            if name not in self.fields:
                problems.add((path, name), ValidationError(_UNKNOWN, "unknown"))
            elif name not in value:
                problems.add((path, name), ValidationError(_REQUIRED, "required"))
            else:
                self.fields[name].check.check(value[name], (path, name), problems)
        return INVALID if problems.found else value


class OneOf(Check):
    """A value of one of several types, at most one of which can fit.

    Args:
        scalars: checks of values without parts; the first that fits counts.
        list_of: the check of lists, if the union has one.
        objects: the checks of objects; if there are several, they are told apart by a field.
    """

    def __init__(
        self,
        scalars: Sequence[Scalar | Choice],
        list_of: ListOf | None,
        objects: Sequence[Record | MapOf],
    ) -> None:
        self.scalars = scalars
        self.list_of = list_of
        self.objects = objects
        # Of several objects: the name of the field, and the object for each of its values.
        self.tag = ""
        self.tagged: list[tuple[Choice, Record]] = []

    @property
    def options(self) -> Iterator[Check]:
        """The checks of all types."""
        yield from self.scalars
        if self.list_of is not None:
            yield self.list_of
        yield from self.objects

    def check(self, value: Any, path: Path, problems: Problems) -> Any:
        """See ``Check``."""
        if type(value) is list and self.list_of is not None:
            return self.list_of.check(value, path, problems)
        if type(value) is dict and self.objects:
            return self._object(value, path, problems)
        for scalar in self.scalars:
            if isinstance(scalar, Choice):
                found = scalar.get(value)
            else:
                try:
                    found = scalar.parse(value)
                except ValidationError:
                    continue
            if found is not INVALID:
                return found
        others = [each for each in self.options if each is not NULL]
        if len(others) == 1:
            return others[0].check(value, path, problems)  # for its error
        problems.add(path, ValidationError(_VALID, "invalid"))
        return INVALID

    def _object(self, value: dict[str, Any], path: Path, problems: Problems) -> Any:
        if not self.tagged:
            return self.objects[0].check(value, path, problems)
        for choice, record in self.tagged:
            if self.tag in value and choice.get(value[self.tag]) is not INVALID:
                return record.check(value, path, problems)
        code = "invalid_choice" if self.tag in value else "required"
        message = _CHOOSE if self.tag in value else _REQUIRED
        problems.add((path, self.tag), ValidationError(message, code))
        return INVALID


# Django's own messages, which are translated, wherever one fits.
_VALID: Final = _("Enter a valid value.")
_REQUIRED: Final = _("This field is required.")
_LIST: Final = _("Enter a list of values.")
_CHOOSE: Final = _("Select a valid choice. That choice is not one of the available choices.")
_NULL: Final = _("Null characters are not allowed.")
_UNKNOWN: Final = "There is no such field."
_DEEP: Final = "This value is nested too deeply."

_DECIMAL: Final = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,2})?")
_UUID: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.I)


def _is_encodable(text: str) -> bool:
    r"""Return whether a text can be encoded: JSON allows "\ud800"."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: Any) -> Any:
    if type(value) is not str or not _is_encodable(value):
        return INVALID
    if "\x00" in value:  # which PostgreSQL does not store
        raise ValidationError(_NULL, "null_characters_not_allowed")
    return value


def _integer(value: Any) -> Any:
    if type(value) is float and value.is_integer():
        return int(value)  # JSON knows one number 1, whether it is written 1 or 1.0
    return value if type(value) is int else INVALID


def _float(value: Any) -> Any:
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return INVALID
    return value if type(value) is float and math.isfinite(value) else INVALID


def _decimal(value: Any) -> Any:
    try:
        text = str(value) if type(value) in (str, int, float) else ""
    except ValueError:
        return INVALID  # too many digits
    return Decimal(text) if _DECIMAL.fullmatch(text) else INVALID


def _datetime(value: Any) -> Any:
    found = _parsed(datetime.datetime.fromisoformat, value)
    if found is INVALID:
        return INVALID
    found = from_current_timezone(found)
    if found.tzinfo is not None:
        try:
            found.astimezone(datetime.UTC)  # as databases do
        except OverflowError:
            return INVALID  # before year 1 or after year 9999
    return found


def _time(value: Any) -> Any:
    found = _parsed(datetime.time.fromisoformat, value)
    return INVALID if found is INVALID or found.tzinfo is not None else found


def _parsed(parse: Callable[[str], Any], value: Any) -> Any:
    if type(value) is not str:
        return INVALID
    try:
        return parse(value)
    except ValueError:
        return INVALID


#: The check of ``None``.
NULL: Final = Scalar("null", lambda value: None if value is None else INVALID, _VALID)

#: The checks of types without parts.
SCALARS: Final[dict[Any, Scalar]] = {
    type(None): NULL,
    bool: Scalar("bool", lambda value: value if type(value) is bool else INVALID, _VALID),
    datetime.date: Scalar(
        "date",
        lambda value: _parsed(datetime.date.fromisoformat, value),
        _("Enter a valid date."),
    ),
    datetime.datetime: Scalar("datetime", _datetime, _("Enter a valid date/time.")),
    datetime.time: Scalar("time", _time, _("Enter a valid time.")),
    Decimal: Scalar("decimal", _decimal, _("Enter a number.")),
    float: Scalar("float", _float, _("Enter a number.")),
    int: Scalar("int", _integer, _("Enter a whole number.")),
    str: Scalar("str", _text, _VALID),
    uuid.UUID: Scalar(
        "uuid",
        lambda value: (
            uuid.UUID(value) if type(value) is str and _UUID.fullmatch(value) else INVALID
        ),
        _("Enter a valid UUID."),
    ),
}
