"""Random plays: some sockets, their views and their peers do what a seed decides.

The result is a transcript: after each step, all that can be observed of each socket. The same seed
gives the same transcript with each implementation of the reactor; ``reactors.py`` compares them.
Must run in a process of its own that gevent has patched.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC
from functools import partial
from typing import Any, Final
from zoneinfo import ZoneInfo

import gevent
from django.urls import get_script_prefix
from django.utils import timezone
from greenlet import getcurrent

from django_wsmux.connection import fanout, moving, registry, tracing, turns
from django_wsmux.connection.counters import counters
from django_wsmux.connection.group_receive import InterceptingWebSocket, intercept
from django_wsmux.connection.interfaces import CLOSED, MARK
from django_wsmux.exceptions import ConnectionClosed
from django_wsmux.groups import moving as groups_moving
from django_wsmux.handlers.context import RequestContext
from django_wsmux.handlers.turns import TurnHooks
from django_wsmux.protocol.deflate import Compression
from django_wsmux.protocol.events import CannotMove
from django_wsmux.protocol.options import Options
from django_wsmux.protocol.prepared import PreparedMessage
from django_wsmux.transports.gevent import GeventTransport, transport_for
from django_wsmux.transports.streams import detach
from django_wsmux.websocket import WebSocket

from ..support import frame
from ..tracers import Silent
from .rooms import GroupHooks, Rooms

__all__ = ["play"]

#: Sizes of messages around each change of form.
_SIZES: Final = (
    *(*range(6), 33, 125, 126, 300, 4095, 8191, 8192, 8193, 20_000, 65_535, 65_536, 131_000),
)

#: Some share compressed messages, and some do not.
_COMPRESSIONS: Final = (
    *(None,) * 6,
    Compression(threshold=20),
    Compression(threshold=20, context_takeover=True),
)

#: Steps of a play.
_STEPS: Final = 40

#: Sockets of a large play.
_CROWD: Final = 30

#: What a text is made of.
_TEXTS: Final = ("x", "é", "€", "😀", "plain text ")

#: What is active around the messages of event views: as in any new context, or something else.
_CONTEXTS: Final = (
    RequestContext("/", UTC, None, None, is_default=True),
    RequestContext("/site/", ZoneInfo("Asia/Tokyo"), None, None),
    RequestContext("/other/", UTC, None, None),
)
_last: Final[ContextVar[str]] = ContextVar("last")

#: Payloads that are no text.
_WRONG: Final = (b"\xff", b"x" * 40 + b"\xc3", b"\xed\xa0\x80", b"ok\xf4\x90\x80\x80")


def turn() -> None:
    """Let the hub have a turn: a message to many members reaches another one."""
    hub = gevent.get_hub()
    timer = hub.loop.timer(0)
    hub.wait(timer)
    timer.close()


def settle() -> None:
    """Wait until nothing more happens by itself."""
    quiet = 0
    while quiet < 3:
        turn()
        gevent.idle()
        quiet = 0 if fanout._pending else quiet + 1


def short(data: object) -> str:
    """Return a text for the transcript."""
    text = repr(data)
    if len(text) < 60:
        return text
    return f"{text[:30]}...{len(text)}:{hashlib.md5(text.encode()).hexdigest()[:8]}"


def payload_of(chance: random.Random, *, is_text: bool) -> bytes:
    """Return the payload of a message, mostly a short one."""
    size = chance.choice(_SIZES) if chance.random() < 0.3 else chance.randrange(12)
    if not is_text:
        return bytes(chance.randrange(256) for _ in range(8)) * (size // 8) + b"#" * (size % 8)
    if chance.random() < 0.01:
        return chance.choice(_WRONG)
    text = chance.choice(_TEXTS)
    payload = (text * (size // len(text.encode()))).encode()
    if size > 5 and chance.random() < 0.2:
        # Text that stops to be ASCII, or to be text, perhaps in a later part.
        return payload[: size // 2] + chance.choice(("é".encode(), *_WRONG[:1]))
    return payload


def frames_of(chance: random.Random) -> bytes:
    """Return what a peer sends: mostly a message in a frame of its own."""
    kind, mask = chance.random(), bytes(chance.randrange(256) for _ in range(4))
    if kind < 0.7:
        is_text = chance.random() < 0.6
        return frame(0x81 if is_text else 0x82, payload_of(chance, is_text=is_text), mask)
    if kind < 0.8:
        payload = payload_of(chance, is_text=True)
        cut = chance.randrange(len(payload) + 1)
        return frame(0x01, payload[:cut], mask) + frame(0x80, payload[cut:], mask)
    if kind < 0.9:
        return frame(chance.choice((0x89, 0x8A)), bytes(chance.randrange(20)), mask)
    if kind < 0.91:
        return frame(0x88, b"\x03\xe8bye", mask)
    if kind < 0.92:
        return frame(chance.choice((0x83, 0xC1, 0xF2, 0x80)), b"wrong", mask)
    return b"".join(frames_of(chance) for _ in range(chance.randrange(1, 8)))


def numbers_in(stream: bytes) -> list[int]:
    """Return the numbers of the messages to all sockets among the frames that a peer has read."""
    found, start = list[int](), 0
    while start + 2 <= len(stream):
        first, size = stream[start : start + 2]
        start += 2
        if size > 125:
            more = 2 if size == 126 else 8
            size = int.from_bytes(stream[start : start + more], "big")
            start += more
        number = re.match(rb"#(\d+) ", stream[start : start + size])
        if first == 0x81 and number is not None:
            found.append(int(number[1]))
        start += size
    return found


class _Log(logging.Handler):
    """Notes what the package logs."""

    def __init__(self, note: Callable[..., None]) -> None:
        super().__init__()
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        """Note a message, and the class of its exception."""
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        self._note("log", record.levelname, record.getMessage(), error)


class _View:
    """An event view, which may fail, return a value, or use a database.

    Args:
        one: its socket.
    """

    def __init__(self, one: _One) -> None:
        self._one = one

    def receive(self, message: str | bytes) -> object:
        """Handle a message, and note what is active around it."""
        one, way = self._one, self._one.chance.randrange(12)
        one.note("active", get_script_prefix(), timezone.get_current_timezone(), _last.get(None))
        # Forgotten after this message.
        _last.set(short(message))
        one.handle(message)
        if way == 0:
            raise KeyError("view")
        if way == 1:
            setattr(getcurrent(), MARK, True)
        return 7 if way == 2 else None


class _Tracer(Silent):
    """The hook of a monitoring.

    Args:
        note: adds a line to the transcript.
    """

    def __init__(self, note: Callable[..., None]) -> None:
        self._note = note

    def receive(self, websocket: Any, handle: Callable[[Any], object], message: Any) -> object:
        """Note a message."""
        self._note("traced", short(message))
        return handle(message)


class _Hooks(TurnHooks, GroupHooks):
    """The framework: event views, and what the connection asks for."""

    def __init__(self, one: _One) -> None:
        GroupHooks.__init__(self, one.note)
        self._one = one
        self.view: Any = _View(one)
        self.request_context = one.chance.choice(_CONTEXTS)
        self.request = self.session = None

    def fail(self, websocket: Any, error: BaseException, context: Any = None) -> None:
        """Note that an event view has failed."""
        self._one.note("view fails", type(error).__name__)
        websocket.close(1011)

    def group_receive(self, websocket: WebSocket, message: PreparedMessage) -> None:
        """Handle a message of a group, in an event view."""
        self._one.handle_group_message(message.message)

    def disconnect(self, websocket: WebSocket) -> None:
        """Note the end of an event view."""
        self._one.note("disconnect", websocket.close_code)
        self._one.part()

    def before_wait(self) -> None:
        """Release the connections of a view, which may take a while."""
        self._one.note("before wait")
        delattr(getcurrent(), MARK)
        if self._one.chance.random() < 0.5:
            gevent.sleep(0)

    def is_disconnecting(self, websocket: WebSocket) -> bool:
        """Return that no event view ends."""
        return False

    def open(self, websocket: WebSocket) -> None:
        """Do nothing: the socket is open."""

    def retire(self) -> None:
        """Do nothing: the handlers have no database."""


def _hooks(one: _One) -> Any:
    return _Hooks(one)


class _One:
    """A socket with its view and its peer."""

    def __init__(self, play: _Play, number: int) -> None:
        self.play = play
        self.number = number
        self.chance = chance = random.Random(play.chance.random())
        self.options = Options(
            compression=chance.choice(_COMPRESSIONS),
            max_messages_per_second=chance.choice((None, None, None, 2, 20)),
            max_message_size=chance.choice((5_000, 2**20, 2**20)),
            max_unread_messages=chance.choice((1, 2, 64)),
            max_unread_bytes=chance.choice((200, 2**20)),
            max_unsent_bytes=chance.choice((500, 20_000, 2**20)),
            close_slow_clients=chance.random() < 0.5,
            handler_greenlets=2,
            blocked_warning=0,
            ping_interval=0,
            close_timeout=100,
            send_timeout=0,
        )
        self.websocket = websocket = WebSocket(
            {"PATH_INFO": f"/{number}"}, self.options, _hooks(self)
        )
        ours, self.peer = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, chance.choice((4_608, 2**18)))
        self.peer.setblocking(False)
        self.queued = self.stream = b""
        if self.options.compression:
            websocket.negotiate("permessage-deflate")
        is_event_driven = chance.random() < 0.4
        if is_event_driven and chance.random() < 0.3:
            intercept(websocket)
        play.rooms.prepare(websocket)
        websocket.opened(transport_for(detach(ours), websocket), b"", b"")
        self.view: Any = None
        if is_event_driven:
            websocket.serve()
        else:
            websocket.run(self.converse)
        play.rooms.join_some(websocket)

    def note(self, *what: object) -> None:
        """Add a line to the transcript."""
        self.play.note(self.number, *what)

    # The view

    def converse(self) -> None:
        """Be a function view: receive in one of the possible ways until the end."""
        self.view = getcurrent()
        try:
            while self.receive_one():
                pass
            self.note("view ends")
            self.part()
        except BaseException as error:
            self.note("view ends with", type(error).__name__, str(error)[:80])
            self.websocket.close(1011)

    def part(self) -> None:
        """Tell the others of the end, perhaps."""
        if self.chance.random() < 0.3:
            self.play.send_to_all(f"{self.number} leaves")

    def receive_one(self) -> bool:
        """Receive once and handle what comes; return whether the view goes on."""
        websocket, way = self.websocket, self.chance.randrange(9)
        if way == 0:
            with suppress(TimeoutError):
                return self.handle(websocket.receive(0))
            self.note("timeout")
            gevent.sleep(0)
            return self.handle(websocket.receive())
        if way == 1:
            return self.handle(websocket.receive(1000))
        if way == 2:
            self.note("wait", websocket.wait(), websocket.unread)
            return self.handle(websocket.receive())
        if way == 3:
            setattr(getcurrent(), MARK, True)
            return self.handle(websocket.receive())
        if way == 4:
            for count, message in enumerate(websocket):
                if not self.handle(message) or count > 2:
                    return True
            return False
        if way == 5:
            self.note("readable", select.select([websocket.fileno()], [], [], 0)[0] != [])
        return self.handle(websocket.receive())

    def handle(self, message: str | bytes | None) -> bool:
        """Note a message, and do something; return whether it was one."""
        self.note("got", short(message))
        if message is None:
            return False
        act = self.chance.choice(self.play.acts)
        try:
            act(self, message)
        except (ConnectionClosed, UnicodeEncodeError, TypeError, ValueError) as error:
            self.note("error", type(error).__name__, str(error)[:80])
        return True

    def handle_group_message(self, message: str | bytes) -> None:
        """Note a message of a group, and perhaps pass it on to the peer."""
        self.note("got of a group", short(message))
        if self.chance.random() < 0.7:
            with suppress(ConnectionClosed):
                self.websocket.send(message)

    # What views do

    def echo(self, message: str | bytes) -> None:
        """Send a message back."""
        self.websocket.send(message)

    def send_other(self, message: str | bytes) -> None:
        """Send a message of another kind."""
        chance = self.chance
        value: Any = chance.choice(
            ("", b"", "é" * 5_000, b"x" * 9_000, "y" * 70_000, "\ud800", bytearray(b"ba"), 7)
        )
        self.websocket.send(value)
        self.websocket.send(memoryview(b"view"), binary=chance.random() < 0.5)

    def rest(self, message: str | bytes) -> None:
        """Let others have their turn."""
        gevent.sleep(0)

    def close(self, message: str | bytes) -> None:
        """Close this socket, or another one."""
        other = self.other()
        if self.chance.random() < 0.2:
            other.websocket.close(4000 + self.number, "view")

    def send_to_another(self, message: str | bytes) -> None:
        """Send to another socket."""
        self.other().websocket.send(message)

    def send_to_all(self, message: str | bytes) -> None:
        """Send to the group of all sockets."""
        self.play.send_to_all(f"{self.number} says {short(message)}")

    def send_to_group(self, message: str | bytes) -> None:
        """Send to a group."""
        self.play.rooms.send(self.websocket)

    def join(self, message: str | bytes) -> None:
        """Join a group."""
        self.play.rooms.join(self.websocket)

    def leave(self, message: str | bytes) -> None:
        """Leave a group."""
        self.play.rooms.leave(self.websocket)

    def kill(self, message: str | bytes) -> None:
        """End a view, soon or at once."""
        self.other().end_view()

    def drop(self, message: str | bytes) -> None:
        """Lose a connection."""
        if self.chance.random() < 0.2:
            self.other().abort()

    def other(self) -> _One:
        """Choose a socket."""
        return self.chance.choice(self.play.sockets)

    def end_view(self) -> None:
        """Throw something into the view, if it is a greenlet."""
        view = self.view
        if view is None:
            return
        way = self.chance.randrange(3)
        if way == 0:
            view.kill(block=False)
        elif way == 1:
            view.kill(KeyError("killed"), block=False)
        else:
            gevent.get_hub().loop.run_callback(view.throw, gevent.Timeout(None))

    # What happens to it

    def abort(self) -> None:
        """Lose the connection."""
        transport = self.websocket._transport
        if self.websocket._state != CLOSED:
            transport.abort()

    def end(self) -> None:
        """Read what the peer has received, and end the view if it still runs."""
        if self.peer.fileno() >= 0:
            self.pull(2**24)
            self.peer.close()
        numbers = numbers_in(self.stream)
        if numbers != sorted(set(numbers)):
            self.note("Bug in the order", numbers)
        if self.view is not None and not self.view.dead:
            self.note("view still runs")
            self.view.kill()

    def push(self) -> None:
        """Let the peer send, as much as fits."""
        chance = self.chance
        if not self.queued or chance.random() < 0.3:
            self.queued += frames_of(chance)
        size = len(self.queued)
        if chance.random() < 0.25:
            size = chance.randrange(size + 1)
        self.send_queued(size)

    def send_queued(self, size: int) -> None:
        """Let the peer send so many of its bytes."""
        try:
            sent = self.peer.send(self.queued[:size])
            self.queued = self.queued[sent:]
            self.note("peer sends", sent)
        except OSError as error:
            self.note("peer cannot send", type(error).__name__)

    def pull(self, size: int | None = None) -> None:
        """Let the peer read."""
        size = self.chance.choice((1, 100, 5_000, 2**20)) if size is None else size
        data = b""
        try:
            while len(data) < size and (more := self.peer.recv(size - len(data))):
                data += more
            self.note("peer reads", len(data), short(data))
        except OSError as error:
            self.note("peer reads", len(data), short(data), type(error).__name__)
        self.stream += data

    def state(self) -> tuple[object, ...]:
        """Return all that can be observed."""
        websocket = self.websocket
        return (
            *(websocket._state, websocket.close_code, websocket.close_reason, websocket.unread),
            *(websocket.unsent, tuple(websocket.traffic), websocket._is_paused),
            *(websocket._is_busy, websocket._is_watched, websocket._is_alive, websocket.is_held),
            *(websocket._waiter is not None, websocket._owed > 0),
        )


class _Play:
    """All sockets of a play."""

    acts: Final = (
        *(_One.echo,) * 6,
        *(_One.send_other, _One.rest, _One.close, _One.send_to_another, _One.send_to_all),
        *(_One.kill, _One.drop, _One.send_to_group, _One.send_to_group, _One.join, _One.leave),
    )

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.rooms = Rooms(self.chance, self.note)
        self.lines: list[str] = []
        self.sockets: list[_One] = []
        self._states: dict[int, object] = {}
        self._last = self._count = 0

    def note(self, *what: object) -> None:
        """Add a line to the transcript."""
        self.lines.append(" ".join(map(str, what)))

    def add(self) -> None:
        """Open another socket."""
        self._last += 1
        self.sockets.append(_One(self, self._last))

    def send_to_all(self, text: str) -> None:
        """Send a message to the group of all sockets."""
        self._count += 1
        message = PreparedMessage(1, f"#{self._count} {text}".encode())
        fanout.deliver([one.websocket for one in self.sockets], message)

    def run(self) -> None:
        """Run the play."""
        chance = self.chance
        for _ in range(chance.randrange(1, 5) if chance.random() < 0.9 else _CROWD):
            self.add()
        settle()
        steps = (*(self.peers,) * 8, *(self.one_peer,) * 2, *(self.server,) * 2, self.at_once)
        for _ in range(_STEPS):
            self.rooms.seconds += chance.choice((0.0, 0.0, 0.1, 2.0))
            chance.choice(steps)()
            settle()
            self.observe()
            self.replace()
        for one in self.sockets:
            one.pull(2**24)
            settle()
        self.observe()
        for one in self.sockets:
            one.abort()
            settle()
            one.end()
        self.observe()

    def replace(self) -> None:
        """Open new sockets for those that are closed."""
        for one in [each for each in self.sockets if each.websocket._state == CLOSED]:
            one.end()
            self.sockets.remove(one)
        while len(self.sockets) < 2 or (len(self.sockets) < 6 and self.chance.random() < 0.1):
            self.add()
            settle()

    def peers(self) -> None:
        """Let several peers send and read, before the server looks."""
        for one in self.chance.sample(self.sockets, self.chance.randrange(len(self.sockets)) + 1):
            for _ in range(self.chance.choice((1, 1, 1, 3))):
                one.push()
            if self.chance.random() < 0.5:
                one.pull()

    def one_peer(self) -> None:
        """Let something happen to one peer."""
        one, way = self.chance.choice(self.sockets), self.chance.randrange(20)
        if way < 10:
            one.pull()
        elif way == 10:
            one.note("peer ends its stream")
            with suppress(OSError):
                one.peer.shutdown(socket.SHUT_WR)
        elif way == 11:
            one.note("peer closes")
            one.peer.close()
        else:
            one.send_queued(len(one.queued))

    def server(self) -> None:
        """Let something happen on the server, outside of views."""
        one, way = self.chance.choice(self.sockets), self.chance.randrange(20)
        websocket = one.websocket
        if way < 3:
            self.send_to_all("group " * self.chance.choice((1, 200, 3_000)))
        elif way < 6:
            self.guarded(one, partial(websocket.send, "from outside"))
        elif way == 6:
            self.guarded(one, partial(websocket.close, 3001, "outside"))
        elif way == 7:
            one.end_view()
        elif way < 10:
            self.guarded(one, partial(websocket.ping, b"ping"))
        elif way < 13:
            websocket.hold()
            self.send_to_all("held")
            settle()
            websocket.release()
        elif way == 13:
            one.abort()
        elif way == 14:
            websocket.close_from_group(3002, "group")
        else:
            self.move(one)

    def at_once(self) -> None:
        """Send to many, and let other things happen before all of them have the messages."""
        for _ in range(self.chance.randrange(2, 10)):
            one, way = self.chance.choice(self.sockets), self.chance.randrange(13)
            if way < 3:
                self.rooms.send(one.websocket)
            elif way == 3:
                self.send_to_all("many")
            elif way == 4:
                self.rooms.leave(one.websocket)
            elif way == 5:
                self.rooms.join(one.websocket)
            elif way == 6:
                self.rooms.end_one()
            elif way == 7:
                one.push()
            elif way == 8:
                self.server()
            elif way == 9:
                # As messages from other processes arrive.
                gevent.get_hub().loop.run_callback(self.send_to_all, "on the hub")
            elif way == 10:
                one.note("peer closes")
                one.peer.close()
            else:
                turn()

    def guarded(self, one: _One, call: Callable[[], object]) -> None:
        """Call something that may wait, in a greenlet."""

        def work() -> None:
            try:
                call()
                one.note("done")
            except Exception as error:
                one.note("error", type(error).__name__, str(error)[:80])

        gevent.spawn(work)

    def move(self, one: _One) -> None:
        """Move a socket to another object, as to another process."""
        old = one.websocket
        if old._state == CLOSED:
            return
        try:
            state, groups = moving.pack(old), groups_moving.memberships(old)
            detached = old.detach()
        except CannotMove as error:
            one.note("cannot move", error)
            return
        one.note("moves", short(detached.unread), short(detached.unsent))
        one.websocket = new = WebSocket({"PATH_INFO": "/moved"}, one.options, _hooks(one))
        if isinstance(old, InterceptingWebSocket):
            intercept(new)
        transport = GeventTransport.adopt(detached, new)
        moving.unpack(new, state)
        new.serve()
        new.adopted(transport, detached)
        groups_moving.rejoin(new, groups)
        settle()
        groups_moving.replay(groups_moving.cut(), True, [new])
        new.resume(detached.unread)

    def observe(self) -> None:
        """Note all states that have changed."""
        for one in self.sockets:
            state = one.state()
            if self._states.get(one.number) != state:
                self._states[one.number] = state
                one.note("is", *state)


def play(seed: int) -> list[str]:
    """Run the play of a seed.

    Returns:
        The lines of its transcript.
    """
    play = _Play(seed)
    logger = logging.getLogger("django_wsmux")
    handler = _Log(play.note)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    tracing.tracer = _Tracer(play.note) if play.chance.random() < 0.1 else None
    before, calls = dict(counters), sum(turns.handler_calls()[0])
    try:
        play.run()
    finally:
        logger.removeHandler(handler)
    settle()
    changed = {name: value - before[name] for name, value in counters.items()}
    play.note("counters", {name: value for name, value in changed.items() if value})
    play.note("handler calls", sum(turns.handler_calls()[0]) - calls)
    play.note("left", len(registry.open_sockets), len(registry.running_views))
    registry.running_views.clear()
    return play.lines
