"""Fields of forms: what a schema accepts, the field accepts.

``TEST_TIMES=1000 pytest tests/schema/test_fields.py`` tests more values of each field.
"""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from typing import Any

import pytest
from django import forms
from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session
from django.core import validators
from django.db.models import IntegerChoices, TextChoices
from django.utils import timezone, translation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_wsmux.handlers.json_forms import is_valid
from django_wsmux.schema.fields import properties_of
from django_wsmux.schema.records import JSON
from tests.support import TIMES

from .values import accepted, validator

pytestmark = pytest.mark.django_db

#: Values of each field; Hypothesis generates them from the schema.
VALUES = 4 * TIMES

DOCUMENT = {"$defs": {"Json": JSON}}

#: Primary keys that exist.
KEYS = [1, 2, 3]


class Size(IntegerChoices):
    SMALL = 1
    LARGE = 2


class Color(TextChoices):
    RED = "r"
    BLUE = "b"


class OwnField(forms.CharField):
    def to_python(self, value: Any) -> Any:
        return value


class Stricter(forms.IntegerField):
    def validate(self, value: Any) -> None:
        super().validate(value)


class OwnWidget(forms.TextInput):
    def value_from_datadict(self, data: Any, files: Any, name: str) -> Any:
        return data.get(name)


def both(make: Any, *good: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """Return a field that is required and one that is not, with values for both."""
    return [(lambda: make(required=True), good), (lambda: make(required=False), (*good, None))]


def of(kind: Any, **options: Any) -> Any:
    """Return a function that makes a field."""
    return lambda **more: kind(**options, **more)


#: Fields, with values that a client would send.
FIELDS: dict[str, list[tuple[Any, tuple[Any, ...]]]] = {
    "boolean": both(of(forms.BooleanField), True),
    "null boolean": both(of(forms.NullBooleanField), True, False, None),
    "char": both(of(forms.CharField), "a", " a ", "\U0001f600", "a\nb"),
    "char lengths": both(of(forms.CharField, min_length=3, max_length=5), "abc", "abcde"),
    "char min 1": both(of(forms.CharField, min_length=1), "a"),
    "char min 2": both(of(forms.CharField, min_length=2), "ab", " ab"),
    "char max": both(of(forms.CharField, max_length=3), "abc"),
    "char unstripped": both(of(forms.CharField, strip=False, min_length=2), "  ", "ab"),
    "char empty": both(of(forms.CharField, empty_value=None, strip=False), "a"),
    "char regex": both(
        of(forms.CharField, validators=[validators.RegexValidator(r"^\w{2}$")]), "ab", "12"
    ),
    "char foreign regex": both(
        of(forms.CharField, validators=[validators.RegexValidator(r"(?i)^[\s\S]*\Z")]), "ab"
    ),
    "char email": both(of(forms.CharField, validators=[validators.validate_email]), "a@b.co"),
    "char domain": both(
        of(forms.CharField, validators=[validators.validate_domain_name]), "example.org"
    ),
    "char address": both(
        of(forms.CharField, validators=[validators.validate_ipv46_address]), "::1", "1.2.3.4"
    ),
    "char integers": both(
        of(forms.CharField, validators=[validators.validate_comma_separated_integer_list]), "1,2"
    ),
    "textarea": both(of(forms.CharField, widget=forms.Textarea), "a"),
    "integer": both(of(forms.IntegerField), 0, -5, 2**53 - 1),
    "integer range": both(of(forms.IntegerField, min_value=-3, max_value=10), -3, 10),
    "integer float range": both(of(forms.IntegerField, min_value=-0.5, max_value=2.5), 0, 2),
    "integer steps": both(of(forms.IntegerField, step_size=3, min_value=-6), -6, 0, 9),
    "integer odd steps": both(of(forms.IntegerField, step_size=7, max_value=70), 70, -7),
    "integer localized": both(of(forms.IntegerField, localize=True), 1000),
    "float": both(of(forms.FloatField), 1.5, -1, 1e300),
    "float range": both(of(forms.FloatField, min_value=0.1, max_value=0.3), 0.1, 0.3),
    "float decimal range": both(
        of(forms.FloatField, min_value=Decimal("0.1"), max_value=Decimal("0.3")), 0.2
    ),
    "float localized": both(of(forms.FloatField, localize=True), 1000.5),
    "decimal": both(of(forms.DecimalField), "1.5", "-0", "1000000"),
    "decimal digits": both(
        of(forms.DecimalField, max_digits=5, decimal_places=2), "123.45", "-0.1"
    ),
    "decimal fraction": both(of(forms.DecimalField, max_digits=2, decimal_places=2), "0.25"),
    "decimal max digits": both(of(forms.DecimalField, max_digits=3), "1.23", "0", "999"),
    "decimal places": both(of(forms.DecimalField, decimal_places=1), "1.5", "12345678"),
    "decimal whole": both(of(forms.DecimalField, max_digits=3, decimal_places=0), "999"),
    "decimal range": both(
        of(forms.DecimalField, min_value=Decimal("-10.5"), max_value=Decimal("99.95")),
        *("-10.5", "-10.50", "0", "9", "99.95", "-0.001", "10.999"),
    ),
    "decimal positive range": both(
        of(forms.DecimalField, min_value=Decimal("10.05"), max_value=1000), "10.05", "1000", "999.9"
    ),
    "decimal negative range": both(
        of(forms.DecimalField, min_value=-20, max_value=Decimal("-0.5")), "-20", "-0.5", "-7"
    ),
    "decimal float range": both(
        of(forms.DecimalField, min_value=0.1, max_value=0.7), "0.2", "0.69"
    ),
    "decimal localized": both(of(forms.DecimalField, localize=True, min_value=0), 1.5, 1000),
    "choice": both(
        of(forms.ChoiceField, choices=[("", "None"), ("a", "A"), ("Group", [("b", "B")])]), "a", "b"
    ),
    "choice integers": both(of(forms.ChoiceField, choices=Size), 1, 2),
    "choice texts": both(of(forms.ChoiceField, choices=Color), "r"),
    "choice mixed": both(of(forms.ChoiceField, choices=[(1, "One"), ("a", "A")]), "1", "a"),
    "choice radio": both(
        of(forms.ChoiceField, choices=[("a", "A")], widget=forms.RadioSelect), "a"
    ),
    "typed choice": both(of(forms.TypedChoiceField, choices=Size, coerce=int), 1, 2),
    "typed choice empty": both(
        of(
            forms.TypedChoiceField,
            choices=Size,
            coerce=lambda text: Size(int(text)),
            empty_value=None,
        ),
        1,
    ),
    "choices": both(of(forms.MultipleChoiceField, choices=Color), ["r"], ["b", "r", "r"]),
    "choices boxes": both(
        of(forms.MultipleChoiceField, choices=Color, widget=forms.CheckboxSelectMultiple), ["r"]
    ),
    "typed choices": both(of(forms.TypedMultipleChoiceField, choices=Size, coerce=int), [1, 2]),
    "model": both(of(forms.ModelChoiceField, queryset=User.objects.all()), 1, 2),
    "model by name": both(
        of(forms.ModelChoiceField, queryset=User.objects.all(), to_field_name="username"), "1"
    ),
    "model text": both(of(forms.ModelChoiceField, queryset=Session.objects.all()), "1"),
    "models": both(of(forms.ModelMultipleChoiceField, queryset=User.objects.all()), [1], [3, 1]),
    "date": both(of(forms.DateField), "2026-05-01", "2024-02-29"),
    "date selects": both(of(forms.DateField, widget=forms.SelectDateWidget), "2026-05-01"),
    "date localized": both(of(forms.DateField, localize=True), "2026-05-01"),
    "date own formats": both(of(forms.DateField, input_formats=["%Y-%m-%d"]), "2026-05-01"),
    "time": both(of(forms.TimeField), "12:30", "12:30:59", "12:30:00.5"),
    "time localized": both(of(forms.TimeField, localize=True), "12:30"),
    "time own format": both(of(forms.TimeField, input_formats=["%I", "%H:%M:%S"]), "12:30:01"),
    "moment": both(
        of(forms.DateTimeField), "2026-05-01T12:30:00Z", "2026-05-01T12:30:00.123+02:00"
    ),
    "moment localized": both(of(forms.DateTimeField, localize=True), "2026-05-01T12:30:00Z"),
    "moment own format": both(
        of(forms.DateTimeField, input_formats=["%d.%m.%Y"]), "2026-05-01T12:30:00Z"
    ),
    "duration": both(of(forms.DurationField), "P3DT4H", "PT0.5S", "-P1D", "P0DT00H01M00.5S"),
    "email": both(of(forms.EmailField), "ann@example.org"),
    "email short": both(of(forms.EmailField, max_length=12, min_length=7), "ann@ex.org"),
    "url": both(
        of(forms.URLField, assume_scheme="https"),
        *("https://example.org", "http://localhost:8000/x?y#z", "ftp://1.2.3.4/"),
    ),
    "url schemes": both(
        of(
            forms.URLField,
            assume_scheme="https",
            validators=[validators.URLValidator(schemes=["https"])],
        ),
        "https://example.org",
    ),
    "uuid": both(of(forms.UUIDField), str(uuid.UUID(int=5))),
    "slug": both(of(forms.SlugField), "a-b_1"),
    "slug unicode": both(of(forms.SlugField, allow_unicode=True, max_length=4), "a-é"),
    "regex": both(of(forms.RegexField, regex=r"^[a-z]{2,4}$"), "abc"),
    "regex stripped": both(of(forms.RegexField, regex=r"^.{3}$", strip=True), "abc"),
    "regex unanchored": both(of(forms.RegexField, regex="x", max_length=3), "axb"),
    "json": both(of(forms.JSONField), {"a": [1, None, "b"]}, [1], 5, True),
    "address": both(of(forms.GenericIPAddressField), "1.2.3.4", "::1", "2001:db8::8:1"),
    "address 4": both(of(forms.GenericIPAddressField, protocol="ipv4"), "255.0.0.1"),
    "address 6": both(of(forms.GenericIPAddressField, protocol="ipv6"), "fe80::1"),
    "address unpacked": both(of(forms.GenericIPAddressField, unpack_ipv4=True), "::ffff:1:2"),
    "combo": both(
        lambda **more: forms.ComboField(
            fields=[forms.CharField(max_length=20), forms.EmailField()], **more
        ),
        "a@b.co",
    ),
    "stricter": both(of(Stricter), 5),
}

#: Cases by name: the function that makes the field, and values that must be accepted.
CASES = {
    f"{name}{suffix}": case
    for name, cases in FIELDS.items()
    for suffix, case in zip(("", " or not"), cases, strict=True)
}


def form_with(make: Any) -> Any:
    """Return a form class with one field."""
    return type("Form", (forms.Form,), {"field": make()})


def schema_of(form_class: Any) -> dict[str, Any]:
    """Return the schema of a form's data."""
    properties, required = {}, []
    for name, schema, is_required in properties_of(form_class):
        properties[name] = schema
        required += [name] * is_required
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


@pytest.fixture(autouse=True)
def rows(db: None) -> None:
    """Rows to choose from."""
    User.objects.bulk_create(User(pk=key, username=str(key)) for key in KEYS)
    Session.objects.create(session_key="1", expire_date=timezone.now())


def existing(field: forms.Field, value: Any) -> Any:
    """Return a value that selects rows that exist, in the place of one of the same type."""
    if not isinstance(field, forms.ModelChoiceField) or value is None:
        return value
    if isinstance(value, list):
        return [existing(field, each or 1) for each in value]
    if isinstance(value, str):
        return "1"
    return type(value)(KEYS[int(value) % 3])


@pytest.mark.parametrize("name", CASES)
def test_accepted(name: str) -> None:
    """Whatever the schema accepts, the field accepts, in each language."""
    form_class = form_with(CASES[name][0])
    field = form_class.base_fields["field"]
    schema = schema_of(form_class)

    @settings(
        max_examples=VALUES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(accepted(schema, DOCUMENT), st.sampled_from(["en", "de", "fr"]))
    def check(data: dict[str, Any], language: str) -> None:
        data = json.loads(json.dumps(data))
        if "field" in data:
            data["field"] = existing(field, data["field"])
        with translation.override(language):
            form = form_class(data)
            assert is_valid(form), (data, form.errors.get_json_data())

    check()


@pytest.mark.parametrize("name", CASES)
def test_usual_values(name: str) -> None:
    """The schema accepts what a client would send, and so does the field."""
    make, good = CASES[name]
    form_class = form_with(make)
    check = validator(schema_of(form_class), DOCUMENT)
    for value in good:
        check.validate({"field": value})
        assert is_valid(form_class({"field": value})), value
    is_optional = not make().required
    assert check.is_valid({}) == is_valid(form_class({})) or name == "null boolean"
    assert is_optional <= check.is_valid({})


@pytest.mark.parametrize(
    ("make", "bad"),
    [
        (of(forms.BooleanField), [False, "true", 1, None]),
        (of(forms.CharField), ["", "  ", "\x00", "\ud800", 5, None, ["a"]]),
        (of(forms.CharField, min_length=3), ["ab", " ab "]),
        (of(forms.IntegerField, min_value=1), [0, 1.5, "1", True, 1e22]),
        (of(forms.DecimalField, max_digits=3, decimal_places=1), ["1.55", "100", "1e1", 1, ""]),
        (of(forms.ChoiceField, choices=Size), [3, "1", True]),
        (of(forms.MultipleChoiceField, choices=Color), [[], "r", ["x"]]),
        (of(forms.DateField), ["2026-02-29", "01.05.2026", ""]),
        (of(forms.DateTimeField), ["2026-05-01T12:30:00", "2026-05-01"]),
        (of(forms.SlugField), ["a b", "a\n"]),
        (of(forms.JSONField), ["text", None, {}, [], {"a": "\ud800"}, {"\ud800": 1}]),
        (of(forms.FileField), ["a", None]),
    ],
)
def test_refused(make: Any, bad: list[Any]) -> None:
    """The schema refuses what the field refuses, and values of other types."""
    check = validator(schema_of(form_with(make)), DOCUMENT)
    for value in bad:
        assert not check.is_valid({"field": value}), value


def notes(field: forms.Field, **attributes: Any) -> str:
    """Return the names of the checks that are left out."""
    (found,) = properties_of(type("Form", (forms.Form,), {"field": field, **attributes}))
    comment: str = found[1].get("$comment", "")
    return comment.removeprefix("also checked: ")


def even(value: Any) -> None:
    """A validator of the project."""


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (of(forms.IntegerField, validators=[even]), "even"),
        (of(forms.IntegerField, step_size=3, min_value=1), "steps of 3"),
        (of(forms.FloatField, step_size=0.5), "steps of 0.5"),
        (of(forms.DecimalField, step_size=0.5), "steps of 0.5"),
        (of(forms.DecimalField, localize=True, max_digits=3), "digits"),
        (
            of(forms.IntegerField, validators=[validators.MaxValueValidator(lambda: 5)]),
            "MaxValueValidator",
        ),
        (
            of(forms.CharField, validators=[validators.RegexValidator("a", inverse_match=True)]),
            "RegexValidator",
        ),
        (of(forms.ChoiceField, choices=lambda: [("a", "A")]), "choices"),
        (of(forms.FilePathField, path="/"), "choices"),
        (of(forms.DateField, input_formats=["%d.%m.%Y"]), "format %d.%m.%Y"),
        (of(forms.DateField, input_formats=["%A"]), "format %A"),
        (of(forms.GenericIPAddressField, max_length=20), "length"),
        (of(forms.JSONField, max_length=20), "validators"),
        (of(forms.ModelChoiceField, queryset=User.objects.all()), "existence of the user"),
        (of(Stricter), "Stricter.validate()"),
        (of(OwnField), "OwnField"),
        (of(forms.Field), "Field"),
        (of(forms.CharField, widget=OwnWidget), "widget OwnWidget"),
        (
            lambda: forms.ComboField(fields=[forms.CharField(validators=[even])]),
            "even",
        ),
    ],
)
def test_left_out(make: Any, expected: str) -> None:
    """The schema names the checks that it does not contain."""
    assert notes(make()) == expected


def test_keys() -> None:
    """Names have the form's prefix; several widgets have a key each; disabled fields have none."""

    class Form(forms.Form):
        prefix = "a"
        text = forms.CharField()
        hidden = forms.CharField(disabled=True, initial="a")
        file = forms.FileField(required=False)
        moment = forms.SplitDateTimeField()

    found = {name: is_required for name, _, is_required in properties_of(Form)}
    assert found == {"a-text": True, "a-moment_0": True, "a-moment_1": True}
    data = {"a-text": "x", "a-moment_0": "2026-05-01", "a-moment_1": "12:30"}
    validator(schema_of(Form)).validate(data)
    assert is_valid(Form(data))


class GroupForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Group
        fields = ("name", "permissions")


class UserForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = User
        fields = ("username", "email", "is_staff", "groups")


def test_model_form() -> None:
    """Validators of the model's fields count, too."""
    schema = schema_of(UserForm)
    assert schema["required"] == ["username"]
    assert "UnicodeUsernameValidator" in schema["properties"]["username"]["$comment"]
    assert schema["properties"]["email"]["anyOf"][1]["maxLength"] == 254
    assert schema["properties"]["is_staff"]["type"] == ["boolean", "null"]
    assert schema["properties"]["groups"]["items"] == {"type": "integer"}
    assert schema_of(GroupForm)["properties"]["name"]["maxLength"] == 150


@pytest.fixture
def naive(settings: Any) -> None:
    """A project without time zones."""
    settings.USE_TZ = False


@pytest.mark.usefixtures("naive")
def test_without_time_zones() -> None:
    """Without time zones a time has no offset."""
    form_class = form_with(of(forms.DateTimeField))
    check = validator(schema_of(form_class))
    data = {"field": "2026-05-01T12:30:00"}
    check.validate(data)
    assert is_valid(form_class(data))
    assert not check.is_valid({"field": "2026-05-01T12:30:00Z"})
