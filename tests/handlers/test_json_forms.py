"""Forms get any JSON: the answer is always that of the form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from django import forms
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.test import override_settings
from django.urls import path
from django.utils import timezone
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from django_wsmux.handlers import json_forms
from django_wsmux.logs import LogLimit
from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.views import FormWebSocketView, JSONWebSocketView
from tests.support import TIMES

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("form_sockets")]


class Tags(forms.Field):
    """Takes lists, as a project's own field may."""

    def to_python(self, value: Any) -> Any:
        return [each.strip() for each in value or ()]


class Joined(forms.TextInput):
    """A widget that joins a list to text."""

    def value_from_datadict(self, data: Any, files: Any, name: str) -> Any:
        value = data.get(name)
        return ",".join(value) if isinstance(value, list) else value


CHOICES = [("red", "Red"), ("1", "One")]

OPTIONAL: dict[str, Any] = {"required": False}


class Everything(forms.Form):
    """A field of each kind in Django."""

    flag = forms.BooleanField(**OPTIONAL)
    null_flag = forms.NullBooleanField(**OPTIONAL)
    text = forms.CharField(**OPTIONAL)
    long_text = forms.CharField(widget=forms.Textarea, **OPTIONAL)
    slug = forms.SlugField(**OPTIONAL)
    email = forms.EmailField(**OPTIONAL)
    url = forms.URLField(assume_scheme="https", **OPTIONAL)
    regex = forms.RegexField(".*", **OPTIONAL)
    uuid = forms.UUIDField(**OPTIONAL)
    address = forms.GenericIPAddressField(**OPTIONAL)
    integer = forms.IntegerField(min_value=0, step_size=3, **OPTIONAL)
    float = forms.FloatField(min_value=0, step_size=0.5, **OPTIONAL)
    decimal = forms.DecimalField(max_digits=5, decimal_places=2, step_size=0.5, **OPTIONAL)
    local = forms.DecimalField(localize=True, **OPTIONAL)
    date = forms.DateField(**OPTIONAL)
    select_date = forms.DateField(widget=forms.SelectDateWidget, **OPTIONAL)
    time = forms.TimeField(**OPTIONAL)
    moment = forms.DateTimeField(**OPTIONAL)
    split = forms.SplitDateTimeField(**OPTIONAL)
    duration = forms.DurationField(**OPTIONAL)
    choice = forms.ChoiceField(choices=CHOICES, **OPTIONAL)
    radio = forms.ChoiceField(choices=CHOICES, widget=forms.RadioSelect, **OPTIONAL)
    typed = forms.TypedChoiceField(choices=CHOICES, coerce=str, **OPTIONAL)
    choices = forms.MultipleChoiceField(choices=CHOICES, **OPTIONAL)
    boxes = forms.MultipleChoiceField(
        choices=CHOICES, widget=forms.CheckboxSelectMultiple, **OPTIONAL
    )
    typed_choices = forms.TypedMultipleChoiceField(choices=CHOICES, coerce=str, **OPTIONAL)
    combo = forms.ComboField(fields=[forms.CharField(), forms.EmailField()], **OPTIONAL)
    json = forms.JSONField(**OPTIONAL)
    file = forms.FileField(**OPTIONAL)
    image = forms.Field(widget=forms.ClearableFileInput, **OPTIONAL)
    user: forms.Field = forms.ModelChoiceField(User.objects.all(), **OPTIONAL)
    by_name: forms.Field = forms.ModelChoiceField(
        User.objects.all(), to_field_name="username", **OPTIONAL
    )
    users: forms.Field = forms.ModelMultipleChoiceField(User.objects.all(), **OPTIONAL)
    session: forms.Field = forms.ModelChoiceField(Session.objects.all(), **OPTIONAL)
    sessions: forms.Field = forms.ModelMultipleChoiceField(Session.objects.all(), **OPTIONAL)
    tags = Tags(**OPTIONAL)
    joined = forms.CharField(widget=Joined, **OPTIONAL)


#: Names of the fields, including those with several widgets and files.
NAMES = [
    *Everything.base_fields,
    *("split_0", "split_1", "select_date_year", "select_date_month", "select_date_day"),
    *("file-clear", "image-clear"),
]


class Broken(forms.Form):
    """A form whose own code is wrong."""

    own = forms.IntegerField(required=False)
    form = forms.IntegerField(required=False)

    def clean_own(self) -> Any:
        return self.cleaned_data["own"] and len(self.cleaned_data["own"])

    def clean(self) -> Any:
        return self.cleaned_data.get("form") and len(self.cleaned_data["form"])


class Person(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = User
        fields = ("username", "is_staff", "groups")


def plain(value: Any) -> Any:
    """Return a field's value as something that a test can compare."""
    if isinstance(value, QuerySet):
        return sorted(plain(each) for each in value)
    return getattr(value, "pk", value)


class Forms(FormWebSocketView):
    forms = {"all": Everything, "broken": Broken, "person": Person}  # noqa: RUF012

    def form_valid(self, form: Any) -> None:
        found = {name: plain(form.cleaned_data[name]) for name in form.data if name in form.fields}
        # ASCII for text that cannot be sent; text for values that JSON cannot express.
        self.websocket.send(json.dumps({"valid": found}, default=repr))


class Values(JSONWebSocketView):
    def receive_json(self, value: Any) -> None:
        self.send_json({"type": type(value).__name__})


urlpatterns = [path("forms/", Forms.as_view()), path("values/", Values.as_view())]


@pytest.fixture
def form_sockets() -> Iterator[None]:
    """Use the sockets of this module."""
    with override_settings(WEBSOCKET_URLCONF=__name__):
        yield


@pytest.fixture
def ws(client: WebSocketClient) -> Iterator[ClientWebSocket]:
    """A socket with forms, and rows to choose from."""
    User.objects.create(pk=1, username="ann")
    Session.objects.create(session_key="1", expire_date=timezone.now())
    with client.websocket("/forms/") as ws:
        yield ws


def ask(ws: ClientWebSocket, name: str, text: str) -> Any:
    """Send a JSON value for one field; return the field's value or its error codes."""
    ws.send(f'{{"type": "all", "{name}": {text}}}')
    answer = ws.receive_json()
    if "valid" in answer:
        return answer["valid"].get(name)
    return {error["code"] for error in answer["errors"][name]}


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**18, max_value=10**30)
    | st.sampled_from([10**4000, -(10**4000), 2**63, 1.5, -0.0, 1e308, float("inf")])
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["\ud800", "a\x00b", "1", "ann", "red", "1e400", "9" * 5000, "[", "[1]"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def everywhere(value: Any) -> dict[str, Any]:
    """Return a message with the same value under each name."""
    return dict.fromkeys(NAMES, value)


@settings(
    max_examples=50 * TIMES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@example(everywhere([]))
@example(everywhere([[]]))
@example(everywhere({}))
@example(everywhere(5))
@example(everywhere(10**4000))
@example(everywhere([10**4000]))
@example(everywhere(True))
@example(everywhere(float("inf")))
@example(everywhere([float("inf")]))
@example(everywhere("\ud800"))
@example(everywhere(["\ud800"]))
@example(everywhere({"\ud800": 1}))
@example(everywhere("a\x00b"))
@example(everywhere("9" * 5000))
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1))
def test_any_value(ws: ClientWebSocket, message: dict[str, Any]) -> None:
    """Any value gets an answer, and the socket stays open."""
    text = json.dumps({**message, "type": "all"}).replace("Infinity", "1e400")
    ws.send(text)
    answer = ws.receive_json()
    assert "valid" in answer or answer["errors"], text
    assert not ws.closed


def test_log(
    ws: ClientWebSocket, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log shows where a field failed, but not the value."""
    monkeypatch.setattr(json_forms, "_limit", LogLimit())
    ask(ws, "tags", "[12345]")
    (line,) = caplog.messages
    assert re.fullmatch(
        r"Tags cannot take a value of type list: AttributeError in "
        r"fields.py:\d+ > test_json_forms.py:\d+ > test_json_forms.py:\d+",
        line,
    )


def test_deep(ws: ClientWebSocket) -> None:
    """Deep nesting is refused by the parser or by the field."""
    for depth in (50, 300, 500, 700, 900, 950, 990, 5000):
        for name in NAMES:
            ws.send(f'{{"type": "all", "{name}": {"[" * depth}{"]" * depth}}}')
            assert ws.receive_json()
    assert not ws.closed


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("date", "5", {"invalid"}),
        ("null_flag", "[true]", {"invalid"}),
        ("null_flag", "true", True),
        ("null_flag", "null", None),
        ("flag", "[1]", {"invalid"}),
        ("flag", "{}", {"invalid"}),
        ("flag", "true", True),
        ("flag", '"false"', False),
        ("text", '["a"]', {"invalid"}),
        ("text", '{"a": 1}', {"invalid"}),
        ("text", "true", {"invalid"}),
        ("text", "5", "5"),
        ("text", '"\\ud800"', {"invalid"}),
        ("text", '"\\ud83d\\ude00"', "\U0001f600"),
        ("text", '"\u00e9"', "\u00e9"),
        ("float", "true", {"invalid"}),
        ("float", "1.5", 1.5),
        ("float", "1" * 400, {"invalid"}),
        ("integer", "3", 3),
        ("integer", "3.0", 3),
        ("integer", "1e308", {"invalid"}),
        ("local", "1.5", "Decimal('1.5')"),
        ("user", "1", 1),
        ("user", '"1"', 1),
        ("user", "true", {"invalid"}),
        ("user", "1.5", {"invalid_choice"}),
        ("user", "1.0", 1),
        ("user", "1e308", {"invalid_choice"}),
        ("user", "[1]", {"invalid"}),
        ("by_name", '"ann"', 1),
        ("users", "[1]", [1]),
        ("users", "[true]", {"invalid_choice"}),
        ("users", "[1.5]", {"invalid_choice"}),
        ("users", "[1.0]", [1]),
        ("users", "[[1.0]]", {"invalid_list"}),
        ("users", "1", {"invalid_list"}),
        ("users", "[1e308]", {"invalid"}),
        ("choice", '["red"]', {"invalid"}),
        ("choice", "1", "1"),
        ("choice", "1.0", "1"),
        ("choice", "1.5", {"invalid_choice"}),
        ("choices", '["red", "1"]', ["red", "1"]),
        ("choices", '{"red": 1}', {"invalid_list"}),
        ("json", '{"a": [1, true]}', {"a": [1, True]}),
        ("json", '["\\ud800"]', {"invalid"}),
        ("tags", '["a ", " b"]', ["a", "b"]),
        ("tags", "[5]", {"invalid"}),
        ("joined", '["a", "b"]', "a,b"),
    ],
)
def test_value(ws: ClientWebSocket, name: str, text: str, expected: object) -> None:
    """A field takes what it should, also as JSON types; anything else is an error."""
    assert ask(ws, name, text) == expected


@pytest.mark.parametrize("text", ["NaN", "-Infinity", '{"type": "all", "text": NaN}', "1" * 5000])
def test_invalid_json(ws: ClientWebSocket, text: str) -> None:
    """Python's extensions of JSON are refused."""
    ws.send(text)
    assert ws.receive_json()["errors"]["__all__"][0]["code"] == "invalid_json"


@pytest.mark.parametrize("kind", ["5", "true", "null", "[]", "{}", '"\\ud800"', '"other"', "1e308"])
def test_type_of_any_type(ws: ClientWebSocket, kind: str) -> None:
    """A message type of any JSON type is answered."""
    ws.send(f'{{"type": {kind}}}')
    assert ws.receive_json()["errors"]["__all__"][0]["code"] == "unknown_type"


def test_last_of_two(ws: ClientWebSocket) -> None:
    """Of a repeated key the last one counts, as in JavaScript."""
    ws.send('{"type": 5, "text": [], "type": "all", "text": "b"}')
    assert ws.receive_json() == {"valid": {"text": "b"}}


@pytest.mark.parametrize("name", ["own", "form"])
def test_own_code(client: WebSocketClient, name: str) -> None:
    """An exception in the project's own code is raised, not reported as an error of the form."""
    with client.websocket("/forms/") as ws:
        with pytest.raises(TypeError, match=r"has no len\(\)"):
            ws.send_json({"type": "broken", name: 5})
        assert ws.close_code == 1011


def test_model_form(ws: ClientWebSocket) -> None:
    """A model form does not query with text that the database cannot encode."""
    ws.send('{"type": "person", "username": "\\ud800", "groups": [[]]}')
    assert ws.receive_json()["errors"].keys() == {"username", "groups"}
    ws.send_json({"type": "person", "username": "bob", "is_staff": True})
    assert ws.receive_json()["valid"] == {"username": "bob", "is_staff": True}


def test_field_is_left_alone() -> None:
    """Validation leaves the form's fields unchanged, also after an error."""

    class Raising(forms.Form):
        own = forms.IntegerField()

        def clean(self) -> Any:
            raise KeyError("own")

    for form in (Everything({"text": ["a"]}), Raising({"own": 5})):
        with suppress(KeyError):
            assert not json_forms.is_valid(form)
        for field in form.fields.values():
            assert "clean" not in vars(field)
            assert "value_from_datadict" not in vars(field.widget)


def test_disabled() -> None:
    """A disabled field takes its initial value, whatever is sent."""

    class Form(forms.Form):
        text = forms.CharField(disabled=True, initial="kept")

    form = Form({"text": []})
    assert json_forms.is_valid(form)
    assert form.cleaned_data == {"text": "kept"}


def test_validator() -> None:
    """A field's own errors are kept."""

    def even(value: Any) -> None:
        if value % 2:
            raise ValidationError("odd", code="odd")

    class Form(forms.Form):
        number = forms.IntegerField(validators=[even])

    form = Form({"number": 5})
    assert not json_forms.is_valid(form)
    assert form.errors.get_json_data() == {"number": [{"message": "odd", "code": "odd"}]}
