"""Messages of groups in slices: each socket gets what it would get if all were sent at once."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_wsmux.connection import fanout, hub_thread, link
from django_wsmux.connection.counters import counters
from django_wsmux.connection.framing import V1
from django_wsmux.groups.members import Members
from django_wsmux.protocol.frames import TEXT, encode
from django_wsmux.protocol.prepared import PreparedMessage
from tests.support import frame
from tests.transports.test_gevent import run

ONE, TWO = PreparedMessage(TEXT, b"one"), PreparedMessage(TEXT, b"two")


@pytest.fixture(params=["in use", "Python"])
def hub(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[deque[Callable[[], None]]]:
    """The calls that the hub is to make; each slice serves one member."""
    calls: deque[Callable[[], None]] = deque()
    monkeypatch.setattr(hub_thread, "_soon", calls.append)
    for name, value in {"_SLICE": 0.0, "_STEP": 1, "_FEW": 0}.items():
        monkeypatch.setattr(fanout, name, value)
    if request.param == "Python":
        monkeypatch.setattr(fanout, "serve", link._serve)
        monkeypatch.setattr(fanout, "owe", link._owe)
    fanout.disown()
    yield calls
    fanout.disown()


@pytest.fixture
def pairs(connect: Any) -> list[Any]:
    """Four open sockets and their clients."""
    found = [connect() for _ in range(4)]
    for pair in found:
        pair.open()
        assert pair.sent == b"101 "
    return found


def finish(hub: deque[Callable[[], None]]) -> int:
    """Make the calls of the hub until there are none; return how many there were."""
    calls = 0
    while hub:
        hub.popleft()()
        calls += 1
    return calls


def sockets(pairs: list[Any]) -> list[Any]:
    """Return the sockets of pairs."""
    return [pair.websocket for pair in pairs]


def test_slices(hub: Any, pairs: Any) -> None:
    """Each turn of the hub serves some members, in their order; others have their turn between."""
    fanout.deliver(sockets(pairs), ONE)
    for count in range(1, 5):
        assert [pair.client.sent != b"" for pair in pairs if pair.loop.run() is None] == [
            index < count for index in range(4)
        ]
        assert len(hub) == (count < 4)
        if hub:
            hub.popleft()()
    assert [pair.sent for pair in pairs] == [ONE.plain] * 4
    assert [pair.websocket.traffic[2:] for pair in pairs] == [(1, len(ONE.plain))] * 4


def test_no_hub(hub: Any, pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All members are served at once where there is no hub, and so are a few members."""
    monkeypatch.setattr(fanout, "_FEW", 4)
    fanout.deliver(sockets(pairs), ONE)
    monkeypatch.setattr(fanout, "_FEW", 0)
    monkeypatch.setattr(hub_thread, "_soon", None)
    fanout.deliver(sockets(pairs), TWO)
    assert [pair.sent for pair in pairs] == [ONE.plain + TWO.plain] * 4


#: What follows a message of a group that was sent before, and the bytes that it sends.
NEXT: dict[str, tuple[Callable[[Any], object], bytes]] = {
    "send": (lambda websocket: websocket.send("x"), encode(TEXT, b"x")),
    "send bytes": (lambda websocket: websocket.send(b"x"), encode(2, b"x")),
    "send_bare": (lambda websocket: websocket.send_bare("x"), encode(TEXT, b"x")),
    "tell": (lambda websocket: websocket.tell("x"), encode(TEXT, b"x")),
    "ping": (lambda websocket: websocket.ping(b"x"), encode(9, b"x")),
    "close": (lambda websocket: websocket.close(4000), encode(8, b"\x0f\xa0")),
    "close of a group": (
        lambda websocket: websocket.close_from_group(4000, ""),
        encode(8, b"\x0f\xa0"),
    ),
    "close after a replay": (
        lambda websocket: websocket.close_after_replay(4000, ""),
        encode(8, b"\x0f\xa0"),
    ),
    "hold": (lambda websocket: websocket.hold(), b""),
    "replay": (lambda websocket: websocket.replay([], bool), b""),
    "discard": (lambda websocket: websocket.discard_held(lambda message: True), b""),
    "move": (lambda websocket: websocket.held_messages(), b""),
    "name": (lambda websocket: websocket.name_group("a", "b"), b""),
    "read": (lambda websocket: websocket.data_received(frame(0x89, b"x"), 7), encode(10, b"x")),
    "closed by peer": (
        lambda websocket: websocket.data_received(frame(0x88, b"\x0f\xa0"), 8),
        encode(8, b"\x0f\xa0"),
    ),
    "group": (lambda websocket: fanout.deliver([websocket], TWO), b""),
}


@pytest.mark.parametrize("name", NEXT)
def test_order(hub: Any, pairs: Any, name: str) -> None:
    """Whatever happens to a socket comes after the messages that it is owed, and loses none."""
    act, expected = NEXT[name]
    fanout.deliver(sockets(pairs), ONE)
    act(pairs[-1].websocket)
    if name != "group":
        assert pairs[-1].sent == ONE.plain + expected
        expected = b""
        finish(hub)
    else:
        finish(hub)
        expected = ONE.plain + TWO.plain
    assert pairs[-1].sent == expected
    assert [pair.sent for pair in pairs[:3]] == [ONE.plain] * 3
    assert not fanout._pending


def test_keepalive(hub: Any, pairs: Any) -> None:
    """A heartbeat, which may say how far a client has got, follows the messages before it."""
    fanout.deliver(sockets(pairs), ONE)
    pairs[-1].websocket.send_keepalive_ping()
    assert pairs[-1].sent.startswith(ONE.plain + b"\x89")


def test_overlapping_groups(hub: Any, pairs: Any) -> None:
    """Members of two groups get the messages of both in order, once each, and excluded ones not."""
    members = Members()
    for websocket in sockets(pairs):
        members.add("a", websocket)
    for websocket in sockets(pairs[:0:-1]):
        members.add("b", websocket)
    before = counters["group_messages"], counters["group_deliveries"]
    members.deliver("a", ONE)
    members.deliver("b", TWO, {pairs[2].websocket})
    members.deliver("a", TWO)
    pairs[3].websocket.send("x")
    finish(hub)
    assert [pair.sent for pair in pairs] == [
        ONE.plain + TWO.plain,
        ONE.plain + TWO.plain * 2,
        ONE.plain + TWO.plain,
        ONE.plain + TWO.plain * 2 + encode(TEXT, b"x"),
    ]
    assert counters["group_messages"] == before[0] + 3
    assert counters["group_deliveries"] == before[1] + 4 + 2 + 4


def test_again_after_settling(hub: Any, pairs: Any) -> None:
    """A member that has got its message early gets the next one once, in its turn."""
    fanout.deliver(sockets(pairs), ONE)
    pairs[2].websocket.send("x")
    fanout.deliver(sockets(pairs), TWO)
    finish(hub)
    assert pairs[2].sent == ONE.plain + encode(TEXT, b"x") + TWO.plain
    assert pairs[3].sent == ONE.plain + TWO.plain
    fanout.deliver(sockets(pairs), ONE)
    assert finish(hub) == 3
    assert [pair.sent for pair in pairs[2:]] == [ONE.plain] * 2


def test_lost_and_closed_members(hub: Any, pairs: Any) -> None:
    """A member that is lost or closes in the middle does not affect the others."""
    fanout.deliver(sockets(pairs), ONE)
    pairs[1].transport.abort()
    pairs[2].websocket.close()
    finish(hub)
    assert pairs[1].client.sent == b""
    assert pairs[3].sent == ONE.plain
    fanout.deliver(sockets(pairs), TWO)
    finish(hub)
    assert (pairs[0].sent, pairs[3].sent) == (ONE.plain + TWO.plain, TWO.plain)


def test_error(
    hub: Any, pairs: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in one member is logged; the others get the message."""

    def fail(data: bytes) -> None:
        raise ZeroDivisionError

    before = counters["internal_errors"]
    for index in (0, 2):
        monkeypatch.setattr(pairs[index].transport, "write", fail)
    fanout.deliver(sockets(pairs), ONE)
    finish(hub)
    assert [pair.sent for pair in pairs] == [b"", ONE.plain, b"", ONE.plain]
    assert counters["internal_errors"] == before + 2
    assert len(caplog.records) == 2
    caplog.clear()


def test_interrupt(hub: Any, pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends a turn of the hub keeps no one but its member from a message."""

    def interrupt(data: bytes) -> None:
        raise KeyboardInterrupt

    fanout.deliver(sockets(pairs), ONE)
    monkeypatch.setattr(pairs[1].transport, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        hub.popleft()()
    finish(hub)
    assert [pair.sent for pair in pairs] == [ONE.plain, b"", ONE.plain, ONE.plain]


def test_answer(hub: Any, pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent because of a message follows it, and comes before the next message."""
    pair = pairs[3]
    write, sent = pair.transport.write, list[str | bytes]()

    def answer(data: bytes) -> None:
        sent.append(data)
        write(data)
        if data == ONE.plain:
            pair.websocket.send("answer")

    def own(message: str, opcode: int) -> int:
        sent.append(message)
        return 0

    monkeypatch.setattr(pair.transport, "write", answer)
    monkeypatch.setattr(pair.transport, "send_message", own)
    fanout.deliver(sockets(pairs), ONE)
    fanout.deliver(sockets(pairs), TWO)
    finish(hub)
    assert sent == [ONE.plain, "answer", TWO.plain]


def test_slow_member(hub: Any, pairs: Any) -> None:
    """A member without room is closed at the first message; it gets no later one before that."""
    fanout.deliver(sockets(pairs), ONE)
    fanout.deliver(sockets(pairs), TWO)
    websocket = pairs[3].websocket
    pairs[3].transport.unsent = websocket.options.max_unsent_bytes
    finish(hub)
    assert websocket.close_code == 1013
    assert pairs[3].sent.startswith(b"\x88")


def test_admit(hub: Any, pairs: Any) -> None:
    """A member that gets a message late is asked for; one that gets it at once is not."""
    asked = []

    def admit(member: Any) -> bool:
        asked.append(sockets(pairs).index(member))
        return asked[-1] != 2

    fanout.deliver(sockets(pairs), ONE, admit)
    pairs[3].websocket.send("x")
    finish(hub)
    assert asked == [3, 1, 2]
    assert pairs[2].sent == b""
    assert pairs[3].sent == ONE.plain + encode(TEXT, b"x")
    fanout.deliver(sockets(pairs)[:2], ONE)
    fanout.deliver(sockets(pairs)[1:2], TWO, admit)
    finish(hub)
    assert asked == [3, 1, 2, 1]


def test_too_many(hub: Any, pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that is too far ahead serves the oldest deliveries itself."""
    monkeypatch.setattr(fanout, "_MOST", 8)
    for _ in range(3):
        fanout.deliver(sockets(pairs), ONE)
    assert [pair.sent for pair in pairs] == [ONE.plain] * 4
    assert len(fanout._pending) == 2
    finish(hub)
    assert [pair.sent for pair in pairs] == [ONE.plain * 2] * 4


def test_disown(hub: Any, pairs: Any) -> None:
    """A forked child forgets all deliveries; sockets that were owed one can be used and freed."""
    fanout.deliver(sockets(pairs), ONE)
    fanout.disown()
    finish(hub)
    assert pairs[3].sent == b""
    pairs[3].websocket.send("x")
    assert pairs[3].sent == encode(TEXT, b"x")
    fanout.deliver(sockets(pairs), TWO)
    finish(hub)
    assert pairs[3].sent == TWO.plain


def test_handshake(hub: Any, connect: Any, pairs: Any) -> None:
    """A socket that opens while a message waits for it gets that message."""
    late = connect()
    fanout.deliver([*sockets(pairs), late.websocket], ONE)
    late.open()
    late.websocket.send("x")
    assert late.sent == b"101 " + ONE.plain + encode(TEXT, b"x")


def test_framings(hub: Any, pairs: Any) -> None:
    """Each member gets the message in its framing."""
    pairs[2].websocket.use_v1()
    assert isinstance(pairs[2].websocket._framing, V1)
    fanout.deliver(sockets(pairs), PreparedMessage(TEXT, b"one", "room"))
    finish(hub)
    assert pairs[1].sent == ONE.plain
    assert json.loads(pairs[2].sent[2:]) == {"in": "room", "text": "one"}


#: Sockets on the hub; each slice serves one member.
ON_HUB = """
from django_wsmux.connection import fanout, link
from django_wsmux.protocol.frames import TEXT, encode
from django_wsmux.protocol.prepared import PreparedMessage
fanout._FEW, fanout._STEP, fanout._SLICE = 0, 1, 0.0
pairs = [opened() for _ in range(20)]
sockets, peers = map(list, zip(*pairs))
one, two = PreparedMessage(TEXT, b"one"), PreparedMessage(TEXT, b"two")

def received(peer, size):
    with gevent.Timeout(30):
        data = b""
        while len(data) < size:
            data += peer.recv(size - len(data))
        return data
"""


def test_on_hub() -> None:
    """All members get all messages in order, in each framing; one that is gone does not matter."""
    run(
        ON_HUB
        + """
for websocket in sockets[5:8]:
    websocket.use_v1()
peers[3].close()
sockets[4].close()
for message in (one, two):
    fanout.deliver(list(sockets), message)
assert fanout._pending
sockets[19].send("own")
for index, peer in enumerate(peers):
    if index == 3:
        continue
    if index == 4:
        assert received(peer, 2)[0] == 0x88
    elif index in (5, 6, 7):
        v1 = encode(TEXT, b'{"text":"one"}') + encode(TEXT, b'{"text":"two"}')
        assert received(peer, len(v1)) == v1
    elif index == 19:
        expected = one.plain + two.plain + encode(TEXT, b"own")
        assert received(peer, len(expected)) == expected
    else:
        assert received(peer, 10) == one.plain + two.plain
while fanout._pending:
    gevent.sleep(0)
assert sockets[0].traffic[2:] == (2, 10), sockets[0].traffic
assert sockets[3].closed
"""
    )


#: Sockets of which the second one is lost when a message is sent to it on the hub, as for another
#: process or a thread; it then sends to the others.
LOST_ON_HUB = """
from django_wsmux.connection import fanout
from django_wsmux.protocol.prepared import PreparedMessage
one, two = PreparedMessage(1, b"one"), PreparedMessage(1, b"two")

def tell_others(*args):
    fanout.deliver([each for each in sockets if not each.closed], two)

pairs = [opened(disconnect=tell_others) for _ in range(4)]
sockets, peers = map(list, zip(*pairs))

def lose():
    sockets[1]._transport.pause()
    peers[1].close()
    gevent.get_hub().loop.run_callback(fanout.deliver, list(sockets), one)
    for peer in peers[:1] + peers[2:]:
        data = b""
        with gevent.Timeout(30):
            while len(data) < 10:
                data += peer.recv(10 - len(data))
        assert data == one.plain + two.plain, data
"""


def test_view_of_a_lost_member() -> None:
    """What a function view sends because its socket is lost follows the message everywhere."""
    run(
        LOST_ON_HUB
        + """
def view():
    assert sockets[1].receive() is None
    tell_others()

sockets[1].run(view)
gevent.sleep(0)
lose()
"""
    )


def test_event_view_of_a_lost_member() -> None:
    """The same holds for an event view."""
    run(LOST_ON_HUB + "sockets[1].serve()\nlose()\n")


def test_fairness() -> None:
    """Another socket's messages are answered between the slices of a message to many."""
    run(
        ON_HUB
        + """
seen = []
def echo(websocket, message):
    seen.append(len(fanout._pending))
    websocket.send(message)

other, client = opened(receive=echo)
other.serve()
more = [opened() for _ in range(300)]
fanout.deliver(sockets + [websocket for websocket, _ in more], one)
answers = 0
while fanout._pending:
    client.sendall(frame(0x81, b"ask"))
    assert received(client, 5) == encode(TEXT, b"ask")
    answers += 1
assert answers > 10, answers
assert sum(seen) > 10
"""
    )


def test_slow_on_hub() -> None:
    """A member whose peer takes only a part of a message gets the rest before all else."""
    run(
        ON_HUB
        + """
big = PreparedMessage(TEXT, b"x" * 400_000)
fanout.deliver(list(sockets), big)
fanout.deliver(list(sockets), two)
while fanout._pending:
    gevent.sleep(0)
assert sockets[7].unsent
expected = big.plain + two.plain
for peer in peers:
    assert received(peer, len(expected)) == expected
assert sockets[7].traffic[2:] == (2, len(expected))
"""
    )


def test_joined() -> None:
    """Deliveries that wait go to a member in one write; to those before it, without the first."""
    run(
        ON_HUB
        + """
from django_wsmux.connection import hub_thread
calls = []
hub_thread._soon = calls.append
for message in (one, two, one):
    fanout.deliver(list(sockets), message)
fanout.deliver(sockets[:3], two)
assert received(peers[0], 5) == one.plain
calls.pop()()
assert received(peers[1], 15) == one.plain + two.plain + one.plain
assert sockets[1].traffic[2:] == (3, 15), sockets[1].traffic
assert (sockets[1]._owed, sockets[2].traffic[2]) == (4, 0)
sockets[2].send("own")
expected = one.plain + two.plain + one.plain + two.plain + encode(TEXT, b"own")
assert received(peers[2], 25) == expected
while calls:
    calls.pop()()
for number, peer in enumerate(peers):
    rest = [two.plain + one.plain + two.plain, two.plain, b""]
    expected = (rest + [one.plain + two.plain + one.plain] * 17)[number]
    assert received(peer, len(expected)) == expected
    assert sockets[number].traffic[2] == (4 if number < 2 else 5 if number == 2 else 3)
    assert not sockets[number]._owed
"""
    )


def test_joined_for_slow_members() -> None:
    """Where a peer does not take all of a write, each message is sent or dropped as a whole."""
    run(
        ON_HUB
        + """
import socket
from dataclasses import replace
from django_wsmux.connection import hub_thread
calls = []
hub_thread._soon = calls.append
messages = [PreparedMessage(TEXT, b"%d" % number * 3_000) for number in range(5)]
whole = b"".join(message.plain for message in messages)
for number in 1, 2:
    sockets[number]._transport._stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_608)
limits = {"max_unsent_bytes": 4_000, "close_slow_clients": False}
sockets[2].options = replace(sockets[2].options, **limits)
peers[3].close()
for message in messages:
    fanout.deliver(list(sockets), message)
while calls:
    calls.pop()()
assert sockets[1].unsent and sockets[2].unsent
assert sockets[1].traffic[2:] == (5, len(whole)), sockets[1].traffic
assert sockets[3].closed
count, size = sockets[2].traffic[2:]
assert 0 < count < 5
assert received(peers[0], len(whole)) == whole
assert received(peers[1], len(whole)) == whole
assert received(peers[4], len(whole)) == whole
found = received(peers[2], size)
for message in messages:
    if message.plain in found:
        found = found.replace(message.plain, b"")
        count -= 1
assert (found, count) == (b"", 0)
"""
    )
