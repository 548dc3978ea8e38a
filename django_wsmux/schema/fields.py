"""JSON Schemas of the fields of forms.

A schema has one JSON type, and ``null`` if the field is not required. What it accepts, Django's own
fields and validators accept. ``clean()``, ``clean_<field>()``, validators of the project and fields
whose methods the project overrides are left out; ``$comment`` names what is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any, Final

from django import forms
from django.conf import settings
from django.core import validators
from django.db import models

from . import patterns
from .patterns import whole

__all__ = ["MAX_FLOAT", "MAX_SAFE_INTEGER", "Schema", "properties_of", "text_schema"]

Schema = dict[str, Any]

#: The greatest integer that JavaScript has exactly.
MAX_SAFE_INTEGER: Final = 2**53 - 1

#: The greatest number that is not infinite.
MAX_FLOAT: Final = 1.7976931348623157e308

#: The schema of a field, and whether a message must have it.
Property = tuple[str, Schema, bool]


def properties_of(form_class: Any) -> Iterator[Property]:
    """Yield name, schema and necessity of each key of a form's data.

    The fields are those of the class: what ``__init__()`` changes is not seen.
    """
    model = getattr(getattr(form_class, "_meta", None), "model", None)
    model_fields = {} if model is None else {each.name: each for each in model._meta.get_fields()}
    prefix = f"{form_class.prefix}-" if form_class.prefix else ""
    for name, field in form_class.base_fields.items():
        if not field.disabled:
            yield from _properties(prefix + name, field, model_fields.get(name))


def _properties(name: str, field: forms.Field, model_field: Any) -> Iterator[Property]:
    widget: Any = field.widget
    if isinstance(field, forms.FileField):
        # It is not in the data of a message.
        if field.required:
            yield name, {"not": {}}, True
    elif not type(widget).value_from_datadict.__module__.startswith("django."):
        yield name, _unknown(f"widget {type(widget).__name__}"), False
    elif isinstance(widget, forms.MultiWidget) and isinstance(field, forms.MultiValueField):
        note = f"{type(field).__name__} of {name}"
        names = widget.widgets_names  # type: ignore[attr-defined]
        for suffix, part in zip(names, field.fields, strict=True):
            is_required = field.required and (field.require_all_fields or part.required)
            schema = _described(part, is_required, None)
            schema["$comment"] = _joined([note, *_notes(schema)])
            yield name + suffix, schema, is_required
    else:
        is_required = field.required and not isinstance(field, forms.NullBooleanField)
        yield name, _described(field, field.required, model_field), is_required


def _described(field: forms.Field, is_required: bool, model_field: Any) -> Schema:
    """Return the schema of a field."""
    kind = type(field)
    own = [base for base in kind.__mro__ if not base.__module__.startswith("django.")]
    if any({"clean", "to_python"} & vars(base).keys() for base in own):
        return _unknown(kind.__name__)
    for base in kind.__mro__:
        describe = _FIELDS.get(base)
        if describe is not None:
            break
    else:
        return _unknown(kind.__name__)
    checks = [*field.validators]
    if model_field is not None:
        checks += [each for each in getattr(model_field, "validators", ()) if each not in checks]
    limits = _Limits(checks)
    if any("validate" in vars(base) for base in own if base is not object):
        limits.notes.append(f"{kind.__name__}.validate()")
    schema = describe(field, limits, is_required)
    limits.notes += _notes(schema)
    if limits.notes:
        schema["$comment"] = _joined(limits.notes)
    return schema if is_required else _nullable(schema)


_CHECKED: Final = "also checked: "


def _joined(notes: Iterable[str]) -> str:
    return _CHECKED + ", ".join(dict.fromkeys(notes))


def _notes(schema: Schema) -> list[str]:
    comment: str = schema.get("$comment", "")
    return comment.removeprefix(_CHECKED).split(", ") if comment else []


def _unknown(what: str) -> Schema:
    return {"$comment": _joined([what])}


def _nullable(schema: Schema) -> Schema:
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    if isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    elif "type" in schema and "null" not in schema["type"]:
        schema["type"] = [*schema["type"], "null"]
    return schema


class _Limits:
    """What the validators of a field say.

    Attributes:
        notes: names of checks that a schema cannot express.
    """

    def __init__(self, checks: Iterable[Any]) -> None:
        self.min_length = 0
        self.max_length: int | None = None
        self.minimum: Any = None
        self.maximum: Any = None
        self.step: Any = None
        self.offset: Any = None
        self.max_digits: int | None = None
        self.places: int | None = None
        self.patterns: list[str] = []
        self.notes: list[str] = []
        for check in checks:
            self._add(check)

    def _add(self, check: Any) -> None:
        kind = type(check)
        limit = getattr(check, "limit_value", None)
        if callable(limit):
            self.notes.append(kind.__name__)
        elif kind is validators.MinLengthValidator:
            self.min_length = max(self.min_length, limit or 0)
        elif kind is validators.MaxLengthValidator:
            assert limit is not None
            self.max_length = limit if self.max_length is None else min(self.max_length, limit)
        elif kind is validators.MinValueValidator and _is_number(limit):
            self.minimum = limit if self.minimum is None else max(self.minimum, limit)
        elif kind is validators.MaxValueValidator and _is_number(limit):
            self.maximum = limit if self.maximum is None else min(self.maximum, limit)
        elif kind is validators.StepValueValidator and self.step is None:
            self.step, self.offset = limit, check.offset or 0
        elif kind is validators.DecimalValidator:
            self.max_digits, self.places = check.max_digits, check.decimal_places
        elif (pattern := _pattern_of(check)) is not None:
            self.patterns.append(pattern)
        elif kind is not validators.ProhibitNullCharactersValidator:
            self.notes.append(getattr(check, "__name__", kind.__name__))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and math.isfinite(value)


def _pattern_of(check: Any) -> str | None:
    """Return the pattern of a validator of texts."""
    if check == validators.validate_email:
        return whole(patterns.EMAIL)
    if type(check) is validators.URLValidator:
        return whole(patterns.url(list(check.schemes)))
    if type(check) is validators.DomainNameValidator:
        return rf"^(?=[\s\S]{{0,255}}{patterns.END}){patterns.DOMAIN}{patterns.END}"
    if type(check) is validators.RegexValidator and not check.inverse_match:
        return patterns.portable(check.regex)
    return _FUNCTIONS.get(check) if callable(check) and hasattr(check, "__name__") else None


_FUNCTIONS: Final[dict[Any, str]] = {
    validators.validate_ipv4_address: whole(patterns.IPV4),
    validators.validate_ipv6_address: whole(patterns.IPV6),
    validators.validate_ipv46_address: whole(f"{patterns.IPV4}|{patterns.IPV6}"),
}

# Patterns that no text with whitespace at its ends matches.
_TRIMMING: Final = frozenset(
    {
        whole(patterns.EMAIL),
        *_FUNCTIONS.values(),
        *(patterns.portable(each.regex) for each in (validators.validate_slug,)),
        patterns.portable(validators.validate_unicode_slug.regex),
    }
)


def text_schema(*required_patterns: str, min_length: int = 0, **more: Any) -> Schema:
    """Return the schema of a text that matches all patterns, and that can be encoded."""
    schema: Schema = {"type": "string", **more}
    if min_length:
        schema["minLength"] = min_length
    if len(required_patterns) == 1:
        schema["pattern"] = required_patterns[0]
    elif required_patterns:
        schema["allOf"] = [{"pattern": each} for each in required_patterns]
    return schema


def _char(field: Any, limits: _Limits, is_required: bool) -> Schema:
    """Describe a ``CharField`` and its subclasses without a ``to_python()``."""
    most = {} if limits.max_length is None else {"maxLength": limits.max_length}
    least = max(limits.min_length, int(is_required))
    required = [*limits.patterns]
    is_trimmed = any(each in _TRIMMING or "://" in each for each in required)
    if not is_trimmed:
        required.insert(0, patterns.ANY_TEXT)
    if not field.strip:
        filled = text_schema(*required, min_length=least, **most)
    elif limits.patterns:
        # They are searched in the text without the whitespace at its ends.
        trimmed = [] if is_trimmed else [patterns.TRIMMED]
        filled = text_schema(*required, *trimmed, min_length=least, **most)
    elif least:
        inner = f"[\\s\\S]{{{least - 2},}}{patterns.NON_SPACE}" if least > 1 else ""
        filled = text_schema(*required, patterns.NON_SPACE + inner, **most)
    else:
        filled = text_schema(*required, **most)
    if not is_required and (least or limits.patterns):
        del filled["type"]
        return {"type": "string", "anyOf": [{"maxLength": 0}, filled]}
    return filled


def _text(body: str, is_required: bool, **more: Any) -> Schema:
    """Describe a text in a format of its own; an empty one stands for nothing."""
    return text_schema(whole(body) if is_required else whole(f"(?:{body})?"), **more)


def _uuid(field: Any, limits: _Limits, is_required: bool) -> Schema:
    return _text(patterns.UUID, is_required, **({"format": "uuid"} if is_required else {}))


def _address(field: Any, limits: _Limits, is_required: bool) -> Schema:
    functions = {each: pattern for each, pattern in _FUNCTIONS.items() if each in field.validators}
    if field.max_length != 39 or field.min_length:
        limits.notes.append("length")
    body = patterns.IPV4 if validators.validate_ipv4_address in functions else patterns.IPV6
    if validators.validate_ipv46_address in functions:
        body = f"{patterns.IPV4}|{patterns.IPV6}"
    return _text(body, is_required)


def _date(field: Any, limits: _Limits, is_required: bool) -> Schema:
    body = _first_format(field.input_formats, {"%Y-%m-%d": patterns.DATE}, limits)
    more = {"format": "date"} if body == patterns.DATE and is_required else {}
    return _text(body, is_required, **more)


def _time(field: Any, limits: _Limits, is_required: bool) -> Schema:
    known = {"%H:%M:%S": "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"}
    if {"%H:%M", "%H:%M:%S", "%H:%M:%S.%f"} <= set(field.input_formats):
        return _text(patterns.TIME, is_required)
    return _text(_first_format(field.input_formats, known, limits), is_required)


def _datetime(field: Any, limits: _Limits, is_required: bool) -> Schema:
    # ISO 8601 comes first, whatever the formats are. A time without an offset may not exist.
    if settings.USE_TZ:
        more = {"format": "date-time"} if is_required else {}
        return _text(patterns.DATETIME, is_required, **more)
    return _text(patterns.LOCAL_DATETIME, is_required)


def _first_format(formats: Iterable[str], known: dict[str, str], limits: _Limits) -> str:
    """Return a pattern for one format, of those of a field."""
    texts = [str(each) for each in formats]
    for text, body in known.items():
        if text in texts:
            return body
    for text in texts:
        found = patterns.strptime(text)
        if found is not None:
            limits.notes.append(f"format {text}")
            return found
    limits.notes.append("format " + " or ".join(texts))
    return r"[^\u0000\ud800-\udfff]*"


def _duration(field: Any, limits: _Limits, is_required: bool) -> Schema:
    return _text(patterns.DURATION, is_required)


def _bounds(limits: _Limits, least: float, most: float) -> Schema:
    """Return the least and the greatest number, both within those that a field can have."""
    low = least if limits.minimum is None else max(least, _inside(limits.minimum, math.inf))
    high = most if limits.maximum is None else min(most, _inside(limits.maximum, -math.inf))
    return {"minimum": low, "maximum": high}


def _inside(limit: Any, direction: float) -> float:
    """Return a limit as a number of JSON, rounded into the range."""
    if not isinstance(limit, Decimal):
        return limit  # type: ignore[no-any-return]
    if limit == limit.to_integral_value():
        return int(limit)
    found = float(limit)
    is_outside = Decimal(found) < limit if direction > 0 else Decimal(found) > limit
    return math.nextafter(found, direction) if is_outside else found


def _integer(field: Any, limits: _Limits, is_required: bool) -> Schema:
    # Django computes steps with floats, of the difference to the least value.
    most = MAX_SAFE_INTEGER if limits.step is None else MAX_SAFE_INTEGER // 2
    schema: Schema = {"type": "integer", **_bounds(limits, -most, most)}
    if limits.step is not None:
        whole_steps = all(float(each).is_integer() for each in (limits.step, limits.offset))
        if whole_steps and limits.offset % limits.step == 0:
            schema["multipleOf"] = int(limits.step)
        else:
            limits.notes.append(f"steps of {limits.step}")
    return schema


def _float(field: Any, limits: _Limits, is_required: bool) -> Schema:
    if limits.step is not None:
        limits.notes.append(f"steps of {limits.step}")
    return {"type": "number", **_bounds(limits, -MAX_FLOAT, MAX_FLOAT)}


def _decimal(field: Any, limits: _Limits, is_required: bool) -> Schema:
    """Describe a decimal: a text, as JavaScript has no exact decimals.

    In a localized field the language decides what a text means, but not what a number means.
    """
    if limits.step is not None:
        limits.notes.append(f"steps of {limits.step}")
    if field.localize:
        if limits.max_digits is not None or limits.places is not None:
            limits.notes.append("digits")
        return {"type": "number", **_bounds(limits, -MAX_FLOAT, MAX_FLOAT)}
    low, high = (
        None if each is None else Decimal(each) for each in (limits.minimum, limits.maximum)
    )
    body = patterns.decimal(limits.max_digits, limits.places, low, high)
    return _text(body, is_required)


def _boolean(field: Any, limits: _Limits, is_required: bool) -> Schema:
    # A required flag is one that must be set, such as consent.
    return {"type": "boolean", "enum": [True]} if is_required else {"type": "boolean"}


def _null_boolean(field: Any, limits: _Limits, is_required: bool) -> Schema:
    return {"type": ["boolean", "null"]}


def _choice(field: Any, limits: _Limits, is_required: bool) -> Schema:
    values = _values(field, limits)
    if values is None:
        return {"type": "string"}
    texts = [each for each in values if each != ""]
    if texts and all(type(each) is int for each in texts):
        return {"type": "integer", "enum": texts}
    if not is_required:
        texts = ["", *texts]
    return {"type": "string", "enum": list(dict.fromkeys(map(str, texts)))}


def _values(field: Any, limits: _Limits) -> list[Any] | None:
    """Return the values of a field's choices; ``None`` if they are computed for each form."""
    if isinstance(field, forms.FilePathField) or not isinstance(field.choices, list):
        limits.notes.append("choices")
        return None
    found: list[Any] = []
    for key, label in field.choices:
        found += [inner for inner, _ in label] if isinstance(label, (list, tuple)) else [key]
    return [each for each in found if each is not None]


def _choices(field: Any, limits: _Limits, is_required: bool) -> Schema:
    values = _values(field, limits)
    items: Schema = {"type": "string"}
    if values is not None:
        is_integer = bool(values) and all(type(each) is int for each in values)
        kind = "integer" if is_integer else "string"
        items = {"type": kind, "enum": values if is_integer else [str(each) for each in values]}
    return _list_of(items, is_required)


def _list_of(items: Schema, is_required: bool) -> Schema:
    return {"type": "array", "items": items, **({"minItems": 1} if is_required else {})}


def _model(field: Any, limits: _Limits, is_required: bool) -> Schema:
    limits.notes.append(f"existence of the {field.queryset.model._meta.verbose_name}")
    return _key(field)


def _models(field: Any, limits: _Limits, is_required: bool) -> Schema:
    limits.notes.append(f"existence of each {field.queryset.model._meta.verbose_name}")
    return _list_of(_key(field), is_required)


def _key(field: Any) -> Schema:
    """Describe the value that selects a model's object."""
    meta = field.queryset.model._meta
    target = meta.get_field(field.to_field_name) if field.to_field_name else meta.pk
    while target.is_relation:
        target = target.target_field
    if isinstance(target, models.IntegerField):
        return {"type": "integer"}
    if isinstance(target, models.UUIDField):
        return text_schema(whole(patterns.UUID), format="uuid")
    return text_schema(patterns.ANY_TEXT, min_length=1)


def _json(field: Any, limits: _Limits, is_required: bool) -> Schema:
    """Describe any value: a text would be parsed as JSON."""
    if limits.max_length is not None or limits.min_length or limits.patterns:
        limits.notes.append("validators")
    kinds = ["object", "array", "number", "boolean"]
    least = {"minProperties": 1, "minItems": 1} if is_required else {}
    return {"type": kinds, "$ref": "#/$defs/Json", **least}


def _combo(field: Any, limits: _Limits, is_required: bool) -> Schema:
    parts = [_described(each, is_required, None) for each in field.fields]
    schema: Schema = {"type": "string", "allOf": parts}
    limits.notes += [note for part in parts for note in _notes(part)]
    return schema


_FIELDS: Final[dict[type, Callable[[Any, _Limits, bool], Schema]]] = {
    forms.BooleanField: _boolean,
    forms.CharField: _char,
    forms.ChoiceField: _choice,
    forms.ComboField: _combo,
    forms.DateField: _date,
    forms.DateTimeField: _datetime,
    forms.DecimalField: _decimal,
    forms.DurationField: _duration,
    forms.FloatField: _float,
    forms.GenericIPAddressField: _address,
    forms.IntegerField: _integer,
    forms.JSONField: _json,
    forms.ModelChoiceField: _model,
    forms.ModelMultipleChoiceField: _models,
    forms.MultipleChoiceField: _choices,
    forms.NullBooleanField: _null_boolean,
    forms.TimeField: _time,
    forms.UUIDField: _uuid,
}
