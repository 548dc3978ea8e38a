"""Messages of htmx: its formats, and forms that are answered with HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django import forms
from django.core.exceptions import ValidationError
from django.test import override_settings
from django.urls import path
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from django_wsmux.exceptions import ConnectionClosed
from django_wsmux.handlers.htmx import fields_of
from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.testing.client import close_all
from django_wsmux.views import FormWebSocketView
from tests.support import TIMES

from .test_json_forms import NAMES, Everything

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("htmx_sockets")]

#: The headers of htmx 2 and of htmx 4, shortened.
HEADERS = {"HX-Request": "true", "HX-Current-URL": "https://example.com/"}

#: A message of each format, with these fields.
FORMATS: dict[str, Any] = {
    "2": lambda fields: {**fields, "HEADERS": HEADERS},
    "4": lambda fields: {**fields, "headers": HEADERS},
    "4 with a body": lambda fields: {"headers": HEADERS, "body": fields},
}

ALL = pytest.mark.parametrize("format", FORMATS)


class SayForm(forms.Form):
    text = forms.CharField(max_length=5)
    tags = forms.MultipleChoiceField(choices=[("a", "A"), ("b", "B")], required=False)
    loud = forms.BooleanField(required=False)
    count = forms.IntegerField(required=False)


class NeverValid(Everything):
    def clean(self) -> None:
        raise ValidationError("never")


@dataclass
class Move:
    x: int


class Chat(FormWebSocketView):
    """Sends what a form has made of a message."""

    forms = {"say": SayForm, "bare": SayForm, "move": Move, "own": SayForm}  # noqa: RUF012
    templates = {"say": "say.html", "move": "say.html", "own": "say.html"}  # noqa: RUF012

    def form_valid(self, form: Any) -> Any:
        text = form.cleaned_data["text"]
        if text == "empty":
            self.send_form(form.message_type)
        elif text == "no":
            raise ValidationError("Not <that>.")
        elif text == "twice":
            self.send_form("say")
            raise ValidationError("Late.")
        else:
            return {key: form.cleaned_data[key] for key in form.fields}
        return None

    def say_valid(self, form: Any) -> None:
        reply = self.form_valid(form)
        if reply is not None:
            self.send_json(reply)

    def move_valid(self, move: Move) -> None:
        if move.x > 8:
            raise ValidationError({"x": "Too far."})
        self.send_json({"x": move.x})

    def own_invalid(self, form: Any) -> None:
        self.send("own")


class Wide(FormWebSocketView):
    """Has fields of all kinds."""

    forms = {"say": NeverValid}  # noqa: RUF012
    templates = {"say": "form.html"}  # noqa: RUF012


class Once(Chat):
    """Does each request once."""

    once = True


urlpatterns = [
    path("chat/", Chat.as_view()),
    path("wide/", Wide.as_view()),
    path("once/", Once.as_view()),
    path("limited/", Chat.as_view(limits={"say": "1/h"})),
]

SAY = (
    "{% for each in form.errors.values %}{{ each }}{% endfor %}"
    "[{{ form.text.value }}]{{ view.args }}"
)


@pytest.fixture
def htmx_sockets(tmp_path: Path) -> Iterator[None]:
    """Use the sockets and templates of this module."""
    (tmp_path / "say.html").write_text(SAY)
    (tmp_path / "form.html").write_text("{{ form }}")
    backend = "django.template.backends.django.DjangoTemplates"
    with override_settings(
        WEBSOCKET_URLCONF=__name__,
        WEBSOCKET_BACKEND="memory://",
        TEMPLATES=[{"BACKEND": backend, "DIRS": [tmp_path]}],
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    ):
        yield
        close_all()


@pytest.fixture
def ws(client: WebSocketClient) -> ClientWebSocket:
    """A plain socket."""
    return client.websocket("/chat/")


@pytest.fixture
def v1(client: WebSocketClient) -> ClientWebSocket:
    """A socket with ``wsmux.v1``, after the welcome."""
    return welcomed(client, "/chat/")


def welcomed(client: WebSocketClient, url: str) -> ClientWebSocket:
    ws = client.websocket(url, subprotocols=["wsmux.v1"])
    assert "welcome" in ws.receive_json()
    return ws


def answers(ws: ClientWebSocket, message: Any) -> list[Any]:
    """Send a message; return the answers, as values if they are JSON."""
    ws.send_json(message)
    found = [str(each) for each in ws.peek()]
    for _ in found:
        ws.receive()
    return [json.loads(each) if each[:1] == "{" else each for each in found]


def fields_in(message: Any) -> dict[str, list[str]] | None:
    """Return the fields of a message of htmx as a plain dict."""
    fields = fields_of(message)
    return None if fields is None else dict(fields.lists())


class TestFormats:
    """``fields_of()``, and forms that get the fields."""

    @ALL
    def test_valid(self, ws: ClientWebSocket, format: str) -> None:
        """A field with one value is a text, one with several a list, and headers are no field."""
        fields = {"type": "say", "text": "hi", "tags": ["a", "b"], "loud": "on", "count": "3"}
        clean = {"text": "hi", "tags": ["a", "b"], "loud": True, "count": 3}
        assert answers(ws, FORMATS[format](fields)) == [clean]
        fields |= {"tags": "a", "text": ["first", "last"]}
        assert answers(ws, FORMATS[format](fields)) == [{**clean, "tags": ["a"], "text": "last"}]

    @ALL
    def test_types(self, ws: ClientWebSocket, format: str) -> None:
        """The button that has submitted the form wins; values of ``hx-vals`` have other types."""
        fields = {"type": ["bare", "say"], "text": 5, "count": 3, "loud": False, "tags": None}
        clean = {"text": "5", "tags": [], "loud": False, "count": 3}
        assert answers(ws, FORMATS[format](fields)) == [clean]

    def test_others(self) -> None:
        """Other messages are not of htmx."""
        wrong: list[Any] = [{}, {"HX-Request": True}, [], "HX-Request", None]
        for headers in wrong:
            assert fields_in({"type": "say", "headers": headers, "HEADERS": headers}) is None

    def test_field_named_body(self) -> None:
        """A field may have the name of a key."""
        fields = fields_in({"body": "text", "HEADERS": "3", "headers": HEADERS})
        assert fields == {"body": ["text"], "HEADERS": ["3"]}
        fields = fields_in({"body": {"a": 1}, "headers": "3", "HEADERS": HEADERS})
        assert fields == {"body": ['{"a": 1}'], "headers": ["3"]}

    @ALL
    def test_limits(self, client: WebSocketClient, format: str) -> None:
        """A limit of a type counts messages of all formats."""
        with client.websocket("/limited/") as ws:
            assert answers(ws, FORMATS[format]({"type": ["bare", "say"], "text": "hi"}))
            (answer,) = answers(ws, FORMATS[format]({"type": ["bare", "say"], "text": "hi"}))
            assert answer["errors"]["__all__"][0]["code"] == "rate_limited"

    @ALL
    def test_unknown(self, ws: ClientWebSocket, format: str) -> None:
        """An unknown type is an error, as in other messages."""
        (answer,) = answers(ws, FORMATS[format]({"type": "shout", "text": "hi"}))
        assert answer["errors"]["__all__"][0]["code"] == "unknown_type"

    @ALL
    def test_dataclass(self, ws: ClientWebSocket, format: str) -> None:
        """A dataclass gets the values as they were sent; it may have a template, too."""
        assert answers(ws, FORMATS[format]({"type": "move", "x": 3})) == [{"x": 3}]
        for x in ("3", 9):
            (html,) = answers(ws, FORMATS[format]({"type": "move", "x": x}))
            assert ("Too far." if x == 9 else "Enter a whole number.") in html


class TestInvalid:
    """Invalid forms with a template are answered with HTML."""

    @ALL
    def test_html(self, ws: ClientWebSocket, v1: ClientWebSocket, format: str) -> None:
        """The template has the form, with what was typed, escaped; and the view."""
        message = FORMATS[format]({"type": "say", "text": "<script>"})
        (html,) = answers(ws, message)
        assert "at most 5 characters (it has 8)" in html
        assert html.endswith("[&lt;script&gt;]()")
        assert answers(v1, message) == [{"content": html}]

    @ALL
    def test_error_of_the_view(self, ws: ClientWebSocket, format: str) -> None:
        """An error that the view raises is one of the form, also after an answer."""
        (html,) = answers(ws, FORMATS[format]({"type": "say", "text": "no"}))
        assert "<li>Not &lt;that&gt;.</li>" in html
        (empty, late) = answers(ws, FORMATS[format]({"type": "say", "text": "twice"}))
        assert empty == "[None]()"
        assert "Late." in late

    @ALL
    def test_ref(self, ws: ClientWebSocket, v1: ClientWebSocket, format: str) -> None:
        """A reference is in the answer; htmx 2 alone could not read it."""
        message = FORMATS[format]({"type": "say", "text": "much too long"})
        message["ref"] = "r1"
        (answer,) = answers(v1, message)
        assert "at most 5" in answer.pop("content")
        # The type in a body is not that of the message.
        kind = {} if "body" in format else {"type": "say"}
        assert answer == {**kind, "ref": "r1"}
        (plain,) = answers(ws, message)
        assert "at most 5" in (plain if format == "2" else plain["content"])

    def test_without_a_template(self, ws: ClientWebSocket) -> None:
        """Without a template the errors are sent, as to a client that is not htmx."""
        errors = {"text": [{"message": "This field is required.", "code": "required"}]}
        for message in (
            FORMATS["4"]({"type": "bare", "text": ""}),
            {"type": "say", "text": ""},
            {"type": "say", "text": "", "ref": 1},
        ):
            (answer,) = answers(ws, message)
            assert answer["errors"] == errors
        (answer,) = answers(ws, FORMATS["2"]({"type": "bare", "text": "no"}))
        assert answer["errors"]["__all__"][0]["message"] == "Not <that>."

    def test_unknown_template(self) -> None:
        """A template for a type that has no form is an error when the view is made."""
        with pytest.raises(TypeError, match=r"Chat.templates\['sey'\]: forms has no 'sey'"):
            Chat.as_view(templates={"sey": "say.html"})

    def test_own(self, ws: ClientWebSocket) -> None:
        """A method of the view decides."""
        assert answers(ws, FORMATS["4"]({"type": "own", "text": ""})) == ["own"]

    def test_send_form(self, ws: ClientWebSocket, v1: ClientWebSocket) -> None:
        """A view sends an empty form, to clients of any kind."""
        assert answers(ws, FORMATS["4"]({"type": "say", "text": "empty"})) == ["[None]()"]
        content = {"content": "[None]()"}
        assert answers(v1, {"type": "say", "text": "empty"}) == [content]
        answer = {"type": "say", "ref": 1, **content}
        assert answers(v1, {"type": "say", "text": "empty", "ref": 1}) == [answer]

    def test_once(self, client: WebSocketClient) -> None:
        """A form that is sent again gets the same answer, also one of htmx 2 on a plain socket."""
        for make in (FORMATS["2"], FORMATS["4"]):
            message = {**make({"type": "say", "text": "much too long"}), "ref": str(make)}
            with client.websocket("/once/") as ws:
                (first,) = answers(ws, message)
                assert answers(ws, message) == [first]


TEXTS = st.text(max_size=10) | st.sampled_from(["", "on", "1", "-1", "9" * 400, "\x00", "\ud800"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=5,
)
KEYS = st.sampled_from([*NAMES, "type", "ref", "body", "headers", "HEADERS"]) | TEXTS


@settings(
    max_examples=150 * TIMES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@example(fields={"text": "\ud800", "select_date_year": "9" * 400}, format="2", extra={})
@example(fields={}, format="4", extra={"body": {}, "ref": "\ud800"})
@given(
    fields=st.dictionaries(KEYS, VALUES, max_size=8),
    format=st.sampled_from(list(FORMATS)),
    extra=st.dictionaries(KEYS, VALUES, max_size=2),
)
def test_any_message(
    client: WebSocketClient, fields: Any, format: str, extra: dict[str, Any]
) -> None:
    """No message raises in a view, and the form can be rendered whatever it contains."""
    with welcomed(client, "/wide/") as ws:
        message = {**FORMATS[format]({**fields, "type": "say"}), **extra}
        ws.send(json.dumps(message))
        try:
            found = json.loads(str(ws.receive()))
        except ConnectionClosed as error:
            pytest.fail(f"closed: {error}")
        assert found.keys() & {"content", "errors"}
        if not extra and not fields.keys() & {"ref", "body"}:
            assert re.search(r"<li>never</li>|Enter a", found["content"])


def test_no_text_is_lost() -> None:
    """A pair of escapes is one character."""
    fields = fields_in(
        json.loads('{"text": "\\ud83d\\ude00\\ud800", "headers": {"HX-Request": "true"}}')
    )
    assert fields == {"text": ["😀?"]}
