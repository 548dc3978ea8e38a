"""The reactors: a descriptor's events reach the connection that has it, and no other one."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from greenlet import getcurrent

from django_wsmux.connection import link as link_module
from django_wsmux.connection.framing import PLAIN
from django_wsmux.connection.interfaces import MARK, OPEN
from django_wsmux.transports.base import arrived
from django_wsmux.transports.reactor import _EpollReactor
from tests.gauges import allocated
from tests.implementations import run_in_each

from .test_gevent import PREPARED

pytestmark = pytest.mark.skipif(
    not hasattr(select, "EPOLLIN"), reason="this system has no epoll; test_gevent.py tests watchers"
)

KINDS: dict[str, type[Any]] = {"Python": _EpollReactor}
if link_module.is_compiled:
    from django_wsmux.connection._reactor import Reactor as CompiledReactor

    KINDS["C"] = CompiledReactor


class Carrier:
    """Calls a function for each event."""

    def __init__(self, link: Socket) -> None:
        self.link = link

    def _readable(self) -> None:
        self.link.events += 1
        self.link.act(self.link)

    def _fail(self, link: Socket, error: Exception) -> None:
        self.link.errors.append(error)


class Socket(link_module.Link):
    """A connection that counts its events, and reads one byte for each."""

    def __init__(self, reactor: Any, act: Callable[[Socket], None] = lambda link: None) -> None:
        self._state, self._transport = OPEN, Carrier(self)
        self.reactor, self.act, self.events = reactor, act, 0
        self.errors: list[Exception] = []
        self.ours, self.peer = socket.socketpair()
        self.ours.setblocking(False)
        reactor.add(self, self.ours.fileno())

    def close(self) -> None:
        """Close it, as transports do: the reactor first."""
        self.reactor.remove(self)
        self.ours.close()
        self.peer.close()


@pytest.fixture(params=KINDS)
def reactor(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Yield a reactor of each kind, which the test runs itself."""
    reactor = KINDS[request.param]()
    link_module.adopt(getcurrent(), arrived, MARK, PLAIN)
    yield reactor
    link_module.forget()
    reactor.disown()


def test_events(reactor: Any) -> None:
    """A connection gets an event in each run while it is readable, and its end is one, too."""
    link, other = Socket(reactor), Socket(reactor)
    reactor.run()
    assert (link.events, other.events) == (0, 0)
    link.peer.send(b"x")
    reactor.run()
    reactor.run()
    assert (link.events, other.events) == (2, 0)
    assert link.ours.recv(9) == b"x"
    reactor.run()
    other.peer.close()
    reactor.run()
    assert (link.events, other.events) == (2, 1)
    assert select.select([reactor.fileno()], [], [], 0)[0]
    other.close()
    assert not select.select([reactor.fileno()], [], [], 0)[0]
    link.close()
    reactor.run()


def test_descriptor_given_out_again(reactor: Any) -> None:
    """A descriptor that another connection gets in the same batch has no event of its first one."""
    links: list[Socket] = []
    late: list[Socket] = []

    def replace_all_others(link: Socket) -> None:
        link.act = lambda link: None
        others = [each for each in links if each is not link]
        taken = {each.ours.fileno() for each in others}
        for each in others:
            each.close()
            each.act = lambda link: None
        late.extend(Socket(reactor) for _ in others)
        assert taken & {each.ours.fileno() for each in late}
        links[:] = [link]

    links += [Socket(reactor, replace_all_others) for _ in range(100)]
    before = list(links)
    for link in links:
        link.peer.send(b"x")
    reactor.run()
    assert sum(each.events for each in before) == 1
    assert [each.events for each in late] == [0] * 99
    late[7].peer.send(b"x")
    reactor.run()
    assert [each.events for each in late] == [0] * 7 + [1] + [0] * 91
    for link in before + late:
        assert link.errors == []
        link.close()


def test_same_connections_again(reactor: Any) -> None:
    """Connections that another one removes in a batch get no event; once added again, they do."""
    links: list[Socket] = []

    def pause(link: Socket) -> None:
        for each in links:
            if each is not link:
                reactor.remove(each)

    def go_on(link: Socket) -> None:
        for each in links:
            reactor.remove(each)
            reactor.add(each, each.ours.fileno())

    links += [Socket(reactor, pause) for _ in range(10)]
    for link in links:
        link.peer.send(b"x")
    reactor.run()
    assert sorted(each.events for each in links) == [0] * 9 + [1]
    assert sum(each._is_watched for each in links) == 1
    for link in links:
        reactor.add(link, link.ours.fileno())
        link.events, link.act = 0, go_on
    reactor.run()
    assert [each.events for each in links] == [1] * 10
    for link in links:
        link.close()


def test_errors(reactor: Any) -> None:
    """What ends the process ends the batch; the others get their event in the next one."""
    links: list[Socket] = []

    def leave(link: Socket) -> None:
        raise SystemExit

    links += [Socket(reactor, leave) for _ in range(10)]
    for link in links:
        link.peer.send(b"x")
    for number in range(1, 11):
        with pytest.raises(SystemExit):
            reactor.run()
        [done] = [each for each in links if each.events and each._is_watched]
        reactor.remove(done)
        assert sum(each.events for each in links) == number
    reactor.run()
    for link in links:
        link.close()


def test_more_than_a_batch(reactor: Any) -> None:
    """Within a few runs, each of many connections has its turn, however busy they all are."""
    links = [Socket(reactor) for _ in range(600)]
    for link in links:
        link.peer.send(b"x")
    for _ in range(3):
        reactor.run()
    assert all(link.events for link in links)
    assert max(link.events for link in links) <= 2
    for link in links:
        link.close()


def test_disown_in_a_batch(reactor: Any) -> None:
    """A reactor that is disowned during a batch handles no more of it, nor anything later."""
    links: list[Socket] = []
    links += [Socket(reactor, lambda link: reactor.disown()) for _ in range(10)]
    for link in links:
        link.peer.send(b"x")
    reactor.run()
    reactor.run()
    assert sum(each.events for each in links) == 1
    assert not any(each._is_watched for each in links)
    with pytest.raises((OSError, ValueError)):
        reactor.add(links[0], links[0].ours.fileno())
    assert not links[0]._is_watched
    reactor.disown()
    for link in links:
        link.close()


def test_fork_in_a_batch(reactor: Any) -> None:
    """A child forked in a batch forgets all connections; the parent still gets their events."""
    links: list[Socket] = []
    children: list[int] = []
    parent = os.getpid()

    def fork(link: Socket) -> None:
        link.act = lambda link: None
        child = os.fork()
        if child:
            children.append(child)
        else:
            reactor.disown()
            for each in links:
                each.ours.close()

    links += [Socket(reactor, fork) for _ in range(10)]
    for link in links:
        link.peer.send(b"x")
    try:
        reactor.run()
    finally:
        if os.getpid() != parent:
            # The batch of the child is over. It had as many events as there were before the fork.
            os._exit(sum(each.events for each in links))
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == list(range(1, 11))
    assert [each.events for each in links] == [1] * 10
    reactor.run()
    assert [each.events for each in links] == [2] * 10
    for link in links:
        link.close()


def test_arguments(reactor: Any) -> None:
    """Wrong descriptors are errors, and leave nothing behind."""
    link = Socket(reactor)
    reactor.remove(link)
    closed = os.dup(link.ours.fileno())
    os.close(closed)
    for wrong in -1, closed, 2**30, 2**31 - 1, 10**6:
        with pytest.raises((OSError, ValueError)):
            reactor.add(link, wrong)
        assert not link._is_watched
    with open(__file__) as file, pytest.raises(OSError, match="not permitted"):
        reactor.add(link, file.fileno())
    reactor.add(link, link.ours.fileno())
    reactor.add(link, link.ours.fileno())
    other = Socket(reactor)
    reactor.remove(other)
    with pytest.raises(ValueError, match="was closed before it was removed"):
        reactor.add(other, link.ours.fileno())
    assert not other._is_watched
    reactor.remove(other)
    link.peer.send(b"x")
    reactor.run()
    assert (link.events, other.events) == (1, 0)
    # Closed behind the back of the reactor.
    link.ours.close()
    reactor.run()
    reactor.remove(link)
    reactor.remove(link)
    link.close()
    other.close()


def test_two_reactors(reactor: Any) -> None:
    """A reactor does not touch what another one watches."""
    another = type(reactor)()
    link = Socket(reactor)
    another.remove(link)
    another.add(link, link.ours.fileno())
    another.disown()
    link.peer.send(b"x")
    reactor.run()
    assert (link.events, link._is_watched) == (1, True)
    link.close()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_leaks_nothing(kind: type[Any]) -> None:
    """A reactor holds its connections, and frees them with itself, also in a cycle."""

    def work() -> None:
        for _ in range(50):
            reactor = kind()
            links = [Socket(reactor) for _ in range(5)]
            links[0].peer.send(b"x")
            reactor.run()
            links[1]._is_watched = False  # as no other code should do
            for link in links:
                link.ours.close()
                link.peer.close()
            reactor.remove(links[2])

    descriptors = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    assert allocated(work) < 20_000
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors


if link_module.is_compiled:

    def test_wrong_kinds() -> None:
        """The reactor in C refuses what is no Link."""
        kind: Any = CompiledReactor
        reactor = kind()
        for wrong in None, object(), link_module._Link():
            with pytest.raises(TypeError):
                reactor.add(wrong, 0)
            with pytest.raises(TypeError):
                reactor.remove(wrong)
        with pytest.raises(TypeError):
            kind(1)
        with pytest.raises(TypeError):
            reactor.add(link_module.Link(), "0")
        with pytest.raises(OverflowError):
            reactor.add(link_module.Link(), 2**31)

    def test_closed_too_early() -> None:
        """An event of a descriptor that was closed before it was removed reaches no other one."""
        reactor = CompiledReactor()
        link_module.adopt(getcurrent(), arrived, MARK, PLAIN)
        link = Socket(reactor)
        with link.ours.dup(), link.peer:
            descriptor = link.ours.fileno()
            link.ours.close()
            reactor.remove(link)
            other = Socket(reactor)
            assert other.ours.fileno() == descriptor
            link.peer.send(b"x")
            assert select.select([reactor.fileno()], [], [], 0)[0]
            reactor.run()
            assert (link.events, other.events) == (0, 0)
        other.close()
        link_module.forget()


def test_sockets_that_close_others() -> None:
    """Views close other sockets and take over new ones in one batch; all messages are right."""
    run_in_each(
        PREPARED
        + """
seen = []
pairs = []

def new():
    websocket, peer = opened()
    def view():
        for message in websocket:
            seen.append((peer, message))
            if message == "replace":
                for other in list(pairs):
                    if other[0] is not websocket:
                        pairs.remove(other)
                        # The peer has sent "lost" to the old one, which has the same descriptor.
                        other[0]._transport.abort()
                        other[1].close()
                pairs.extend(new() for _ in range(50))
    gevent.spawn(view)
    gevent.sleep(0)
    return websocket, peer

pairs.extend(new() for _ in range(50))
for number in range(5):
    del seen[:]
    first = pairs[number]
    old = list(pairs)
    for websocket, peer in pairs:
        peer.sendall(frame(0x81, b"replace" if websocket is first[0] else b"lost"))
    gevent.sleep(0.01)
    while len(pairs) < 51:
        gevent.sleep(0.01)
    assert (first[1], "replace") in seen
    assert {peer for peer, _ in seen} <= {peer for _, peer in old}
    del seen[:]
    for index, (websocket, peer) in enumerate(pairs):
        assert not websocket.closed
        peer.sendall(frame(0x81, b"%d" % index))
    while len(seen) < len(pairs):
        gevent.sleep(0.01)
    assert seen and {peer: message for peer, message in seen} == {
        peer: str(index) for index, (websocket, peer) in enumerate(pairs)
    }
    assert len(seen) == len(pairs)
for websocket, peer in pairs:
    websocket._transport.abort()
    peer.close()
"""
    )


#: Many sockets with echoing views; ``turns`` has the messages in the order of their handling.
CROWD = (
    PREPARED
    + """
import os
turns = []
parent = os.getpid()

def crowd(kind, count=100):
    del turns[:]
    found = []
    for number in range(count):
        def act(websocket, message, number=number):
            turns.append((number, message))
            if number == 0:
                busy(message)
        websocket, peer = opened(receive=act)
        if kind == "event":
            websocket.serve()
        else:
            def view(websocket=websocket, act=act):
                for message in websocket:
                    act(websocket, message)
            websocket.run(view)
        found.append((websocket, peer))
    gevent.sleep(0.001)
    return found

def until(condition):
    # A copy of this greenlet in a forked child does not go on.
    while os.getpid() != parent or not condition():
        gevent.sleep(0.001)

def end(found):
    for websocket, peer in found:
        websocket._transport.abort()
        peer.close()
    gevent.sleep(0.001)
"""
)


def test_many_messages_at_once() -> None:
    """5,000 messages of one peer do not starve the others: each is handled after a few of them."""
    run_in_each(
        CROWD
        + """
def busy(message):
    pass

for kind in "function", "event":
    found = crowd(kind)
    found[0][1].sendall(frame(0x81, b"x") * 5_000)
    for _, peer in found[1:]:
        peer.sendall(frame(0x81, b"y"))
    until(lambda: len(turns) == 5_099)
    last = max(index for index, (number, _) in enumerate(turns) if number)
    # At most a queue of them before, and one while the others have their turn.
    assert last < 300, (kind, last)
    end(found)
"""
    )


def test_view_that_computes() -> None:
    """While a view computes, the others wait for this one message, not for its next ones."""
    run_in_each(
        CROWD
        + """
def busy(message):
    # Meanwhile, messages arrive for all, for this one first.
    rounds.append(len(turns))
    if len(rounds) <= 10:
        for _, peer in found:
            peer.sendall(frame(0x81, b"y"))

for kind in "function", "event":
    rounds = []
    found = crowd(kind)
    found[0][1].sendall(frame(0x81, b"x"))
    until(lambda: len(turns) == 1 + 10 * 100)
    for number in range(1, 100):
        own = [index for index, (one, _) in enumerate(turns) if one == number]
        assert len(own) == 10
        for index, start in zip(own, rounds):
            more = [one for one, _ in turns[start:index]].count(0)
            assert more <= 2, (kind, number, more)
    end(found)
"""
    )


def test_fork() -> None:
    """A child that a view forks in a batch serves sockets of its own, and none of the parent."""
    run_in_each(
        CROWD
        + """
from django_wsmux.connection import registry
from django_wsmux.server import forks
forks.install()
children = []

def busy(message):
    if message != "fork":
        return
    child = os.fork()
    if child:
        children.append(child)
        return
    code = 1
    try:
        assert not registry.open_sockets
        assert all(websocket.closed for websocket, _ in found)
        before = list(turns)
        websocket, peer = opened()
        seen = []
        def view():
            for message in websocket:
                seen.append(message)
                websocket.send(message)
        websocket.run(view)
        other, other_peer = opened(receive=lambda websocket, message: websocket.send(message))
        other.serve()
        gevent.sleep(0)
        for size in 1, 126, 70_000:
            for each in peer, other_peer:
                each.sendall(frame(0x82, bytes(size)))
                head = 2 if size < 126 else 4 if size < 65536 else 10
                left = size + head
                while left:
                    left -= len(each.recv(left))
        assert list(map(len, seen)) == [1, 126, 70_000]
        # The peers of the parent's sockets have sent, but that is not for the child.
        assert turns == before
        code = 0
    finally:
        os._exit(code)

for kind in "function", "event":
    found = crowd(kind, 20)
    for _ in range(3):
        before = len(turns)
        found[0][1].sendall(frame(0x81, b"fork"))
        for _, peer in found[1:]:
            peer.sendall(frame(0x81, b"y"))
        until(lambda: len(turns) == before + 20)
        assert len({number for number, _ in turns[before:]}) == 20
        assert os.waitpid(children.pop(), 0)[1] == 0
        # The child has ended, and all events still arrive.
        for _, peer in found:
            peer.sendall(frame(0x81, b"after"))
        until(lambda: len(turns) == before + 40)
    assert not any(websocket.closed for websocket, _ in found)
    end(found)
"""
    )


def test_killed_waiters() -> None:
    """A view that is killed in the same moment as its message comes loses no message silently."""
    run_in_each(
        PREPARED
        + """
seen, counts = [], set()
for order in "kill first", "message first", "timeout":
    for message in frame(0x81, b"x"), frame(0x81, b"x") * 3, frame(0x81, b"x") + b"\\x81":
        websocket, peer = opened()
        def view():
            try:
                with gevent.Timeout(0.001 if order == "timeout" else None, False):
                    while True:
                        seen.append(websocket.receive())
            except BaseException as error:
                seen.append(type(error).__name__)
                raise
        del seen[:]
        greenlet = gevent.spawn(view)
        gevent.sleep(0)
        if order == "kill first":
            greenlet.kill(block=False)
            peer.sendall(message)
        else:
            peer.sendall(message)
            if order == "message first":
                greenlet.kill(block=False)
        greenlet.join()
        gevent.sleep(0.01)
        assert websocket._waiter is None
        got = [each for each in seen if each == "x"]
        assert len(got) + websocket.unread == message.count(b"\\x81\\x81"), (order, seen)
        # Another greenlet may go on.
        rest = [websocket.receive(60) for _ in range(websocket.unread)]
        assert set(rest) <= {"x"}
        websocket._transport.abort()
        peer.close()
        gevent.sleep(0)
"""
    )
