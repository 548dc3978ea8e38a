"""Messages that are answered: replies and errors with the client's ``ref``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import wraps
from typing import Any

import pytest
from django import forms
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from django_wsmux.decorators import websocket
from django_wsmux.exceptions import ConnectionClosed
from django_wsmux.requests import Request
from django_wsmux.test import ClientWebSocket, WebSocketClient
from django_wsmux.testing.client import close_all
from django_wsmux.views import FormWebSocketView, JSONWebSocketView
from django_wsmux.websocket import WebSocket
from tests.support import TIMES, frame

pytestmark = pytest.mark.usefixtures("request_sockets")


class SayForm(forms.Form):
    text = forms.CharField(max_length=5)


def deferred(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method later, as a decorator of asynchronous code does."""

    @wraps(method)
    def decorated(*args: Any) -> Any:
        async def later() -> Any:
            return method(*args)

        return later()

    return decorated


class Chat(FormWebSocketView):
    """Does what the text asks for."""

    forms = {  # noqa: RUF012
        "say": SayForm,
        "other": SayForm,
        "quiet": SayForm,
        "loud": SayForm,
        "lazy": SayForm,
    }

    def say_valid(self, form: Any) -> Any:
        text = form.cleaned_data["text"]
        match text:
            case "full":
                raise ValidationError("The room is %(state)s.", code="full", params={"state": text})
            case "field":
                raise ValidationError({"text": ["one", ValidationError("two", code="second")]})
            case "send":
                self.send_json({"event": 1})
            case "error":
                self.send_error("late", "It is late.")
            case "both":
                self.send_error("late", "It is late.")
                raise ValidationError("Go home.", code="home")
            case "help":
                self.websocket.spawn(self.send_error, "helper", "A helper failed.")
            case "crash":
                raise LookupError("it broke")
            case "page":
                return HttpResponse()
            case "nan":
                return float("nan")
            case "loop":
                loop: list[Any] = []
                loop.append(loop)
                return loop
            case "many":
                return {"price": Decimal("1.50")}
            case _:
                return text
        return None

    def form_valid(self, form: Any) -> Any:
        return form.message_type

    def quiet_invalid(self, form: Any) -> None:
        pass

    def loud_invalid(self, form: Any) -> None:
        self.send_error("loud", "No.")

    @deferred
    def lazy_valid(self, form: Any) -> Any:
        return 1


class Overriding(Chat):
    """Overrides methods as version 0.1.0 allowed it: without return values."""

    def receive_json(self, value: Any) -> None:
        super().receive_json(value)

    def form_invalid(self, form: Any) -> None:
        self.websocket.send("invalid")

    def unknown_type(self, kind: Any, data: dict[str, Any]) -> None:
        self.websocket.send("unknown")


class Values(JSONWebSocketView):
    """Returns what it gets; refuses 13."""

    def receive_json(self, value: Any) -> Any:
        if value == 13 or (isinstance(value, dict) and value.get("number") == 13):
            raise ValidationError("Not that.", code="unlucky")
        return value


class Lazy(JSONWebSocketView):
    @deferred
    def receive_json(self, value: Any) -> Any:
        return value


@websocket
def function(request: HttpRequest, websocket: WebSocket) -> None:
    for message in websocket.requests():
        assert isinstance(message, Request)
        match message.type:
            case "form":
                form = SayForm(message.data)
                if form.is_valid():
                    message.reply(form.cleaned_data)
                else:
                    message.error(form.errors)
            case "text":
                message.error("It is late.", code="late")
            case "twice":
                message.reply(1)
                message.reply(2)
            case "later":
                websocket.spawn(message.reply, "later")
            case "never":
                pass
            case _:
                message.reply()
    websocket_ends.append(websocket.close_code)


websocket_ends: list[int | None] = []

urlpatterns = [
    path("chat/", Chat.as_view()),
    path("overriding/", Overriding.as_view()),
    path("values/", Values.as_view()),
    path("lazy/", Lazy.as_view()),
    path("function/", function),
]


@pytest.fixture
def request_sockets() -> Iterator[None]:
    """Use the sockets of this module."""
    websocket_ends.clear()
    with override_settings(WEBSOCKET_URLCONF=__name__, WEBSOCKET_BACKEND="memory://"):
        yield
        close_all()


@pytest.fixture
def ws(client: WebSocketClient) -> ClientWebSocket:
    """A socket of the view with forms."""
    return client.websocket("/chat/")


def ask(ws: ClientWebSocket, message: Any) -> str:
    """Send a message, as a value or a text; return the bytes of the answer, which is the only."""
    ws.send(message if isinstance(message, str) else json.dumps(message))
    answer = ws.receive()
    assert isinstance(answer, str)
    assert ws.peek() == []
    return answer


def say(text: str, **more: Any) -> dict[str, Any]:
    """Return a message."""
    return {"type": "say", "text": text, **more}


def codes(ws: ClientWebSocket, message: Any) -> tuple[Any, ...]:
    """Send a message; return type and ref of the errors, and all codes."""
    answer = json.loads(ask(ws, message))
    found = [each["code"] for errors in answer["errors"].values() for each in errors]
    return (answer.get("type"), answer.get("ref"), *found)


class TestForms:
    """``FormWebSocketView``."""

    @pytest.mark.parametrize("ref", ["k2-17", "", "x" * 64, 0, -5, 2**63 - 1, -(2**63), "ü", "\n"])
    def test_reply(self, ws: ClientWebSocket, ref: str | int) -> None:
        """The method's return value is the reply, with the ref as it came."""
        expected = {"type": "say", "ref": ref, "reply": "hi"}
        assert ask(ws, say("hi", ref=ref)) == json.dumps(expected)

    def test_no_return_value(self, ws: ClientWebSocket) -> None:
        """None is null; messages of the view come before the reply."""
        ws.send_json(say("send", ref=1))
        assert ws.receive_json() == {"event": 1}
        assert ws.receive() == '{"type": "say", "ref": 1, "reply": null}'

    def test_encoder(self, ws: ClientWebSocket) -> None:
        """The reply is encoded as any other message."""
        assert json.loads(ask(ws, say("many", ref=1)))["reply"] == {"price": "1.50"}

    @pytest.mark.parametrize("text", ["hi", "many", "page", "nan"])
    def test_without_ref(self, ws: ClientWebSocket, text: str) -> None:
        """Nothing is answered if there is no ref, whatever the method returns."""
        ws.send_json(say(text))
        assert ws.peek() == []
        assert not ws.closed

    @pytest.mark.parametrize(
        "ref", [None, True, False, 1.0, [], {}, "x" * 65, 2**63, -(2**63) - 1, 10**60]
    )
    def test_wrong_ref(self, ws: ClientWebSocket, ref: object) -> None:
        """A ref of another type, or one that is too long, is an error, and nothing is done."""
        assert codes(ws, say("send", ref=ref)) == ("say", None, "invalid_ref")

    def test_errors(self, ws: ClientWebSocket) -> None:
        """The errors of the form carry the ref."""
        answer = ask(ws, say("too long", ref="a"))
        assert answer.startswith('{"type": "say", "ref": "a", "errors": {"text": [{"message": "')
        assert codes(ws, say("too long", ref="a")) == ("say", "a", "max_length")
        assert codes(ws, say("too long")) == ("say", None, "max_length")

    def test_validation_error(self, ws: ClientWebSocket) -> None:
        """A ValidationError of the method becomes errors."""
        errors = {"__all__": [{"message": "The room is full.", "code": "full"}]}
        for more in ({"ref": 7}, {}):
            expected = {"type": "say", **more, "errors": errors}
            assert ask(ws, say("full", **more)) == json.dumps(expected)
        found = json.loads(ask(ws, say("field", ref=8)))["errors"]
        assert found == {
            "text": [{"message": "one", "code": ""}, {"message": "two", "code": "second"}]
        }

    def test_own_error(self, ws: ClientWebSocket) -> None:
        """An error that the method sends is the answer, but one of a helper is not."""
        assert codes(ws, say("error", ref=1)) == ("say", 1, "late")
        assert codes(ws, say("error")) == (None, None, "late")
        errors = {"__all__": [{"message": "Go home.", "code": "home"}]}
        for more in ({"ref": 7}, {}):
            ws.send_json(say("both", **more))
            assert ws.receive_json().get("ref") == more.get("ref")
            assert ws.receive_json() == {"type": "say", "errors": errors}
        ws.send_json(say("help", ref=2))
        answers = [json.loads(each) for each in ws.peek()]
        assert {"type": "say", "ref": 2, "reply": None} in answers
        assert {
            "errors": {"__all__": [{"message": "A helper failed.", "code": "helper"}]}
        } in answers

    @pytest.mark.parametrize("kind", ["nothing", "", 5, None, [], "x" * 200])
    def test_unknown_type(self, ws: ClientWebSocket, kind: object) -> None:
        """The type comes back if it is a text."""
        known = kind if isinstance(kind, str) and kind else None
        assert codes(ws, {"type": kind, "ref": 3}) == (known, 3, "unknown_type")
        assert codes(ws, {"type": kind}) == (None, None, "unknown_type")
        assert codes(ws, {"type": "x" * 201, "ref": 3}) == (None, 3, "unknown_type")
        assert codes(ws, {"ref": 3}) == (None, 3, "unknown_type")

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("", "invalid_json"),
            ('{"ref": 1', "invalid_json"),
            ('{"ref": 1, "type": "say", "text": 1e400}', "invalid_json"),
            ('{"ref": 1, "type": "say", "text": [-1e400]}', "invalid_json"),
        ],
    )
    def test_invalid_json(self, ws: ClientWebSocket, text: str, code: str) -> None:
        """The ref of a message that is not JSON cannot be read."""
        assert codes(ws, text) == (None, None, code)

    def test_hooks_for_errors(self, ws: ClientWebSocket) -> None:
        """Each request has one answer, even if the method for invalid forms sends none."""
        assert codes(ws, {"type": "quiet", "ref": 4}) == ("quiet", 4, "required")
        assert codes(ws, {"type": "loud", "ref": 4}) == ("loud", 4, "loud")
        ws.send_json({"type": "quiet"})
        assert ws.peek() == []

    def test_form_valid(self, ws: ClientWebSocket) -> None:
        """The method for all types replies, too."""
        assert ws.request("other", text="x") == "other"

    def test_overriding(self, client: WebSocketClient) -> None:
        """Methods that override those of version 0.1.0 lose no answer."""
        with client.websocket("/overriding/") as ws:
            assert ask(ws, say("hi", ref=1)) == '{"type": "say", "ref": 1, "reply": "hi"}'
            for message, text in ((say("too long", ref=2), "invalid"), ({"ref": 2}, "unknown")):
                ws.send_json(message)
                assert ws.receive() == text
                assert ws.receive_json()["ref"] == 2
                ws.send_json({**message, "ref": 3})
                assert ws.receive() == text
                assert ws.receive_json()["ref"] == 3

    @pytest.mark.parametrize(
        ("message", "error", "match"),
        [
            (say("page", ref=1), TypeError, "reply to 'say' is not JSON: Object of type HttpResp"),
            (say("nan", ref=1), TypeError, "is not JSON: Out of range float"),
            (say("loop", ref=1), TypeError, "is not JSON: Circular"),
            (say("crash", ref=1), LookupError, "it broke"),
            ({"type": "lazy", "text": "x", "ref": 1}, TypeError, "unawaited coroutine"),
            ({"type": "lazy", "text": "x"}, TypeError, "unawaited coroutine"),
        ],
    )
    def test_mistakes(
        self, ws: ClientWebSocket, message: Any, error: type[Exception], match: str
    ) -> None:
        """A value that cannot be a reply is an error of the view: 1011."""
        with pytest.raises(error, match=match):
            ws.send_json(message)
        assert (ws.peek(), ws.close_code) == ([], 1011)


class TestJSON:
    """``JSONWebSocketView``."""

    def test_reply(self, client: WebSocketClient) -> None:
        """The return value is the reply, if the value is an object with a ref."""
        with client.websocket("/values/") as ws:
            assert ask(ws, {"ref": 1}) == '{"ref": 1, "reply": {"ref": 1}}'
            assert ws.request("any", number=5)["number"] == 5
            values: tuple[Any, ...] = ({}, [{"ref": 1}], "ref", 5, None)
            for value in values:
                ws.send_json(value)
                assert ws.peek() == []
            assert codes(ws, {"ref": [], "type": "x"}) == ("x", None, "invalid_ref")

    def test_validation_error(self, client: WebSocketClient) -> None:
        """A ValidationError becomes errors."""
        with client.websocket("/values/") as ws:
            assert codes(ws, {"ref": 1, "number": 13}) == (None, 1, "unlucky")
            assert codes(ws, {"type": "x", "number": 13}) == ("x", None, "unlucky")
            assert codes(ws, 13) == (None, None, "unlucky")

    @pytest.mark.parametrize("message", [{"ref": 1}, {}, 5])
    def test_mistake(self, client: WebSocketClient, message: object) -> None:
        """Code that has not run yet is an error of the view."""
        ws = client.websocket("/lazy/")
        with pytest.raises(TypeError, match="unawaited coroutine"):
            ws.send_json(message)


class TestFunctions:
    """``websocket.requests()``."""

    def test_answers(self, client: WebSocketClient) -> None:
        """reply() and error() answer a request."""
        with client.websocket("/function/") as ws:
            assert ask(ws, {"type": "form", "ref": 1, "text": "hi"}) == (
                '{"type": "form", "ref": 1, "reply": {"text": "hi"}}'
            )
            assert codes(ws, {"type": "form", "ref": 1}) == ("form", 1, "required")
            assert codes(ws, {"type": "text", "ref": 1}) == ("text", 1, "late")
            assert ws.request("later") == "later"
            assert ask(ws, {"type": "x", "ref": 2}) == '{"type": "x", "ref": 2, "reply": null}'

    def test_without_ref(self, client: WebSocketClient) -> None:
        """A reply is not sent, an error is."""
        with client.websocket("/function/") as ws:
            ws.send_json({"type": "form", "text": "hi"})
            assert ws.peek() == []
            assert codes(ws, {"type": "form"}) == ("form", None, "required")

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            ("", (None, None, "invalid_json")),
            ("NaN", (None, None, "invalid_json")),
            ("[" * 100_000, (None, None, "invalid_json")),
            ("5", (None, None, "invalid_message")),
            ("[]", (None, None, "invalid_message")),
            ("{}", (None, None, "unknown_type")),
            ('{"ref": 1}', (None, 1, "unknown_type")),
            ('{"ref": 1, "type": 5}', (None, 1, "unknown_type")),
            ('{"ref": null, "type": "x"}', ("x", None, "invalid_ref")),
        ],
    )
    def test_malformed(self, client: WebSocketClient, message: str, expected: object) -> None:
        """Any other message is answered with an error, and the view does not see it."""
        with client.websocket("/function/") as ws:
            assert codes(ws, message) == expected
            assert ws.request("x") is None

    def test_binary(self, client: WebSocketClient) -> None:
        """Binary messages are errors, too."""
        with client.websocket("/function/") as ws:
            ws.send(b'{"type": "x"}')
            assert ws.receive_json()["errors"]["__all__"][0]["code"] == "invalid_message"

    def test_twice(self, client: WebSocketClient) -> None:
        """A second answer is an error."""
        with client.websocket("/function/") as ws:
            with pytest.raises(RuntimeError, match="<Request 'twice' 1> is already answered"):
                ws.send_json({"type": "twice", "ref": 1})
            assert json.loads(ws.receive())["reply"] == 1

    def test_closed(self, client: WebSocketClient) -> None:
        """The view ends when the socket closes, even if malformed messages are left."""
        ws = client.websocket("/function/")
        transport = ws._peer.transport
        assert transport is not None
        transport.feed(frame(0x81, b"x") + frame(0x81, b"y") + frame(0x88, b"\x0f\xa1"))
        assert ws.close_code == 4001
        assert websocket_ends == [4001]


def test_v1(client: WebSocketClient) -> None:
    """To a client of wsmux.v1 answers go as they are; other messages are wrapped."""
    for url in ("/chat/", "/function/"):
        with client.websocket(url, subprotocols=["wsmux.v1"]) as ws:
            assert ws.receive_json()["welcome"]
            assert ask(ws, {"type": 5, "ref": 1}).startswith('{"ref": 1, "errors": {')
            assert ask(ws, {"type": 5}).startswith('{"errors": {')
            assert ask(ws, "5").startswith('{"errors": {')
    with client.websocket("/chat/", subprotocols=["wsmux.v1"]) as ws:
        ws.receive()
        ws.send_json(say("send", ref=1))
        assert ws.receive_json() == {"data": {"event": 1}}
        assert ws.receive() == '{"type": "say", "ref": 1, "reply": null}'
        assert ask(ws, say("too long")).startswith('{"type": "say", "errors": {')


def test_closed(client: WebSocketClient) -> None:
    """An answer that cannot be sent any more is no error of the view."""
    with client.websocket("/chat/") as ws:
        ws.close()
        with pytest.raises(ConnectionClosed):
            ws.request("say", text="hi")


KEYS = st.sampled_from(["type", "ref", "text", "number"]) | st.text(max_size=3)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, 10**400, 1e308, -0.0])
    | st.floats(allow_nan=False)
    | st.text(max_size=70)
    | st.sampled_from(["say", "quiet", "form", "\ud800", "x" * 65, "x" * 64, "full", "send"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
MESSAGES = st.one_of(
    st.dictionaries(KEYS, JSON, max_size=5).map(json.dumps),
    st.fixed_dictionaries({"type": SCALARS, "ref": JSON}, optional={"text": JSON}).map(json.dumps),
    JSON.map(json.dumps),
    st.text(max_size=30),
)


@pytest.mark.parametrize("url", ["/chat/", "/overriding/", "/values/", "/function/"])
@settings(
    max_examples=30 * TIMES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@example(text='{"type": "say", "ref": "\\ud800", "text": "\\udfff"}')
@example(text='{"ref": ' + "[" * 3000 + "]" * 3000 + "}")
@example(text='{"type": "say", "ref": 1, "x": ' + "[" * 900 + "]" * 900 + "}")
@given(text=MESSAGES)
def test_any_message(ws: ClientWebSocket, client: WebSocketClient, url: str, text: str) -> None:
    """No message raises in a view, and each with a valid ref has exactly one answer."""
    known = {"crash", "page", "nan", "loop", "lazy", "twice", "never", "later"}
    if any(f'"{word}"' in text for word in known):
        return
    with client.websocket(url) as ws:
        ws.send(text)
        answers = [json.loads(each) for each in ws.peek() if str(each)[:1] == "{"]
        ws.send_json({"type": "say", "ref": "alive", "text": "hi"})
        assert json.loads(ws.peek()[-1])["ref"] == "alive"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    ref = value.get("ref") if isinstance(value, dict) else None
    is_valid = (type(ref) is str and len(ref) <= 64) or (
        type(ref) is int and -(2**63) <= ref < 2**63
    )
    if is_valid and not any(word in text for word in ("NaN", "Infinity")):
        found = [each for each in answers if "ref" in each and "event" not in each]
        assert [each["ref"] for each in found] == [ref]
        assert len(found[0].keys() & {"reply", "errors"}) == 1
    else:
        assert all("ref" not in each for each in answers)
