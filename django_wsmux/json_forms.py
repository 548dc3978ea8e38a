"""Forms that are filled in with JSON instead of what a browser sends.

A form field expects text, or a list of texts, as HTML forms have nothing else. Other types lead
some fields to raise, and others to take what is not meant: ``true`` as the primary key 1, a list as
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

from .server.logs import get_logger
from .server.refusals import LogLimit
from .tracebacks import raised_at

__all__ = ["is_valid"]

_limit: Final = LogLimit()

logger = get_logger("django_wsmux.views")

# What a value of an unexpected type leads to, in fields, widgets and databases.
_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    DataError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

# How Django's own fields for a single value make one of it. Fields of a project that do it in
# another way get any value that JSON has.
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
_CLEANS: Final = frozenset({forms.Field.clean, forms.TypedChoiceField.clean})

# What a widget returns that could not read its value.
_UNREADABLE: Final = object()


def is_valid(form: forms.BaseForm) -> bool:
    """Return whether a form has no errors; see ``BaseForm.is_valid()``.

    Errors of the project's own code, such as ``clean()`` and ``clean_<field>()``, are raised.
    """
    with _guarded(form):
        return form.is_valid()


@contextmanager
def _guarded(form: forms.BaseForm) -> Iterator[None]:
    """Turn what fields raise for values of other types into errors of the form."""
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
        raw: what the message has under the name of the field.
        value: what the widget has made of it.
        args: for the method, beside the value.
    """
    if type(value) is float and type(field).to_python is forms.ModelChoiceField.to_python:
        value = str(value)  # else 1.5 finds the primary key 1
    try:
        if value is _UNREADABLE or not _is_expected(field, raw, value) or _is_no_text(value):
            raise _invalid(field)
        return clean(value, *args)
    except _ERRORS as error:
        is_text = value is None or type(value) is str
        if is_text and not type(field).__module__.startswith("django."):
            raise  # an error of the project's field, which a browser would meet as well
        suffix = _limit.suffix()
        if suffix is not None:
            # Not the error itself, as that may quote what the peer has sent.
            logger.warning(
                "%s cannot take a value of type %s: %s%s",
                type(field).__name__,
                type(raw).__name__,
                raised_at(error),
                suffix,
            )
        raise _invalid(field) from None


def _is_expected(field: forms.Field, raw: Any, value: Any) -> bool:
    """Return whether a field means to take a value of this type."""
    to_python = type(field).to_python
    if to_python in _FLAGS:
        value = raw  # widgets make a flag of anything
        is_flag = True
    else:
        is_flag = to_python in _CHOICES
    if type(field).clean not in _CLEANS or not (is_flag or to_python in _TEXTS):
        return True
    return not isinstance(value, (dict, list)) and (is_flag or type(value) is not bool)


def _is_no_text(value: Any) -> bool:
    r"""Return whether there is text in a value that has no encoding: JSON can say "\ud800"."""
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
    """Return the error of a field that cannot take a value."""
    message = field.error_messages.get("invalid", _("Enter a valid value."))
    return ValidationError(message, code="invalid")
