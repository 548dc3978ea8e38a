"""Forms of the admin's page: what to show, and what to send."""

from __future__ import annotations

import json
from typing import Any, Final

from django import forms
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError

from ..groups.group import Group
from ..groups.json_text import dump_json
from .filters import ORDERS, Filter, Position

__all__ = ["FilterForm", "SendForm", "find_user", "user_of"]

#: Characters of the name of a group at most.
_LONGEST_NAME: Final = 200

_CONDITIONS: Final = ("q", "group", "user", "age__gte", "age__lt")

_AGES: Final = (("60", "1 minute"), ("3600", "1 hour"), ("86400", "1 day"))


def user_of(user_id: str) -> Any | None:
    """Return the user with this primary key; ``None`` if there is none."""
    try:
        return get_user_model()._default_manager.filter(pk=user_id).first()
    except (OverflowError, TypeError, ValueError, ValidationError):
        return None  # an authenticator of the project returns users of another kind


def find_user(text: str) -> Any | None:
    """Return the user of this name, or else of this primary key; ``None`` if there is none."""
    model = get_user_model()
    return model._default_manager.filter(**{model.USERNAME_FIELD: text}).first() or user_of(text)


class FilterForm(forms.Form):
    """Which sockets the page shows: the query string of its URL."""

    q = forms.CharField(label="Path or address", required=False, max_length=200)
    group = forms.CharField(
        label="Group",
        required=False,
        max_length=3 * _LONGEST_NAME,  # a pattern in which each character is escaped
        strip=False,
        widget=forms.TextInput(attrs={"placeholder": "room.lobby, room.*"}),
    )
    user = forms.CharField(
        label="User",
        required=False,
        max_length=254,
        widget=forms.TextInput(attrs={"placeholder": "name or primary key"}),
    )
    age__gte = forms.ChoiceField(
        label="Open for at least",
        required=False,
        choices=(("", "any time"), *_AGES),
    )
    age__lt = forms.ChoiceField(
        label="Open for less than",
        required=False,
        choices=(("", "any time"), *_AGES),
    )
    o = forms.CharField(required=False, widget=forms.HiddenInput)
    after = forms.CharField(required=False, widget=forms.HiddenInput)
    before = forms.CharField(required=False, widget=forms.HiddenInput)

    def filter(self) -> Filter:
        """Return what the form says; no socket matches an invalid form."""
        if not self.is_valid():
            return Filter(ids=())
        found = self.cleaned_data
        text = found["user"]
        user = find_user(text) if text else None
        return Filter(
            group=found["group"] or None,
            # A deleted user may have sockets.
            user_id=(text or None) if user is None else user._meta.pk.value_to_string(user),
            text=found["q"],
            older_than=float(found["age__gte"] or 0),
            younger_than=float(found["age__lt"]) if found["age__lt"] else None,
        )

    def summary(self) -> str:
        """Return the filter as text; ``""`` if it is that of all sockets."""
        labels = dict(_AGES)
        given = ((name, self.data.get(name, "")) for name in _CONDITIONS)
        return ", ".join(
            f"{str(self.fields[name].label).lower()} {labels.get(value, value)}"
            for name, value in given
            if value
        )

    def order(self) -> str:
        """Return the order of the sockets, by default the oldest first."""
        order = self.data.get("o", "")
        return order if order.removeprefix("-") in ORDERS else "-age"

    def place(self, name: str) -> Position | None:
        """Return a place in that order: the field ``after`` or ``before``."""
        value, _, rest = self.data.get(name, "").partition(",")
        opened, _, socket_id = rest.partition(",")
        try:
            return float(value), float(opened), socket_id
        except ValueError:
            return None


class SendForm(forms.Form):
    """A message for a group."""

    group = forms.CharField(max_length=_LONGEST_NAME, strip=False)
    group_prefix = forms.CharField(required=False, strip=False, widget=forms.HiddenInput)
    kind = forms.ChoiceField(
        label="Format",
        choices=(("text", "Text"), ("json", "JSON")),
        initial="text",
        widget=forms.RadioSelect,
    )
    message = forms.CharField(
        strip=False, widget=forms.Textarea(attrs={"rows": 8, "class": "vLargeTextField"})
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "group_prefix" not in {*self.data, *self.initial}:
            del self.fields["group_prefix"]  # the current one

    def clean_group(self) -> str:
        """Check the name."""
        name: str = self.cleaned_data["group"]
        try:
            Group(name)
        except ValueError as error:
            raise ValidationError(str(error)) from None
        return name

    def clean(self) -> None:
        """Parse the message if it is JSON."""
        text = self.cleaned_data.get("message")
        if text is None or self.cleaned_data.get("kind") != "json":
            return
        try:
            value = json.loads(text, parse_constant=_refuse)
            # A number may be too large for a float, which then is infinite.
            dump_json(value, allow_nan=False)
        except (ValueError, RecursionError) as error:
            self.add_error("message", f"This is not JSON: {error}.")
        else:
            self.cleaned_data["value"] = value

    def target(self) -> Group:
        """Return the group, with the prefix that the page shows for it.

        Raises:
            ImproperlyConfigured: ``WEBSOCKET_GROUP_PREFIX`` returns no valid prefix.
        """
        return Group(self.cleaned_data["group"]).pinned(self.cleaned_data.get("group_prefix"))

    def send(self, group: Group) -> None:
        """Send the message.

        Raises:
            BackendUnavailable: see ``Group.send()``.
        """
        if self.cleaned_data["kind"] == "json":
            group.send_json(self.cleaned_data["value"])
        else:
            group.send(self.cleaned_data["message"])


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not allowed")
