"""The site on django-gevent-websocket 0.2.0, used as in its README.

Several processes reach each other as in its chat: with a Redis subscription for each socket, and
``select()`` on both. A single process uses a set of sockets, which is faster than Redis.
"""

from __future__ import annotations

import os
from select import select
from typing import Any

from django_site import block, configure

configure(WEBSOCKET_URLCONF="django_gevent_websocket_site")

from django.contrib.auth.decorators import login_required  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django_websocket.decorators import websocket  # noqa: E402
from django_websocket.wsgi import get_wsgi_websocket_application  # noqa: E402

__all__ = ["urlpatterns", "websocket_application"]

redis_url = os.environ.get("BENCH_REDIS")
members: set[Any] = set()


def messages(websocket: Any) -> Any:
    """Yield the messages in order; binary ones are bytearrays."""
    return iter(websocket.receive, None)


@login_required
@websocket
def echo(request: HttpRequest, websocket: Any) -> HttpResponse:
    """Send back every message."""
    for message in messages(websocket):
        websocket.send(message)
    return HttpResponse()


@login_required
@websocket
def room(request: HttpRequest, websocket: Any) -> HttpResponse:
    """Receive the messages of the room."""
    if redis_url:
        return subscriber(websocket)
    members.add(websocket)
    try:
        for _ in messages(websocket):
            pass
    finally:
        members.discard(websocket)
    return HttpResponse()


def subscriber(websocket: Any) -> HttpResponse:
    """Receive the messages of the room from Redis."""
    import redis

    subscription = redis.Redis.from_url(redis_url, decode_responses=True).pubsub()
    subscription.subscribe("room")
    subscription.parse_response()  # the confirmation of the subscription
    ours = websocket.handler.socket.fileno()
    theirs = subscription.connection._sock.fileno()
    while not websocket.closed:
        (ready, *_), _, _ = select([ours, theirs], [], [])
        if ready == ours:
            if websocket.receive() is None:
                break
        else:
            # Several may have arrived at once: select() only reports the first one.
            while subscription.connection.can_read(0):
                kind, _, text = subscription.parse_response()
                if kind == "message":
                    websocket.send(text)
    subscription.close()
    return HttpResponse()


@login_required
@websocket
def speaker(request: HttpRequest, websocket: Any) -> HttpResponse:
    """Send each message to the room."""
    if redis_url:
        import redis

        connection = redis.Redis.from_url(redis_url)
        for message in messages(websocket):
            connection.publish("room", message)
    else:
        for message in messages(websocket):
            for member in list(members):
                member.send(message)
    return HttpResponse()


@login_required
@websocket
def sleeper(request: HttpRequest, websocket: Any) -> HttpResponse:
    """Answer after the database has answered."""
    for message in messages(websocket):
        block()
        websocket.send(message)
    return HttpResponse()


urlpatterns = [
    path("echo/", echo),
    path("room/", room),
    path("speaker/", speaker),
    path("sleep/", sleeper),
]
websocket_application = get_wsgi_websocket_application()
