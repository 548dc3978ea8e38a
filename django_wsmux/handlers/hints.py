"""Checks made of the type hints of dataclasses, once for each class."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import inspect
import types
import typing
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, Literal

from .callables import name_of
from .json_values import (
    INVALID,
    NULL,
    SCALARS,
    Anything,
    Check,
    Choice,
    Field,
    ListOf,
    MapOf,
    OneOf,
    Record,
    Scalar,
)

__all__ = ["check_of", "record_of", "result_of"]

#: What to write instead of a hint that is not supported.
_INSTEAD: Final[dict[Any, str]] = {
    list: "list[str], say",
    dict: "dict[str, int], say",
    tuple: "list[int], say",
    set: "list[str], say",
    frozenset: "list[str], say",
    bytes: "str, and send it in Base64",
    datetime.timedelta: "float, and send seconds",
    object: "typing.Any",
}

_SUPPORTED: Final = (
    "str, int, float, bool, None, unions, list[T], dict[str, T], Literal, Enum, datetime, date, "
    "time, Decimal, UUID, Any or a dataclass"
)


class _Compiler:
    """Turns hints into checks; a dataclass that contains itself is one ``Record``.

    Args:
        is_made: whether instances of the dataclasses are made of values.
    """

    def __init__(self, *, is_made: bool = False) -> None:
        self._is_made = is_made
        self._records: dict[type[Any], Record] = {}
        self._unions: list[tuple[OneOf, str]] = []

    def finish(self) -> None:
        """Find the fields that tell the dataclasses of unions apart."""
        for union, place in self._unions:
            _find_tag(union, place)

    def record(self, dataclass: type[Any]) -> Record:
        """Return the check of a dataclass."""
        found = self._records.get(dataclass)
        if found is not None:
            return found
        found = self._records[dataclass] = Record(dataclass)
        where = f"{dataclass.__module__}.{dataclass.__qualname__}"
        try:
            hints = typing.get_type_hints(dataclass)
        except Exception as error:
            raise TypeError(
                f"{where}: a type hint cannot be evaluated ({error}): import the type at the top "
                f"of the module, and define the dataclass at the top level"
            ) from error
        for name, hint in hints.items():
            if isinstance(hint, dataclasses.InitVar):
                raise TypeError(f"{where}.{name}: InitVar is not supported: write a plain field")
        for field in dataclasses.fields(dataclass):
            is_required = (
                field.default is dataclasses.MISSING
                and field.default_factory is dataclasses.MISSING
            )
            check = self.check(hints[field.name], f"{where}.{field.name}")
            found.fields[field.name] = Field(check, is_required)
            if field.init:
                found.inputs[field.name] = found.fields[field.name]
        if self._is_made:
            _require_constructor(found, where)
        return found

    def check(self, hint: Any, place: str) -> Check:
        """Return the check of a hint.

        Args:
            hint: a hint, as ``typing.get_type_hints()`` returns it.
            place: the name of the field, for errors.
        """
        hint = _bare(hint)
        if hint is None or (isinstance(hint, type) and hint in SCALARS):
            return NULL if hint is None else SCALARS[hint]
        if hint is Any:
            return Anything()
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is list and arguments:
            return ListOf(self.check(arguments[0], place))
        if origin is dict and arguments and _bare(arguments[0]) is str:
            return MapOf(self.check(arguments[1], place))
        if origin is Literal:
            return _choice([(_value_of(each), each) for each in arguments], hint, place)
        if origin in (typing.Union, types.UnionType):
            return self._union(arguments, place)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return _choice([(each.value, each) for each in hint], hint, place)
        if isinstance(hint, type) and origin is None and dataclasses.is_dataclass(hint):
            return self.record(hint)
        raise _unsupported(hint, place)

    def _union(self, arguments: Sequence[Any], place: str) -> Check:
        scalars: list[Scalar | Choice] = []
        lists: list[ListOf] = []
        objects: list[Record | MapOf] = []
        for each in arguments:
            check = self.check(each, place)
            if isinstance(check, (Scalar, Choice)):
                scalars.append(check)
            elif isinstance(check, ListOf):
                lists.append(check)
            elif isinstance(check, (Record, MapOf)):
                objects.append(check)
            elif isinstance(check, OneOf):  # of an alias
                scalars += check.scalars
                lists += [check.list_of] if check.list_of is not None else []
                objects += check.objects
            else:
                return check  # anything
        if len(lists) > 1:
            raise TypeError(
                f"{place}: a union of several lists is not supported: write list[A | B]"
            )
        union = OneOf(scalars, lists[0] if lists else None, objects)
        if len(objects) > 1:
            self._unions.append((union, place))
        return union


def _require_constructor(record: Record, where: str) -> None:
    """Raise unless ``__init__()`` takes the fields: a dataclass may have one of its own."""
    required = [name for name, field in record.inputs.items() if field.is_required]
    try:
        signature = inspect.signature(record.dataclass)
        for names in (record.inputs, required):
            signature.bind(**dict.fromkeys(names))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{where}.__init__() must take the fields, by name: {error}") from error


def _bare(hint: Any) -> Any:
    """Return a hint without ``Annotated``, ``NewType`` and the name of an alias."""
    while True:
        if typing.get_origin(hint) is typing.Annotated:
            hint = hint.__origin__
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType" and not typing.get_args(hint):
            hint = hint.__value__
        else:
            return hint


def _value_of(literal: Any) -> Any:
    return literal.value if isinstance(literal, enum.Enum) else literal


def _choice(values: list[tuple[Any, Any]], hint: Any, place: str) -> Choice:
    # Members of StrEnum and the like are strings, but of another class.
    plain = [(_plain(json), value) for json, value in values]
    if not plain or INVALID in [json for json, _value in plain]:
        raise TypeError(f"{place}: the values of {hint!r} must be strings, integers, bool or None")
    return Choice(plain)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int):
        if isinstance(value, kind):
            return kind(value)
    return INVALID


def _find_tag(union: OneOf, place: str) -> None:
    """Find the field whose values differ in all dataclasses of a union.

    Raises:
        TypeError: there is none.
    """
    records = [each for each in union.objects if isinstance(each, Record)]
    names = records[0].inputs if len(records) == len(union.objects) else ()
    for name in names:
        checks = [each.inputs[name].check for each in records if name in each.inputs]
        choices = [each for each in checks if isinstance(each, Choice)]
        values = [(type(value), value) for each in choices for value in each.json]
        if len(choices) == len(records) and len(values) == len(set(values)):
            union.tag = name
            union.tagged = list(zip(choices, records, strict=True))
            for each in records:
                each.fields[name].is_required = True  # even if it has a default
            return
    raise TypeError(
        f"{place}: several objects in a union are told apart by a field whose values differ: write "
        f'kind: Literal["a"] in one dataclass and kind: Literal["b"] in the other'
    )


def _unsupported(hint: Any, place: str) -> TypeError:
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else repr(hint)
    if typing.get_origin(hint) is dict and typing.get_args(hint):
        instead = "dict[str, ...], since the keys of JSON objects are strings"
    else:
        origin = typing.get_origin(hint) or hint
        try:
            instead = _INSTEAD.get(origin, _SUPPORTED)
        except TypeError:
            instead = _SUPPORTED
    return TypeError(f"{place}: the type hint {name} is not supported: write {instead}")


@cache
def record_of(dataclass: Any) -> Record:
    """Return the check of a dataclass.

    Raises:
        TypeError: a hint is not supported; the message names the field, and what to write.
    """
    found = check_of(dataclass, dataclass.__qualname__)
    assert isinstance(found, Record)
    return found


def check_of(hint: Any, place: str, *, is_made: bool = False) -> Check:
    """Return the check of any hint.

    Args:
        hint: a hint, as ``typing.get_type_hints()`` returns it.
        place: what the hint belongs to, for errors.
        is_made: whether instances of the dataclasses in it are made of values.

    Raises:
        TypeError: the hint is not supported, or a dataclass cannot be made.
    """
    compiler = _Compiler(is_made=is_made)
    try:
        found = compiler.check(hint, place)
    except RecursionError:
        raise TypeError(
            f"{place}: the type hint is nested too deeply, or an alias contains itself: write a "
            f"dataclass"
        ) from None
    compiler.finish()
    return found


def result_of(function: Any) -> Check | None:
    """Return the check of what a function returns; ``None`` without an annotation.

    Raises:
        TypeError: the annotation cannot be evaluated, or is not supported.
    """
    function = inspect.unwrap(function)
    annotations = getattr(function, "__annotations__", {})
    if "return" not in annotations:
        return None
    place = f"{name_of(function)}()"
    # The arguments may have annotations that cannot be evaluated.
    alone = types.SimpleNamespace(__annotations__={"return": annotations["return"]})
    try:
        hint = typing.get_type_hints(alone, getattr(function, "__globals__", {}))["return"]
    except Exception as error:
        raise TypeError(f"{place}: the return annotation cannot be evaluated: {error}") from error
    return check_of(hint, place)
