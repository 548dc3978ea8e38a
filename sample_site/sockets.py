"""The WebSocket views: chat, chat over Redis, notifications, echo and ping."""

import json
import os
from select import select
from typing import Any

from django.conf import settings
from django.contrib.auth.mixins import LoginRequiredMixin
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.crypto import get_random_string

from django_wsmux.decorators import websocket, websocket_loop
from django_wsmux.groups import Group
from django_wsmux.responses import WebSocketResponse
from django_wsmux.views import WebSocketView
from django_wsmux.websocket import WebSocket

from .forms import LineForm, NameForm

__all__ = ["Notifications", "chat", "echo", "ping", "redis_chat"]


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


@websocket
def chat(request: HttpRequest, websocket: WebSocket) -> None:
    """Send each line to every window, and on request the names of the users who are present.

    A window that returns sends its position, and gets the lines that it missed.
    """
    group = Group("chat")
    if group.join(websocket).recovered is False:
        websocket.send_json({"missed": "lines"})
    try:
        for message in websocket:
            data = parse(message)
            if "name" in data:
                introduce(websocket, data)
            elif "ask" in data:
                websocket.send_json({"here": who_is_here()})
            else:
                say(websocket, group, data)
    finally:
        # The socket has closed and left its groups: let the other windows ask again who is here.
        PRESENT.send_json({"changed": "here"})


#: The windows whose users have given a name.
PRESENT = Group("chat.present")


def introduce(websocket: WebSocket, data: dict[str, Any]) -> None:
    """Name a window, or rename it, and notify all of them."""
    form = NameForm(data)
    if form.is_valid():
        PRESENT.join(websocket, form.cleaned_data)
        PRESENT.send_json({"changed": "here"})
    else:
        websocket.send_json({"errors": form.errors.get_json_data()})


def who_is_here() -> list[str]:
    """Ask all workers. No list is stored, so none is wrong after a crash."""
    return sorted(member.info["name"] for member in PRESENT.members())


def say(websocket: WebSocket, group: Group, data: dict[str, Any]) -> None:
    """Send a line to everyone."""
    form = LineForm(data)
    if form.is_valid():
        # A window that returns may get a line again, and recognizes it by the id.
        group.send_json({"id": get_random_string(12), "sent": timezone.now(), **form.as_message()})
    else:
        websocket.send_json({"errors": form.errors.get_json_data()})


def parse(message: str | bytes) -> dict[str, Any]:
    """Parse a line: JSON from the page, plain text from a terminal client."""
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        value = message
    return value if isinstance(value, dict) else {"text": str(value)}


class Notifications(LoginRequiredMixin, WebSocketView):
    """Receives what is sent to its user: the user's sockets join that group by themselves."""

    def connect(self, request: HttpRequest) -> None:
        """Show which worker this is; the user's other windows may be connected to other ones."""
        self.send(f"This window is connected to worker {os.getpid()}.")


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


def relay(websocket: WebSocket, client: Any, subscription: Any) -> None:
    """Pass lines from the window to Redis and from Redis to the window."""
    redis_socket = subscription.connection._sock
    while not websocket.closed:
        readable, _, _ = select([websocket.handler.socket.fileno(), redis_socket.fileno()], [], [])
        if redis_socket.fileno() in readable:
            # redis-py may have read several messages at once: take all of them.
            while event := subscription.get_message(timeout=0):
                websocket.send(event["data"].decode())
        if websocket.fileno() in readable:
            message = websocket.receive()
            if message is None:
                return
            form = LineForm(parse(message))
            if form.is_valid():
                client.publish("sample_site.chat", json.dumps(form.as_message()))
            else:
                websocket.send_json({"errors": form.errors.get_json_data()})
