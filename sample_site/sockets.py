"""The WebSocket views: chat, crowd, auction, notifications, echo, ping, and chat over Redis."""

import json
import os
import signal
from select import select
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.mixins import LoginRequiredMixin
from django.forms import Form, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone

from django_wsmux.decorators import websocket, websocket_loop
from django_wsmux.groups import Group
from django_wsmux.responses import WebSocketResponse
from django_wsmux.views import FormWebSocketView, WebSocketView
from django_wsmux.websocket import WebSocket

from .forms import BidForm, LineForm, NameForm, ReportForm
from .models import Bid, Lot

__all__ = ["Auction", "Chat", "Crowd", "Notifications", "echo", "ping", "redis_chat", "said"]


@websocket
def echo(request: HttpRequest, websocket: WebSocket) -> None:
    """Send back every message."""
    for message in websocket:
        websocket.send(message)


@websocket_loop
def ping(request: HttpRequest, websocket: WebSocket) -> None:
    """Answer ping with pong and pong with ping; ignore everything else."""
    message = websocket.receive()
    if message == "ping":
        websocket.send("pong")
    elif message == "pong":
        websocket.send("ping")


CHAT = Group("chat")


def said(line: dict[str, Any]) -> dict[str, Any]:
    """Return the message about a line, for all windows."""
    return {"type": "said", "sent": timezone.now(), **line}


class Chat(FormWebSocketView):
    """Sends each line to every window, and tells windows with a name who is present.

    A window that returns gets the lines that it missed.
    """

    groups = ("chat",)
    forms: ClassVar = {"say": LineForm, "name": NameForm}

    def receive_text(self, text: str) -> None:
        """Accept plain text, for example from a terminal client, as a line."""
        if not text.startswith("{"):
            text = json.dumps({"type": "say", "text": text})
        super().receive_text(text)

    def say_valid(self, form: LineForm) -> None:
        """Send a line to everyone."""
        CHAT.send_json(said(form.as_message()))

    def name_valid(self, form: NameForm) -> None:
        """Name a window, or rename it. People with the same name count as one."""
        CHAT.presence(self.websocket, form.cleaned_data["name"], form.cleaned_data)


CROWD = Group("crowd")


class Crowd(FormWebSocketView):
    """Sends numbers to thousands of clients, and lets a page end the worker that it talks to."""

    groups = ("crowd",)
    forms: ClassVar = {
        "watch": Form,
        "where": Form,
        "report": ReportForm,
        "kill": Form,
        "deploy": Form,
    }

    def watch_valid(self, form: Form) -> None:
        """Tell the page what the crowd reports from now on."""
        CROWD.presence(self.websocket)

    def where_valid(self, form: Form) -> dict[str, int]:
        """Tell the page which worker has its socket."""
        return {"worker": os.getpid()}

    def report_valid(self, form: ReportForm) -> None:
        """Show what has happened to the clients of the crowd to all pages."""
        CROWD.presence(self.websocket, key="crowd", info=form.cleaned_data)

    def kill_valid(self, form: Form) -> None:
        """Kill this worker, as the kernel does when memory runs out. gunicorn starts another."""
        require_demo(self.websocket)
        os.kill(os.getpid(), signal.SIGKILL)

    def deploy_valid(self, form: Form) -> None:
        """Let gunicorn replace its workers, which load the code again, as in a deploy."""
        require_demo(self.websocket)
        os.kill(os.getppid(), signal.SIGHUP)


def require_demo(websocket: WebSocket) -> None:
    """Refuse to end workers except in a demonstration with several of them."""
    if not (settings.DEBUG and websocket.environ["wsgi.multiprocess"]):
        raise ValidationError("This needs DEBUG, and gunicorn with two workers: scripts/demo")


class Auction(FormWebSocketView):
    """Shows one lot and its bids to a window, and accepts bids that htmx sends."""

    forms: ClassVar = {"bid": BidForm}
    templates: ClassVar = {"bid": "sample_site/bid_form.html"}

    def connect(self, request: HttpRequest, pk: int) -> None:
        """Join the groups of all lots and of this one, which the models send to."""
        get_object_or_404(Lot, pk=pk)
        for name in ("auction", f"auction.{pk}"):
            Group(name).join(self.websocket)

    def get_form_kwargs(self, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        """Bind the form to a new bid for this lot."""
        return {"data": data, "instance": Bid(lot=Lot.objects.get(pk=self.kwargs["pk"]))}

    def bid_valid(self, form: BidForm) -> None:
        """Place the bid, and show the form again, with the name."""
        bid = form.instance
        if not bid.place():
            raise ValidationError(form.overtaken)
        self.send_form("bid", BidForm(initial={"bidder": bid.bidder}, instance=Bid(lot=bid.lot)))


class Notifications(LoginRequiredMixin, WebSocketView):
    """Receives what is sent to its user: the user's sockets join that group by themselves."""


def redis_chat(request: HttpRequest) -> HttpResponse:
    """Chat over Redis pub/sub: two sources, one select().

    This is how it was done before there were groups. It still works: the socket's descriptor is
    readable exactly while a message waits, so no message is overlooked.
    """
    try:
        import redis
    except ImportError:
        return no_redis()
    client: Any = redis.Redis.from_url(settings.REDIS_URL)
    subscription = client.pubsub(ignore_subscribe_messages=True)
    try:
        subscription.subscribe("sample_site.chat")
    except redis.ConnectionError:
        return no_redis()

    def conversation(websocket: WebSocket) -> None:
        with client, subscription:
            relay(websocket, client, subscription)

    return WebSocketResponse(conversation)


def no_redis() -> HttpResponse:
    """Refuse the handshake: Redis is not available."""
    return HttpResponse("Redis is not available.\n", status=503, content_type="text/plain")


def parse(message: str | bytes) -> dict[str, Any]:
    """Parse a line: JSON from the page, plain text from a terminal client."""
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        value = message
    return value if isinstance(value, dict) else {"text": str(value)}


def relay(websocket: WebSocket, client: Any, subscription: Any) -> None:
    """Pass lines from the window to Redis and from Redis to the window."""
    redis_socket = subscription.connection._sock
    while not websocket.closed:
        readable, _, _ = select([websocket.handler.socket.fileno(), redis_socket.fileno()], [], [])
        if redis_socket.fileno() in readable:
            # redis-py may have read several messages at once: take all of them.
            while event := subscription.get_message(timeout=0):
                websocket.send_json(json.loads(event["data"]))
        if websocket.fileno() in readable:
            message = websocket.receive()
            if message is None:
                return
            answer_to(websocket, client, parse(message))


def answer_to(websocket: WebSocket, client: Any, data: dict[str, Any]) -> None:
    """Publish a line; send the answer that the page waits for, or the errors."""
    form = LineForm(data)
    if form.is_valid():
        client.publish("sample_site.chat", json.dumps({"type": "said", **form.as_message()}))
        answer: dict[str, Any] = {"type": "say", "reply": None}
    else:
        answer = {"type": "say", "errors": form.errors.get_json_data()}
    if "ref" in data:
        websocket.send_json({**answer, "ref": data["ref"]})
    elif "errors" in answer:
        websocket.send_json(answer)
