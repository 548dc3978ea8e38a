"""What an event view remembers, as values of JSON, so that another process can go on with it.

A value is carried only if it comes back equal and with the same type. Values that JSON knows stay
as they are; any other is an object with one key, a tag that begins with ``$``. Nothing is pickled,
so reading a state runs no code that the state names. A model instance is carried as its database,
model and primary key, and read again.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from types import NoneType
from typing import Any, Final, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

from django.apps import apps
from django.core.exceptions import ObjectDoesNotExist
from django.db.models import Model
from django.utils.functional import LazyObject, empty

from ..groups.group import Group

__all__ = ["CannotCarry", "Gone", "Reference", "decode", "encode", "pack", "references", "unpack"]

#: Database, model and primary key of a row.
Reference = tuple[str, str, Any]

#: Where a value is: the place of what contains it, and an attribute, index or key. The outermost
#: place is its name. Only an error makes a text of it.
_Place = tuple[Any, str] | str

#: Nesting that is carried; without a limit, a list that contains itself has no end.
_MOST_DEEP: Final = 50

#: Bits of an integer that JSON has as a number. Python limits how many digits it reads.
_MOST_BITS: Final = 64

_PLAIN: Final = frozenset({NoneType, bool, str})


class CannotCarry(Exception):
    """A value cannot move to another process; the text names class and attribute."""


class Gone(LookupError):
    """The row of a model instance does not exist any more."""


class Movable(Protocol):
    """The methods of a ``WebSocketView`` for a move to another process."""

    def handover_state(self) -> Any:
        """Return what ``restore_handover()`` is to get."""

    def restore_handover(self, state: Any) -> object:
        """Set the state again."""


def pack(view: Movable) -> Any:
    """Return what a view remembers, as a value of JSON.

    Raises:
        CannotCarry: ``handover_state()`` raised an error, or returned what cannot be carried.
    """
    name = type(view).__qualname__
    try:
        state = view.handover_state()
    except Exception as error:
        raise CannotCarry(f"{name}.handover_state() raised {error!r}") from error
    if type(state) is dict and all(type(key) is str for key in state):
        return _dict(state, name, 0, _attribute)
    return encode(state, f"{name}.handover_state()")


def unpack(view: Movable, packed: Any, instances: Mapping[Reference, Model] | None = None) -> None:
    """Give a new view what ``pack()`` has returned.

    Args:
        view: the new view.
        packed: the value of JSON.
        instances: model instances that have been read already, by their references; rows that are
            missing there are gone. ``None`` reads each row.

    Raises:
        Gone: a row does not exist any more.
        ValueError: the value is not from ``pack()``, or names a model that does not exist.
        Exception: what ``restore_handover()`` raised.
    """
    view.restore_handover(decode(packed, instances))


# Encoding


def encode(value: Any, where: str) -> Any:
    """Return a value as a value of JSON.

    Args:
        value: the value.
        where: names the value in errors.

    Raises:
        CannotCarry: it would not come back equal and with the same type.
    """
    return _encode(value, where, 0)


def _encode(value: Any, place: _Place, depth: int) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    encoder = _ENCODERS.get(kind)
    if encoder is not None:
        if depth > _MOST_DEEP:
            raise CannotCarry(f"{_text(place)[:200]} is nested too deeply, or contains itself")
        return encoder(value, place, depth + 1)
    # Neither isinstance() nor __class__, which would read what a lazy object stands for.
    if issubclass(kind, LazyObject):
        if vars(value)["_wrapped"] is empty:
            raise CannotCarry(f"{_text(place)} is a lazy object that was not read yet")
        value = vars(value)["_wrapped"]
        kind = type(value)
    if issubclass(kind, Model):
        return {"$model": _reference(value, place, depth)}
    raise CannotCarry(
        f"{_text(place)} is of type {kind.__module__}.{kind.__qualname__}, which does not move to "
        f"another process"
    )


def _int(value: int, place: _Place, depth: int) -> Any:
    return value if value.bit_length() <= _MOST_BITS else {"$int": hex(value)}


def _float(value: float, place: _Place, depth: int) -> Any:
    if math.isfinite(value):
        return value
    if math.isnan(value):
        raise CannotCarry(f"{_text(place)} is nan, which does not equal itself")
    return {"$float": repr(value)}


def _decimal(value: Decimal, place: _Place, depth: int) -> Any:
    if value.is_nan():
        raise CannotCarry(f"{_text(place)} is NaN, which does not equal itself")
    return {"$decimal": str(value)}


def _items(values: Iterable[Any], place: _Place, depth: int) -> list[Any]:
    return [_encode(each, (place, f"[{n}]"), depth) for n, each in enumerate(values)]


def _set(value: set[Any], place: _Place, depth: int) -> Any:
    return {"$set": [_encode(each, (place, "{...}"), depth) for each in value]}


def _key(key: object) -> str:
    # The repr() of other keys may run code of the project.
    return f"[{key!r}]" if type(key) in (str, int) else "[...]"


def _attribute(name: object) -> str:
    return f".{name}"


def _dict(
    value: dict[Any, Any], place: _Place, depth: int, name: Callable[[object], str] = _key
) -> Any:
    if all(type(key) is str and key[:1] != "$" for key in value):
        return {key: _encode(each, (place, name(key)), depth) for key, each in value.items()}
    return {
        "$dict": [
            [
                _encode(key, (place, f" (the key {name(key)})"), depth),
                _encode(each, (place, name(key)), depth),
            ]
            for key, each in value.items()
        ]
    }


def _datetime(value: datetime, place: _Place, depth: int) -> Any:
    text = value.replace(tzinfo=None).isoformat()
    return {"$datetime": [text, value.fold, _zone(value.tzinfo, place)]}


def _time(value: time, place: _Place, depth: int) -> Any:
    text = value.replace(tzinfo=None).isoformat()
    return {"$time": [text, value.fold, _zone(value.tzinfo, place)]}


def _timedelta(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _zone(zone: tzinfo | None, place: _Place) -> Any:
    if zone is None:
        return None
    if type(zone) is ZoneInfo and zone.key and ZoneInfo(zone.key) is zone:
        return zone.key
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]  # as pickle does
        return [_timedelta(offset), *name]
    raise CannotCarry(
        f"{_text(place)} has a time zone of type {type(zone).__module__}."
        f"{type(zone).__qualname__}, which does not move to another process"
    )


def _group(value: Group, place: _Place, depth: int) -> Any:
    return {"$group": value.name}


def _reference(instance: Model, place: _Place, depth: int) -> list[Any]:
    label = instance._meta.label
    if instance._state.adding or instance._state.db is None or instance.pk is None:
        raise CannotCarry(f"{_text(place)} is a {label} that is not stored in a database")
    if _model(label) is not type(instance):
        raise CannotCarry(f"{_text(place)} is of a model {label} that is not registered")
    return [instance._state.db, label, _encode(instance.pk, (place, ".pk"), depth + 1)]


def _text(place: _Place) -> str:
    parts: list[str] = []
    while isinstance(place, tuple):
        place, part = place
        parts.append(part)
    return "".join([place, *reversed(parts)])


_ENCODERS: Final[dict[type, Callable[[Any, _Place, int], Any]]] = {
    int: _int,
    float: _float,
    list: _items,
    dict: _dict,
    tuple: lambda value, place, depth: {"$tuple": _items(value, place, depth)},
    set: _set,
    bytes: lambda value, place, depth: {"$bytes": base64.b64encode(value).decode()},
    datetime: _datetime,
    date: lambda value, place, depth: {"$date": value.isoformat()},
    time: _time,
    timedelta: lambda value, place, depth: {"$timedelta": _timedelta(value)},
    Decimal: _decimal,
    UUID: lambda value, place, depth: {"$uuid": value.hex},
    Group: _group,
}


# Decoding


class _Decoder:
    """Turns a value of JSON into what was encoded.

    Args:
        find: returns the instance of a reference.
    """

    def __init__(self, find: Callable[[Reference], Any]) -> None:
        self._find = find

    def decode(self, value: Any) -> Any:
        """Return what was encoded.

        Raises:
            ValueError: the tag is not known, perhaps because a newer version wrote it.
        """
        if type(value) is list:
            return [self.decode(each) for each in value]
        if type(value) is not dict:
            return value
        if len(value) == 1:
            ((tag, content),) = value.items()
            if tag[:1] == "$":
                _require_known(tag)
                return _DECODERS[tag](self, content)
        return {key: self.decode(each) for key, each in value.items()}

    def model(self, content: Any) -> Any:
        """Return a model instance."""
        alias, label, pk = content
        return self._find((alias, label, self.decode(pk)))


def decode(packed: Any, instances: Mapping[Reference, Model] | None = None) -> Any:
    """Return what ``encode()`` has encoded; see ``unpack()``.

    One row is one instance, however often the value contains it; two calls share none.
    """
    found: dict[Reference, Model] = {}

    def find(reference: Reference) -> Model:
        instance = found.get(reference)
        if instance is None:
            if instances is None:
                instance = _read(reference)
            elif reference in instances:
                # Of its own: what one view sets on an instance must not reach others.
                instance = copy(instances[reference])
            else:
                raise Gone(_description(reference))
            found[reference] = instance
        return instance

    return _Decoder(find).decode(packed)


def references(packed: Any) -> set[Reference]:
    """Return database, model and primary key of all model instances of a packed value.

    Reads nothing, so it also checks whether the value can be unpacked by this process.

    Raises:
        ValueError: the value is not from ``pack()``, or names a model that does not exist.
    """
    found: set[Reference] = set()
    _note(packed, found)
    return found


def _note(packed: Any, found: set[Reference]) -> None:
    """Add the references in a packed value, without decoding the rest."""
    if type(packed) is list:
        for each in packed:
            _note(each, found)
    elif type(packed) is dict:
        for key, each in packed.items():
            if key == "$model":
                alias, label, pk = each
                _model(label)
                found.add((alias, label, decode(pk)))
            elif key[:1] == "$":
                _require_known(key)
            if type(each) in (list, dict):
                _note(each, found)


def _require_known(tag: str) -> None:
    if tag not in _DECODERS:
        raise ValueError(f"unknown tag {tag} in the state of a view")


def _model(label: str) -> type[Model]:
    try:
        return apps.get_model(label)
    except LookupError as error:
        raise ValueError(f"the state of a view names the model {label}: {error}") from None


def _read(reference: Reference) -> Model:
    """Return an instance from its database, also one that the default manager hides."""
    alias, label, pk = reference
    try:
        return _model(label)._base_manager.using(alias).get(pk=pk)
    except ObjectDoesNotExist:
        raise Gone(_description(reference)) from None


def _description(reference: Reference) -> str:
    alias, label, pk = reference
    return f"{label} {pk!r} is not in the database {alias!r} any more"


def _delta(content: Any) -> timedelta:
    days, seconds, microseconds = content
    return timedelta(days, seconds, microseconds)


def _decoded_zone(content: Any) -> tzinfo | None:
    if content is None:
        return None
    if isinstance(content, str):
        return ZoneInfo(content)
    offset, *name = content
    return timezone(_delta(offset), *name)


def _decoded_datetime(decoder: _Decoder, content: Any) -> datetime:
    text, fold, zone = content
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_decoded_zone(zone))


def _decoded_time(decoder: _Decoder, content: Any) -> time:
    text, fold, zone = content
    return time.fromisoformat(text).replace(fold=fold, tzinfo=_decoded_zone(zone))


_DECODERS: Final[dict[str, Callable[[_Decoder, Any], Any]]] = {
    "$int": lambda decoder, content: int(content, 16),
    "$float": lambda decoder, content: float(content),
    "$tuple": lambda decoder, content: tuple(map(decoder.decode, content)),
    "$set": lambda decoder, content: set(map(decoder.decode, content)),
    "$dict": lambda decoder, content: {
        decoder.decode(key): decoder.decode(value) for key, value in content
    },
    "$bytes": lambda decoder, content: base64.b64decode(content),
    "$datetime": _decoded_datetime,
    "$date": lambda decoder, content: date.fromisoformat(content),
    "$time": _decoded_time,
    "$timedelta": lambda decoder, content: _delta(content),
    "$decimal": lambda decoder, content: Decimal(content),
    "$uuid": lambda decoder, content: UUID(content),
    "$group": lambda decoder, content: Group.named(content),
    "$model": _Decoder.model,
}
