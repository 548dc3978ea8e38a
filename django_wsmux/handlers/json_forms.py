"""Forms filled in with JSON instead of the data of an HTML form.

A form field expects text, or a list of texts, since HTML forms send nothing else. For other types
some fields raise, and others accept an unintended value: ``true`` as the primary key 1, a list as
the text "['a']". Here both are errors of the form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.db import DataError
from django.utils.translation import gettext_lazy as _

from ..logs import LogLimit, get_logger
from .tracebacks import raised_at

__all__ = ["is_valid"]

_limit: Final = LogLimit()

logger = get_logger("django_wsmux.views")

# What fields, widgets and databases raise for a value of an unexpected type.
_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    DataError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

# Django's own methods that convert a single value. A project's field with another method gets any
# JSON value.
_FLAGS: Final = frozenset({forms.BooleanField.to_python, forms.NullBooleanField.to_python})
_CHOICES: Final = frozenset({forms.ChoiceField.to_python})
_TEXTS: Final = frozenset(
    field.to_python
    for field in (
        forms.CharField,
        forms.DateField,
        forms.DateTimeField,
        forms.DecimalField,
        forms.DurationField,
        forms.FloatField,
        forms.GenericIPAddressField,
        forms.IntegerField,
        forms.ModelChoiceField,
        forms.TimeField,
        forms.URLField,
        forms.UUIDField,
    )
)
# Those that compare a value, or its items, with texts or primary keys.
_KEYS: Final = frozenset(
    field.to_python
    for field in (
        forms.ChoiceField,
        forms.MultipleChoiceField,
        forms.ModelChoiceField,
        forms.ModelMultipleChoiceField,
    )
)
_CLEANS: Final = frozenset({forms.Field.clean, forms.TypedChoiceField.clean})

# Returned for a widget that could not read its value.
_UNREADABLE: Final = object()


def is_valid(form: forms.BaseForm) -> bool:
    """Return whether a form has no errors; see ``BaseForm.is_valid()``.

    Errors of the project's own code, such as ``clean()`` and ``clean_<field>()``, are raised.
    """
    with _guarded(form):
        return form.is_valid()


@contextmanager
def _guarded(form: forms.BaseForm) -> Iterator[None]:
    """Turn exceptions of fields for values of other types into errors of the form."""
    fields = [(name, field) for name, field in form.fields.items() if not field.disabled]
    for name, field in fields:
        raw = form.data.get(form.add_prefix(name))
        field.__dict__["clean"] = partial(_clean, field, field.clean, raw)
        widget = field.widget
        widget.__dict__["value_from_datadict"] = partial(_read, widget.value_from_datadict)
    try:
        yield
    finally:
        for _name, field in fields:
            field.__dict__.pop("clean", None)
            field.widget.__dict__.pop("value_from_datadict", None)


def _read(read: Callable[..., Any], *args: Any) -> Any:
    """Have a widget read its value."""
    try:
        return read(*args)
    except _ERRORS:
        return _UNREADABLE


def _clean(field: forms.Field, clean: Callable[..., Any], raw: Any, value: Any, *args: Any) -> Any:
    """Have a field clean a value.

    Args:
        field: the field.
        clean: its method.
        raw: the value in the message.
        value: the value that the widget returned.
        args: further arguments of the method.
    """
    if type(value) in (float, list) and type(field).to_python in _KEYS:
        value = _as_key(value)
    try:
        if value is _UNREADABLE or not _is_expected(field, raw, value) or _is_no_text(value):
            raise _invalid(field)
        return clean(value, *args)
    except _ERRORS as error:
        is_text = value is None or type(value) is str
        if is_text and not type(field).__module__.startswith("django."):
            raise  # an error of the project's field, which an HTML form would cause as well
        suffix = _limit.suffix()
        if suffix is not None:
            # Not the error itself, which may quote the peer's data.
            logger.warning(
                "%s cannot take a value of type %s: %s%s",
                type(field).__name__,
                type(raw).__name__,
                raised_at(error),
                suffix,
            )
        raise _invalid(field) from None


def _as_key(value: Any) -> Any:
    """Return a number, or a list, as keys: 1.0 is 1 in JSON, and 1.5 would find the key 1."""
    if type(value) is list:
        return list(map(_as_integer, value))
    value = _as_integer(value)
    return str(value) if type(value) is float else value


def _as_integer(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


def _is_expected(field: forms.Field, raw: Any, value: Any) -> bool:
    """Return whether a field is made for a value of this type."""
    to_python = type(field).to_python
    if to_python in _FLAGS:
        value = raw  # widgets turn any value into a flag
        is_flag = True
    else:
        is_flag = to_python in _CHOICES
    if type(field).clean not in _CLEANS or not (is_flag or to_python in _TEXTS):
        return True
    return not isinstance(value, (dict, list)) and (is_flag or type(value) is not bool)


def _is_no_text(value: Any) -> bool:
    r"""Return whether a value contains text that cannot be encoded: JSON allows "\ud800"."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return True
        return False
    if isinstance(value, dict):
        return any(_is_no_text(key) or _is_no_text(each) for key, each in value.items())
    return isinstance(value, (list, tuple)) and any(_is_no_text(each) for each in value)


def _invalid(field: forms.Field) -> ValidationError:
    """Return the error for a value that a field cannot take."""
    message = field.error_messages.get("invalid", _("Enter a valid value."))
    return ValidationError(message, code="invalid")
