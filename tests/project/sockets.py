"""Function views, one for each behaviour under test."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from select import select
from typing import Any

from django import forms
from django.contrib.auth.decorators import login_required, permission_required
from django.core.exceptions import PermissionDenied
from django.db import connection, connections, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import get_language
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET

from django_wsmux.auth import authentication, bearer
from django_wsmux.decorators import websocket, websocket_loop
from django_wsmux.exceptions import ConnectionClosed
from django_wsmux.groups import Group
from django_wsmux.responses import WebSocketResponse
from django_wsmux.websocket import WebSocket

from . import state


@websocket
def echo(request: HttpRequest, websocket: WebSocket) -> None:
    for message in websocket:
        websocket.send(message)


@websocket(compression=False)
def uncompressed(request: HttpRequest, websocket: WebSocket) -> None:
    for message in websocket:
        websocket.send(message)


@websocket_loop(compression=False)
def uncompressed_loop(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send(websocket.receive() or "")


@websocket
def process(request: HttpRequest, websocket: WebSocket) -> None:
    """Answer with the process id."""
    for _ in websocket:
        websocket.send(str(os.getpid()))


@websocket_loop
def process_loop(request: HttpRequest, websocket: WebSocket) -> None:
    """Answer with the process id."""
    websocket.receive()
    websocket.send(str(os.getpid()))


@websocket
def process_leaving(request: HttpRequest, websocket: WebSocket) -> None:
    """Answer with the process id; at the end, tell the members that are left."""
    Group("leaving").join(websocket)
    for _ in websocket:
        websocket.send(str(os.getpid()))
    Group("leaving").send("someone has left")


def plain_echo(request: Any) -> None:
    """Accept with the first use, without a decorator."""
    while (message := request.websocket.receive()) is not None:
        request.websocket.send(message)


def meta_echo(request: HttpRequest) -> HttpResponse:
    """Echo as a view for gevent-websocket does."""
    ws = request.META["wsgi.websocket"]
    while not ws.closed:
        message = ws.receive()
        if message is not None:
            ws.send(message)
    return HttpResponse()


@websocket_loop
def loop(request: HttpRequest, websocket: WebSocket) -> None:
    message = websocket.receive()
    assert message is not None
    websocket.send(message)


def status(request: HttpRequest, status: int) -> HttpResponse:
    if status == 302:
        return HttpResponseRedirect("/elsewhere/")
    response = HttpResponse(f"status {status}", status=status)
    response.headers["Retry-After"] = "7"
    return response


def page(request: HttpRequest) -> HttpResponse:
    """Lack the decorator."""
    return HttpResponse("a page")


@authentication(bearer(lambda token: None))
@websocket
def with_token(request: HttpRequest, websocket: WebSocket) -> None:
    """Accept no token."""


@login_required
@websocket(refusals="close")
def telling(request: HttpRequest, websocket: WebSocket) -> None:
    """Refuse browsers with a close code."""


@login_required
@websocket(refusals="http")
def untelling(request: HttpRequest, websocket: WebSocket) -> None:
    """Refuse with HTTP, with any setting."""


@websocket
def late_status(request: HttpRequest, websocket: WebSocket, status: int) -> HttpResponse:
    return HttpResponse(status=status)


@websocket
def crash(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.receive()
    raise ValueError("it broke ü" + "x" * 200)


@websocket
def exiting(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.receive()
    raise SystemExit("done for today")


@websocket
def receiving_twice(request: HttpRequest, websocket: WebSocket) -> None:
    """Wait for a message in two places."""
    websocket.spawn(websocket.receive)
    websocket.receive()


def crash_before(request: HttpRequest) -> HttpResponse:
    raise ValueError("it broke before")


def missing(request: HttpRequest) -> HttpResponse:
    raise Http404


def denied(request: HttpRequest) -> HttpResponse:
    raise PermissionDenied


@login_required
@websocket
def private(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send(request.user.get_username())


@permission_required("auth.add_user", raise_exception=True)
@websocket
def staff(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send("staff")


@csrf_exempt
@never_cache
@require_GET
@websocket
def stacked(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send("stacked")


@websocket
def room(request: HttpRequest, websocket: WebSocket, slug: str) -> None:
    assert request.resolver_match is not None
    websocket.send(f"{slug} {request.resolver_match.view_name}")


@websocket
def number(request: HttpRequest, websocket: WebSocket, number: int) -> None:
    websocket.send_json({"number": number, "type": type(number).__name__})


@websocket
def year(request: HttpRequest, websocket: WebSocket, year: str) -> None:
    websocket.send(year)


@websocket
def unwound(request: HttpRequest, websocket: WebSocket) -> None:
    """Send which parts of the request are still in progress."""
    websocket.send_json({"inside": state.inside, "atomic": connection.in_atomic_block})


@websocket
def session(request: HttpRequest, websocket: WebSocket) -> None:
    """Count in the session."""
    for _ in websocket:
        request.session["count"] = request.session.get("count", 0) + 1
        request.session.save()
        websocket.send_json(request.session["count"])


@websocket(subprotocols=["chat.v2", "chat.v1"])
def subprotocol(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send(str(websocket.subprotocol))


@websocket
def closing(request: HttpRequest, websocket: WebSocket, code: int, reason: str) -> None:
    websocket.close(code, reason)


@websocket
def report(request: HttpRequest, websocket: WebSocket, key: str) -> None:
    """Report how the socket closed."""
    messages = list(websocket)
    state.reports[key] = f"{websocket.close_code} {websocket.close_reason} {messages}"


@websocket
def selecting(request: HttpRequest, websocket: WebSocket) -> None:
    """Wait for two sources with one select(), as in the README of the older package."""
    ours, theirs = socket.socketpair()
    theirs.sendall(b"from the other source")
    sources = [websocket.handler.socket.fileno(), ours.fileno()]
    while not websocket.closed:
        readable = select(sources, [], [])[0]
        if ours.fileno() in readable:
            websocket.send(ours.recv(100).decode())
        if websocket.fileno() in readable:
            # The message must be complete; otherwise this raises.
            message = websocket.receive(timeout=0)
            if message is not None:
                websocket.send(message)


@websocket
def language(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send(str(get_language()))
    websocket.spawn(lambda: websocket.send(f"helper {get_language()}"))
    websocket.receive()


@websocket
def outside(request: HttpRequest, websocket: WebSocket) -> None:
    """Send what is known of the client behind a proxy."""
    claimed = request.META.get("HTTP_X_FORWARDED_FOR", "")
    known = {"host": request.get_host(), "secure": request.is_secure(), "for": claimed}
    websocket.send_json(known)


@websocket
def reversing(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.send(reverse("only-a-page"))


@websocket
def spawning(request: HttpRequest, websocket: WebSocket) -> None:
    """Echo while a helper sends ticks."""

    def tick(text: str) -> None:
        try:
            while True:
                websocket.send(text)
                time.sleep(0.05)
        finally:
            state.reports["ticker"] = "ended"

    def fail() -> None:
        raise ValueError("helper")

    websocket.spawn(tick, "tick")
    for message in websocket:
        if message == "fail":
            websocket.spawn(fail)
        else:
            websocket.send(message)


@websocket
def atomic(request: HttpRequest, websocket: WebSocket) -> None:
    with transaction.atomic():
        connection.cursor().execute("SELECT 1")
        websocket.receive()


@websocket
def database(request: HttpRequest, websocket: WebSocket) -> None:
    """Use the database, then wait; a helper sends whether the view's connection is held."""
    connection.cursor().execute("SELECT 1")
    own = connections["default"]

    def look() -> None:
        time.sleep(0.05)
        websocket.send_json({"held": own.connection is not None})

    websocket.spawn(look)
    websocket.receive()


@websocket
def group(request: HttpRequest, websocket: WebSocket) -> None:
    room = Group("test")
    with room.joined(websocket):
        for message in websocket:
            if message == "count":
                websocket.send_json(room.count())
            elif message == "others":
                room.send("for the others", exclude=websocket)
            elif message == "flood":
                for _ in range(400):
                    room.send(bytes(2**16), exclude=websocket)
                websocket.send("flooded")
            elif message == "close":
                room.close(4000, "all out")
            elif str(message).startswith("fill "):
                # Fill the kernel's buffers, for a peer that does not read.
                while not websocket._transport.unsent:
                    websocket.send(bytes(2**14))
                state.reports[str(message).removeprefix("fill ")] = "filled"
            else:
                room.send(message)


@websocket
def timeout(request: HttpRequest, websocket: WebSocket) -> None:
    try:
        websocket.receive(timeout=0.05)
    except TimeoutError as error:
        websocket.send(str(error))
    websocket.send(websocket.receive(timeout=60) or "")


@websocket
def flood(request: HttpRequest, websocket: WebSocket) -> None:
    """Send more than a peer takes that does not read."""
    chunk = os.urandom(2**16)
    for number in range(256):
        websocket.send(chunk)
        state.reports["flood"] = str(number + 1)


@websocket
def flood_report(request: HttpRequest, websocket: WebSocket, key: str) -> None:
    """Send without end, and report the exception that ends it."""
    try:
        while True:
            websocket.send(bytes(2**16))
    except ConnectionClosed as error:
        state.reports[key] = f"ConnectionClosed {error.code} {error.reason}"


@websocket
def overflowing(request: HttpRequest, websocket: WebSocket) -> None:
    """Join the group, and send more than the peer takes."""
    with Group("test").joined(websocket):
        websocket.send("ready")
        websocket.send(bytes(2**25))


@websocket
def late_echo(request: HttpRequest, websocket: WebSocket, key: str) -> None:
    """Receive nothing until a page says so."""
    while state.reports.get(key) != "go":
        time.sleep(0.02)
    for message in websocket:
        websocket.send(message)


@websocket
def silent(request: HttpRequest, websocket: WebSocket) -> None:
    """Receive nothing until the peer is gone."""
    while not websocket.closed:
        time.sleep(0.02)


@websocket
def latency(request: HttpRequest, websocket: WebSocket) -> None:
    """Answer with the latency."""
    for _ in websocket:
        websocket.send_json(websocket.latency)


@websocket
def ping_me(request: HttpRequest, websocket: WebSocket) -> None:
    websocket.ping(b"are you there")
    while websocket.latency is None:
        with suppress(TimeoutError):
            websocket.receive(timeout=0.02)
    websocket.send_json({"latency": websocket.latency})


@websocket
def coming_and_going(request: HttpRequest, websocket: WebSocket) -> None:
    """Join, leave and spawn often, and send how many callbacks the socket still holds."""
    for number in range(100):
        Group(f"room.{number}").join(websocket)
        Group(f"room.{number}").leave(websocket)
        websocket.spawn(int)
    deadline = time.monotonic() + 60
    while websocket._on_close and time.monotonic() < deadline:
        time.sleep(0.02)
    websocket.send_json(len(websocket._on_close or ()))


def mirror(request: HttpRequest) -> HttpResponse:
    """Put values from the client into every possible place of the 101."""
    offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    subprotocols = offered if "offered" in request.GET else request.GET.getlist("subprotocol")
    response = WebSocketResponse(
        lambda websocket: websocket.send(str(websocket.subprotocol)), subprotocols=subprotocols
    )
    if "cookie" in request.GET:
        response.set_cookie("mirrored", request.GET["cookie"])
    if "header" in request.GET:
        response.headers["X-Mirrored"] = request.GET["header"]
    return response


def undecided(request: HttpRequest, key: str) -> HttpResponse:
    """Wait in the handshake until a page lets it go, then accept."""
    state.reports[key] = "waiting"
    while state.reports[key] != "go":
        time.sleep(0.01)
    return WebSocketResponse(lambda websocket: websocket.send("yes"))


@websocket
def close_all_and_wait(request: HttpRequest, websocket: WebSocket) -> None:
    """Write a file, slowly, with the code of the close."""
    websocket.send("ready")
    websocket.receive()
    time.sleep(0.3)
    path = Path(os.environ["TEST_FAREWELL"])
    path.write_text(f"{websocket.close_code} {websocket.close_reason}")


@websocket
def computing(request: HttpRequest, websocket: WebSocket) -> None:
    """Block the event loop for a while with each message."""
    for _ in websocket:
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            pass
        websocket.send("done")


class NumberForm(forms.Form):
    number = forms.IntegerField(min_value=1)


@websocket
def form(request: HttpRequest, websocket: WebSocket) -> None:
    for _ in range(2):
        form = NumberForm(websocket.receive_json())
        if form.is_valid():
            websocket.send_json({"double": 2 * form.cleaned_data["number"]})
        else:
            websocket.send_json({"errors": form.errors.get_json_data()})


@websocket
def burst(request: HttpRequest, websocket: WebSocket, count: int, size: int) -> None:
    """Send this many messages of this size, filled with their number."""
    for number in range(count):
        websocket.send(bytes((number % 256,)) * size)


@websocket
def chorus(request: HttpRequest, websocket: WebSocket, count: int, size: int) -> None:
    """Echo while helpers send one message each, all at once, filled with their number."""

    def sing(number: int) -> None:
        websocket.send((b"%03d " % number) * (size // 4))

    for number in range(count):
        websocket.spawn(sing, number)
    for message in websocket:
        websocket.send(message)


@websocket
def crowd(request: HttpRequest, websocket: WebSocket, key: str) -> None:
    """Send from many greenlets to a peer that does not read; report the number of unsent bytes."""
    message = bytes(websocket.options.max_unsent_bytes)
    for _ in range(50):
        websocket.spawn(websocket.send, message)
    while not websocket._transport.unsent:
        time.sleep(0.01)
    # By now, each of them has run, and again.
    time.sleep(0.05)
    state.reports[key] = str(websocket._transport.unsent)


@websocket
def leaving(request: HttpRequest, websocket: WebSocket, key: str) -> None:
    """Close after the first message, and report how the socket closed."""
    websocket.receive()
    websocket.close(4001, "ours")
    messages = list(websocket)
    state.reports[key] = f"{websocket.close_code} {websocket.close_reason} {messages}"


@websocket
def overfull(request: HttpRequest, websocket: WebSocket, key: str, code: int) -> None:
    """Send until the queue is full, then close; with code 0, wait for the peer to close."""
    sent: list[int] = []

    def fill() -> None:
        while True:
            sent.append(len(sent))
            websocket.send(sent[-1].to_bytes(4, "big") * 4096)

    websocket.spawn(fill)
    while websocket._transport.unsent + 2**14 <= websocket.options.max_unsent_bytes:
        time.sleep(0.01)
    if code:
        websocket.close(code, "full")
    state.reports[f"{key}-full"] = str(len(sent))
    messages = list(websocket)
    state.reports[key] = f"{websocket.close_code} {websocket.close_reason} {messages}"


def plain_deciding(request: Any, key: str) -> HttpResponse:
    """Join the group in the handshake, wait until let go, and accept with the first message."""
    Group(key).join(request.websocket)
    state.reports[key] = "waiting"
    while state.reports[key] != "go":
        time.sleep(0.01)
    if "refuse" in request.GET:
        return HttpResponse("refused", status=403)
    with suppress(ConnectionClosed):
        request.websocket.send("own")
        request.websocket.receive()
    return HttpResponse()


@websocket
def filling(request: HttpRequest, websocket: WebSocket, size: int) -> None:
    """Fill the kernel's buffers, then send messages of this size until the socket closes."""
    while not websocket._transport.unsent:
        websocket.send(b"x" * 2**14)
    with suppress(ConnectionClosed):
        while True:
            websocket.send(b"x" * size)


@websocket
def late(request: HttpRequest, websocket: WebSocket, key: str, code: int) -> None:
    """Receive nothing until reading has paused; close unless code is 0; then receive everything.

    Report how the socket closed and how many messages came.
    """
    while not websocket._is_paused:
        time.sleep(0.01)
    state.reports[f"{key}-paused"] = "paused"
    if code:
        websocket.close(code, "late")
    time.sleep(0.3)
    count = len(list(websocket))
    state.reports[key] = f"{websocket.close_code} {websocket.close_reason} {count}"


@websocket
def aloof(request: HttpRequest, websocket: WebSocket) -> None:
    """Receive nothing, and wait for the end of the socket without checking for it."""
    ended = threading.Event()
    websocket.on_close(ended, ended.set)
    ended.wait()
