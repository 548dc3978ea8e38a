"""Mistakes of users who come from elsewhere, and the advice that they get."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial, wraps
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django import forms
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.utils.functional import cached_property

from django_wsmux.auth import authentication, bearer, first_message
from django_wsmux.decorators import websocket, websocket_loop
from django_wsmux.exceptions import HandshakeRefused
from django_wsmux.groups import Group
from django_wsmux.responses import WebSocketResponse
from django_wsmux.test import WebSocketClient
from django_wsmux.views import FormWebSocketView, WebSocketView

# Refused where it is defined


async def coroutine(*args: Any) -> None: ...


async def stream(*args: Any) -> AsyncIterator[str]:
    yield ""


def generator(*args: Any) -> Iterator[str]:
    yield ""


class Callables:
    """A callable object, and its method."""

    async def __call__(self, *args: Any) -> None: ...

    async def method(self, *args: Any) -> None: ...


NEVER_RUN = [
    (coroutine, "is async"),
    (stream, "is async"),
    (generator, "is a generator function"),
    (partial(coroutine), "is async"),
    (Callables(), "is async"),
    (Callables().method, "is async"),
    (partial(partial(stream), 1), "is async"),
]


@pytest.mark.parametrize(
    "take",
    [
        websocket,
        websocket(subprotocols=["chat"]),
        websocket_loop,
        bearer,
        first_message,
        authentication,
    ],
)
@pytest.mark.parametrize(("function", "text"), NEVER_RUN)
def test_functions(take: Callable[..., Any], function: Any, text: str) -> None:
    """Functions that would not run when called are refused in every place."""
    with pytest.raises(TypeError, match=text):
        take(function)


HOOKS = [
    "connect",
    "receive",
    "receive_text",
    "receive_bytes",
    "receive_json",
    "disconnect",
    "group_receive",
    "get_groups",
    "handover_state",
    "restore_handover",
    "form_valid",
    "say_valid",
    "say_invalid",
    "send",
    "dispatch",
]


class SayForm(forms.Form):
    text = forms.CharField()


class Chat(FormWebSocketView):
    forms = {"say": SayForm}  # noqa: RUF012


def own(base: Any, name: str, value: Any) -> Any:
    """Return a subclass with an attribute of its own."""
    return type("Own", (base,), {name: value})


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("function", [coroutine, stream, generator])
def test_methods(hook: str, function: Any) -> None:
    """Such methods of a class are refused too, however they are defined."""
    with pytest.raises(TypeError, match=r"is async|is a generator function"):
        own(Chat, hook, function).as_view()
    with pytest.raises(TypeError, match=r"is async|is a generator function"):
        own(Chat, hook, staticmethod(function)).as_view()
    if hook == "group_receive":
        with pytest.raises(TypeError, match=r"is async|is a generator function"):
            Chat.as_view(group_receive=function)


def test_method_decorator() -> None:
    """A class decorated by name is checked as well; its other async methods are allowed."""

    def to_async(function: Any) -> Any:
        @wraps(function)
        async def wrapper(*args: Any) -> None:
            function(*args)

        return wrapper

    @method_decorator(login_required, name="dispatch")
    class Own(WebSocketView):
        async def helper(self) -> None: ...

        def receive(self, message: str | bytes) -> None:
            async_to_sync(self.helper)()

    Own.as_view()
    Own.receive = to_async(Own.receive)  # type: ignore[method-assign]
    with pytest.raises(TypeError, match=r"Own\.receive is async: .* Write def instead of async"):
        Own.as_view()


def takes_self(self: Any) -> None: ...
def takes_one(self: Any, one: Any) -> None: ...
def takes_two(self: Any, one: Any, two: Any) -> None: ...
def takes_channels(self: Any, text_data: Any = None, bytes_data: Any = None) -> None: ...
def takes_any(self: Any, *args: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("hook", "method", "text"),
    [
        ("connect", takes_self, r"is called with \(request, ...\)"),
        ("connect", takes_one, None),
        ("connect", takes_two, None),
        ("disconnect", takes_one, r"is called with \(code, reason\)"),
        ("disconnect", takes_two, None),
        ("disconnect", takes_any, None),
        ("receive", takes_self, r"is called with \(message\)"),
        ("receive", takes_two, r"is called with \(message\)"),
        ("receive", takes_channels, None),
        ("group_receive", takes_two, r"is called with \(message\)"),
        ("handover_state", takes_self, None),
        ("handover_state", takes_one, r"is called with \(\)"),
        ("restore_handover", takes_one, None),
        ("restore_handover", takes_self, r"is called with \(state\)"),
        ("say_valid", takes_self, r"is called with \(form\)"),
        ("form_valid", takes_two, r"is called with \(form\)"),
    ],
)
def test_arguments(hook: str, method: Any, text: str | None) -> None:
    """A method with the wrong arguments is refused at once, not with the first client."""
    view = own(Chat, hook, method)
    if text is None:
        view.as_view()
    else:
        with pytest.raises(TypeError, match=text):
            view.as_view()


@pytest.mark.parametrize(
    ("attribute", "value", "text"),
    [
        ("groups", "chat", r"write groups = \['chat'\]"),
        ("subprotocols", "chat.v1", r"write subprotocols = \['chat\.v1'\]"),
        ("authenticators", staticmethod(print), r"write authenticators = \[\.\.\.\]"),
    ],
)
def test_value_instead_of_list(attribute: str, value: Any, text: str) -> None:
    """A single value instead of a list is refused."""
    with pytest.raises(TypeError, match=text):
        own(WebSocketView, attribute, value).as_view()
    if isinstance(value, str):
        with pytest.raises(TypeError, match=text):
            WebSocketView.as_view(**{attribute: value})
    with pytest.raises(TypeError, match=r"write \['chat'\]"):
        websocket(subprotocols="chat")


@pytest.mark.parametrize("value", [None, "no", 1, lambda self: True])
def test_handover(value: Any) -> None:
    """``handover`` is True or False, in the class or as an option."""
    with pytest.raises(TypeError, match=r"Own.handover = .*: write True or False"):
        own(WebSocketView, "handover", value).as_view()
    with pytest.raises(TypeError, match=r"WebSocketView.handover = .*: write True or False"):
        WebSocketView.as_view(handover=value)
    own(WebSocketView, "handover", False).as_view()
    WebSocketView.as_view(handover=False)


def test_properties() -> None:
    """A property is not evaluated before there is a socket."""

    class Own(WebSocketView):
        @property
        def groups(self) -> Any:  # type: ignore[override]
            return [self.kwargs["room"]]

        @cached_property
        def subprotocols(self) -> Any:  # type: ignore[override]
            return [self.kwargs["room"]]

    Own.as_view()


# Found when it runs


class Late(WebSocketView):
    """Returns what a query names, from connect() or for a message."""

    def make(self, what: str) -> Any:
        return {"true": True, "text": "yes"}.get(what) or coroutine()

    def connect(self, request: HttpRequest) -> Any:
        if request.GET.get("send") == "text_data":
            self.send(text_data="hello")  # type: ignore[call-arg]
        return self.make(request.GET["connect"]) if "connect" in request.GET else None

    def receive(self, message: str | bytes) -> Any:
        match message:
            case "coroutine":
                return coroutine()
            case "stream":
                return stream()
            case "generator":
                return generator()
            case "spawn":
                self.websocket.spawn(coroutine)
            case "value":
                return 5
            case "text" | "dictionary" | "response":
                return {"text": "x", "dictionary": {}, "response": HttpResponse()}[message]
            case "text_data":
                self.send(text_data="hello")  # type: ignore[call-arg]
            case "join":
                Group("room").join(self)  # type: ignore[arg-type]
            case "leave":
                Group("room").leave(self.request)  # type: ignore[arg-type]
            case "exclude":
                Group("room").send("hello", exclude=self)  # type: ignore[arg-type]
            case "dict":
                self.send({"type": "hello"})  # type: ignore[arg-type]
            case str() if message.startswith("self."):
                getattr(self, message.removeprefix("self."))
            case str() if message.startswith("websocket."):
                getattr(self.websocket, message.removeprefix("websocket."))
        return None

    @property
    def own(self) -> Any:
        return self.request.nothing_like_it  # type: ignore[attr-defined]


class OddGroups(WebSocketView):
    def get_groups(self) -> Any:
        return self.request.GET.get("groups")


def conversing(request: HttpRequest) -> HttpResponse:
    """Return a value that is not for the client."""
    made: dict[str, Callable[[Any], Any]] = {
        "coroutine": lambda websocket: coroutine(),
        "generator": lambda websocket: generator(),
        "response": lambda websocket: HttpResponse(status=403),
        "value": lambda websocket: 5,
        "text": lambda websocket: "hello",
    }
    return WebSocketResponse(made[request.GET["what"]])


@websocket
def decorated(request: HttpRequest, websocket: Any) -> Any:
    return HttpResponse(status=403) if "what" in request.GET else coroutine()


@websocket
def answering(request: HttpRequest, websocket: Any) -> Any:
    return "hello"


@websocket_loop
def answering_loop(request: HttpRequest, websocket: Any) -> Any:
    return [websocket.receive()]


def undecorated(request: HttpRequest, websocket: Any) -> Any: ...


@websocket_loop
def looping(request: HttpRequest, websocket: Any) -> Any:
    websocket.receive()
    return coroutine()


def refused(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=403)


urlpatterns = [
    path("late/", Late.as_view()),
    path("groups/", OddGroups.as_view()),
    path("conversing/", conversing),
    path("decorated/", decorated),
    path("looping/", looping),
    path("answering/", answering),
    path("answering-loop/", answering_loop),
    path("undecorated/", undecorated),
    path("refused/", authentication(first_message(lambda message: object))(refused)),
    path("first/", authentication(first_message(lambda _: coroutine()))(refused)),
    path("bearer/", authentication(bearer(lambda _: coroutine()))(refused)),
    path("own/", authentication(lambda _: coroutine())(refused)),
]


@pytest.fixture
def site(client: WebSocketClient) -> Iterator[WebSocketClient]:
    """A client of these sockets that raises no exceptions; nothing may stay unawaited."""
    client.raise_request_exception = False
    with override_settings(WEBSOCKET_URLCONF=__name__), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield client
        gc.collect()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("coroutine", "returned an unawaited coroutine of coroutine"),
        ("stream", "returned an unawaited async_generator of stream"),
        ("generator", "returned a generator of generator"),
        ("spawn", "returned an unawaited coroutine of coroutine"),
        ("text_data", "write send(text)"),
        ("join", "is not a WebSocket: pass its attribute websocket"),
        ("leave", "is not a WebSocket: pass its attribute websocket"),
        ("exclude", "is not a WebSocket: pass its attribute websocket"),
        ("dict", "send_json() sends other values"),
        ("self.accept", "has no attribute 'accept': return None from connect() to accept"),
        ("self.scope", "has no attribute 'scope': use self.request"),
        ("self.channel_layer", "use django_wsmux.groups.Group"),
        ("self.nothing", "'Late' object has no attribute 'nothing'"),
        ("self.own", "has no attribute 'nothing_like_it'"),
        ("websocket.recv", "has no attribute 'recv': write receive()"),
        ("websocket.nothing", "'WebSocket' object has no attribute 'nothing'"),
    ],
)
def test_messages(
    site: WebSocketClient, caplog: pytest.LogCaptureFixture, message: str, text: str
) -> None:
    """The socket is closed with 1011, and the log says what to write instead."""
    with site.websocket("/late/") as ws:
        ws.send(message)
        assert ws.close_code == 1011
    assert text in caplog.text


@pytest.mark.parametrize("message", ["value", "other"])
def test_values(site: WebSocketClient, message: str) -> None:
    """Other return values are ignored."""
    with site.websocket("/late/") as ws:
        ws.send(message)
        assert not ws.closed
    with site.websocket("/conversing/?what=value") as ws:
        assert ws.close_code == 1000


@pytest.mark.parametrize(
    ("url", "name", "kind"),
    [
        ("/late/", "Late.receive", "text"),
        ("/late/", "Late.receive", "dictionary"),
        ("/late/", "Late.receive", "response"),
        ("/conversing/?what=text", "conversing.<locals>.<lambda>", "text"),
        ("/answering/", "answering", "text"),
        ("/answering-loop/", "answering_loop", "list"),
    ],
)
def test_not_sent(
    site: WebSocketClient, caplog: pytest.LogCaptureFixture, url: str, name: str, kind: str
) -> None:
    """A return value that looks like a message gets a line in the log."""
    with site.websocket(url) as ws:
        if not ws.closed:
            ws.send(kind)
    kind = {"text": "str", "dictionary": "dict", "response": "HttpResponse"}.get(kind, kind)
    line = f"{__name__}.{name} returned a value of type {kind}, which is not sent: call send()"
    assert caplog.text.count(line) == 1


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("/undecorated/", "is the view decorated with @websocket?"),
        ("/late/?connect=true", "returned True: return None to accept, or an HttpResponse"),
        ("/late/?connect=text", "returned 'yes': return None to accept"),
        ("/late/?connect=coroutine", "returned an unawaited coroutine"),
        ("/late/?send=text_data", "write send(text)"),
        ("/groups/", "get_groups() returned None: return a list of names"),
        ("/groups/?groups=chat", "get_groups() returned 'chat': return a list of names"),
        ("/own/", "returned an unawaited coroutine"),
    ],
)
def test_handshakes(
    site: WebSocketClient, caplog: pytest.LogCaptureFixture, url: str, text: str
) -> None:
    """The handshake is answered with 500, and the log says what to write instead."""
    with pytest.raises(HandshakeRefused) as answer:
        site.websocket(url)
    assert answer.value.response.status_code == 500
    assert text in caplog.text


@pytest.mark.parametrize("url", ["/conversing/?what=coroutine", "/decorated/", "/looping/"])
def test_conversations(site: WebSocketClient, caplog: pytest.LogCaptureFixture, url: str) -> None:
    """A conversation that turns out to be async is closed with 1011."""
    with site.websocket(url) as ws:
        if url == "/looping/":
            ws.send("message")
        assert ws.close_code == 1011
    assert "returned an unawaited coroutine of coroutine" in caplog.text


@pytest.mark.parametrize("url", ["/conversing/?what=response", "/decorated/?what=response"])
def test_late_response(site: WebSocketClient, caplog: pytest.LogCaptureFixture, url: str) -> None:
    """A response after the 101 gets a line in the log."""
    with caplog.at_level(logging.WARNING, "django_wsmux.connection"), site.websocket(url) as ws:
        assert ws.close_code == 1008
    assert "the view returned a response (403) after the 101" in caplog.text


# Servers
