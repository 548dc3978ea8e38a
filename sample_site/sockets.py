"""The WebSocket views: chat, the same over Redis, echo and ping."""

import json
from select import select
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from django_wsmux.decorators import websocket, websocket_loop
from django_wsmux.groups import Group
from django_wsmux.responses import WebSocketResponse
from django_wsmux.server.websocket import WebSocket

from .forms import LineForm

__all__ = ["chat", "echo", "ping", "redis_chat"]


@websocket
def echo(request: HttpRequest, websocket: WebSocket) -> None:
    """Send back whatever comes."""
    for message in websocket:
        websocket.send(message)


@websocket_loop
def ping(request: HttpRequest, websocket: WebSocket) -> None:
    """Answer ping with pong and pong with ping; keep silent about anything else."""
    message = websocket.receive()
    if message == "ping":
        websocket.send("pong")
    elif message == "pong":
        websocket.send("ping")


@websocket
def chat(request: HttpRequest, websocket: WebSocket) -> None:
    """Tell every window what is said in one."""
    group = Group("chat")
    with group.joined(websocket):
        for message in websocket:
            form = LineForm(parse(message))
            if form.is_valid():
                group.send_json(form.as_message())
            else:
                websocket.send_json({"errors": form.errors.get_json_data()})


def parse(message: str | bytes) -> dict[str, Any]:
    """Read a line: JSON from the page, plain text from a terminal client."""
    try:
        value = json.loads(message)
    except ValueError:
        value = message
    return value if isinstance(value, dict) else {"text": str(value)}


def redis_chat(request: HttpRequest) -> HttpResponse:
    """Chat over Redis pub/sub: two sources, one select().

    The way to do it before there were groups, kept to show that it works: the socket's descriptor
    is readable exactly while a message waits, so none is left behind.
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
    """Refuse the handshake: there is nothing to talk to."""
    return HttpResponse("No Redis here.\n", status=503, content_type="text/plain")


def relay(websocket: WebSocket, client: Any, subscription: Any) -> None:
    """Carry lines from the window to Redis and from Redis to the window."""
    redis_socket = subscription.connection._sock
    while not websocket.closed:
        readable, _, _ = select([websocket.handler.socket.fileno(), redis_socket.fileno()], [], [])
        if redis_socket.fileno() in readable:
            # The client may have read several messages at once: take all of them.
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
