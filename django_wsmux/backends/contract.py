"""The tests that every backend must pass; they need pytest.

To test your own backend, subclass the suite and give the URL of the backend::

    from django_wsmux.backends.contract import BackendContract

    class TestMyBackend(BackendContract):
        @pytest.fixture
        def backend_url(self):
            return "mysite.backends.MyBackend://127.0.0.1:4222"

Each test runs in real processes, once plain and once patched by gevent. For detailed failures, call
``pytest.register_assert_rewrite("django_wsmux.backends.contract")`` in a conftest.py.
"""

from __future__ import annotations

import signal
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol
from uuid import uuid4

import pytest

from ..testing.backend_process import Peer, PeerError
from .packets import VERSION, Kind, pack

__all__ = ["BackendContract", "MakePeer", "make_peers"]

#: Seconds to wait for something that must not happen.
A_WHILE = 0.2


class MakePeer(Protocol):
    """Starts a process with the backend under test; all processes of a test share a namespace."""

    def __call__(self, *channels: str, url: str = "", namespace: str = "") -> Peer:
        """Start a process; with channels it listens to them."""


@contextmanager
def make_peers(url: str, env: Mapping[str, str], *, gevent: bool) -> Iterator[MakePeer]:
    """Yield a function that starts processes; end them afterwards."""
    peers: list[Peer] = []
    common = uuid4().hex[:12]
    backend_url = url

    def make(*channels: str, url: str = "", namespace: str = "") -> Peer:
        peer = Peer(url or backend_url, namespace or common, gevent=gevent, env=env)
        peers.append(peer)
        if channels:
            peer.start(*channels)
        return peer

    try:
        yield make
    finally:
        for peer in peers:
            peer.stop()


def numbers(found: list[tuple[str, bytes]], prefix: str) -> list[int]:
    """Return the numbers of one sender's messages in the order of arrival."""
    texts = [payload.decode() for _, payload in found]
    return [int(text.split(":")[1]) for text in texts if text.startswith(f"{prefix}:")]


class BackendContract:
    """The tests of a backend."""

    @pytest.fixture
    def backend_url(self) -> str:
        """Return the URL of the backend under test; override it."""
        raise NotImplementedError("override the fixture backend_url")

    @pytest.fixture
    def backend_env(self) -> Mapping[str, str]:
        """Return environment variables for the processes."""
        return {}

    @pytest.fixture(params=["plain", "gevent"])
    def peer(
        self, request: pytest.FixtureRequest, backend_url: str, backend_env: Mapping[str, str]
    ) -> Iterator[MakePeer]:
        """Yield a function that starts processes, plain or patched by gevent."""
        with make_peers(backend_url, backend_env, gevent=request.param == "gevent") as make:
            yield make

    # Publications

    def test_reaches_the_others(self, peer: MakePeer) -> None:
        """Every subscribed process receives a publication once, and no other process does."""
        one, two, other = peer("room"), peer("room"), peer("elsewhere")
        sender = peer("room")
        sender.publish("room", b"hello")
        assert one.received(1) == [("room", b"hello")]
        assert two.received(1) == [("room", b"hello")]
        other.publish("room", b"last")
        assert sender.received(1) == [("room", b"last")], "its own publication came back"
        sender.publish("elsewhere", b"last")
        assert other.received(1) == [("elsewhere", b"last")]

    def test_needs_no_start(self, peer: MakePeer) -> None:
        """A process can publish without start() and end at once; its publications arrive."""
        listener = peer("room")
        sender = peer()
        payloads = [f"{number}".encode() for number in range(50)]
        sender.publish("room", *payloads)
        sender.stop()
        assert [payload for _, payload in listener.received(50)] == payloads

    def test_subscribe_needs_start(self, peer: MakePeer) -> None:
        """subscribe() without start() raises an error that says what to call first."""
        with pytest.raises(PeerError, match=r"call start\(\) before subscribe"):
            peer().call("subscribe", "room")

    def test_sizes(self, peer: MakePeer) -> None:
        """Payloads of any bytes and any size arrive, in order with small ones before and after."""
        listener, sender = peer("room"), peer()
        for size in (0, 1, 4_000, 5_800, 5_900, 6_000, 8_000, 70_000, 1_048_576):
            large = (bytes(range(256)) * (size // 256 + 1))[:size]
            sender.publish("room", b"before", large, b"after")
            assert [text for _, text in listener.received(3)] == [b"before", large, b"after"]

    def test_names(self, peer: MakePeer) -> None:
        """Channels may have any name of a group, and differ if one letter differs."""
        names = ["a", "A", "x" * 200, "user:7@example.com_-.", "room.*", "room.1"]
        listener, sender = peer(*names), peer()
        for name in names:
            sender.publish(name, name.encode())
        # A cluster may have them on different shards, which keep no order among each other.
        assert sorted(listener.received(len(names))) == sorted(
            (name, name.encode()) for name in names
        )

    def test_equal_messages(self, peer: MakePeer) -> None:
        """Equal publications all arrive, even if they are sent together."""
        listener, sender = peer("room"), peer()
        sender.call("publish_at_once", "room", 8, 50, "same")
        assert listener.received(400) == [("room", b"same")] * 400

    def test_namespaces(self, peer: MakePeer, backend_url: str) -> None:
        """Projects with different namespaces, set either way, receive nothing of each other."""
        query = "&" if "?" in backend_url else "?"
        strangers = [
            peer("room", namespace="stranger"),
            peer("room", url=f"{backend_url}{query}namespace=stranger2"),
        ]
        listener, sender = peer("room"), peer()
        sender.publish("room", b"hello")
        assert listener.received(1) == [("room", b"hello")]
        for stranger in strangers:
            assert stranger.received(1, A_WHILE) == []

    # Order

    def test_order(self, peer: MakePeer) -> None:
        """Three processes publish at once: each receives all of the others, in order."""
        count = 2_000
        peers = [peer("room") for _ in range(3)]
        for index, sender in enumerate(peers):
            sender.begin("publish_numbers", "room", f"{index}", count, 9_000)
        for sender in peers:
            sender.end()
        for index, listener in enumerate(peers):
            found = listener.received(2 * count)
            for other in {0, 1, 2} - {index}:
                assert numbers(found, f"{other}") == list(range(count))
            assert len(found) == 2 * count
            assert listener.gaps(0) == []

    def test_order_of_each_thread(self, peer: MakePeer) -> None:
        """Threads of one process publish at once: the order of each thread is kept."""
        listener, sender = peer("room"), peer("room")
        sender.call("publish_at_once", "room", 8, 100)
        found = listener.received(800)
        for index in range(8):
            assert numbers(found, f"{index}") == list(range(100))

    def test_numbers(self, peer: MakePeer) -> None:
        """Each thread numbers its publications; a process knows the last number of each."""
        listener, sender = peer("room"), peer()
        sender.publish("room", *[b"x"] * 5)
        listener.received(5)
        assert listener.call("numbers", sender.call("id")) == [5]
        assert sender.call("numbers", sender.call("id")) == [5]
        sender.call("publish_at_once", "room", 4, 20)
        listener.received(80)
        found = listener.call("numbers", sender.call("id"))
        assert sum(found) == 85
        assert found == sender.call("numbers", sender.call("id"))

    def test_total_order(self, peer: MakePeer) -> None:
        """All processes receive everything, with ``has_total_order`` in the same order."""
        count = 500
        one, two = peer("room"), peer("room")
        senders = [peer() for _ in range(3)]
        for index, sender in enumerate(senders):
            sender.begin("publish_numbers", "room", f"{index}", count, 7_000)
        for sender in senders:
            sender.end()
        found = one.received(3 * count)
        assert len(found) == 3 * count
        others = two.received(3 * count)
        assert sorted(others) == sorted(found)
        if one.call("has_total_order"):
            assert others == found

    def test_marks(self, peer: MakePeer) -> None:
        """When a process sees the mark of another, it has received what that one has not."""
        giver, other = peer("room"), peer()
        taker = peer("elsewhere")
        other.publish("room", *[b"%d" % number for number in range(100)])
        assert taker.call("subscribe", "room") is True
        mark = taker.call("mark", giver.call("id"))
        if not mark:
            assert not taker.call("has_total_order")
            assert giver.call("await_mark", {}) is False
            return  # a move is incomplete then
        assert giver.call("await_mark", mark) is True
        assert [text for _, text in giver.received()] == [b"%d" % number for number in range(100)]
        other.publish("room", b"later")
        assert giver.received(1) == [("room", b"later")]
        heard: list[tuple[str, bytes]] = []
        while ("room", b"later") not in heard:
            news = taker.received(1)
            assert news
            heard += news
        assert giver.call("await_mark", {**mark, "mark": "00"}) is False

    # Subscriptions

    def test_heard_once_effective(self, peer: MakePeer) -> None:
        """A publication after subscribe() is effective is received, every time."""
        listener, sender = peer("first"), peer()
        for index in range(50):
            name = f"room.{index}"
            assert listener.call("subscribe", name) is True
            sender.publish(name, b"now")
            assert listener.received(1) == [(name, b"now")]

    def test_unsubscribe(self, peer: MakePeer) -> None:
        """Nothing arrives after unsubscribe(). Calls may be repeated, and their order counts."""
        listener, sender = peer("room", "fence"), peer()
        listener.call("subscribe", "room")
        listener.call("unsubscribe", "room")
        listener.call("unsubscribe", "room")
        listener.call("unsubscribe", "never")
        sender.publish("room", b"unheard")
        sender.publish("fence", b"1")
        assert listener.received(1) == [("fence", b"1")]
        listener.call("toggle", "room", 200)
        assert listener.call("subscribe", "room") is True
        sender.publish("room", b"heard")
        assert listener.received(1) == [("room", b"heard")]
        listener.call("toggle", "other", 200)
        assert listener.call("subscribe", "fence2") is True
        sender.publish("other", b"unheard")
        sender.publish("fence2", b"2")
        assert listener.received(1) == [("fence2", b"2")]

    # Questions

    def test_ask(self, peer: MakePeer) -> None:
        """Exactly the other subscribed processes answer, and soon; ask() needs no start()."""
        one, two, other = peer("room"), peer("room"), peer("elsewhere")
        answers = sorted(f"{member.process.pid}:who?".encode() for member in (one, two))
        asker = peer()
        assert asker.ask("room", b"who?") == answers
        for _ in range(5):
            assert asker.ask("room", b"who?") == answers
            assert other.ask("room", b"who?") == answers
            assert one.ask("room", b"who?") == [f"{two.process.pid}:who?".encode()]
            assert one.ask("nobody", b"who?") == []
        for each in (asker, other, one):
            assert each.call("counts")["unanswered"] == 0, "it waited for impossible answers"

    def test_start_after_asking(self, peer: MakePeer) -> None:
        """A process can call start() after ask(), and then listens like any other."""
        late, other = peer(), peer("room")
        assert len(late.ask("room", b"?")) == 1
        late.start("room")
        other.publish("room", b"hello")
        assert late.received(1) == [("room", b"hello")]
        assert len(other.ask("room", b"?")) == 1

    def test_ask_after_a_crash(self, peer: MakePeer) -> None:
        """ask() does not wait for a process that was killed."""
        one, two = peer("room"), peer("room")
        asker = peer()
        assert len(asker.ask("room", b"who?")) == 2
        two.kill()
        for _ in range(2):
            assert asker.ask("room", b"who?") == [f"{one.process.pid}:who?".encode()]

    def test_ask_one_that_is_stuck(self, peer: MakePeer) -> None:
        """A process that does not answer costs only the timeout; its late answer is ignored."""
        one, two = peer("room"), peer("room")
        asker = peer("room")
        two.signal(signal.SIGSTOP)
        began = time.monotonic()
        assert asker.ask("room", b"who?", 2.0) == [f"{one.process.pid}:who?".encode()]
        assert time.monotonic() - began > 1.9
        assert asker.call("counts")["unanswered"] == 1
        two.signal(signal.SIGCONT)
        assert len(asker.ask("room", b"again?")) == 2

    def test_answer_that_fails(self, peer: MakePeer) -> None:
        """An error in answer() is logged; the asker gets no answer, and the process listens on."""
        listener, asker = peer("room"), peer()
        assert asker.ask("room", b"raise") == []
        assert len(asker.ask("room", b"who?")) == 1
        listener.stop()
        assert "ValueError: told to" in listener.log

    # Failures

    def test_receive_that_fails(self, peer: MakePeer) -> None:
        """If receive() raises, the traceback is logged and the next message arrives."""
        listener, sender = peer("room"), peer()
        sender.publish("room", b"raise", b"next")
        assert listener.received(1) == [("room", b"next")]
        listener.stop()
        assert "Traceback" in listener.log
        assert "ValueError: told to" in listener.log

    def test_unknown_versions(self, peer: MakePeer) -> None:
        """Packets of another version are counted, logged once and dropped."""
        listener, sender = peer("room"), peer()
        packet = pack(Kind.MESSAGE, b"s" * 16, "room", b"from the future")
        for strange in (bytes([VERSION + 1]) + packet[1:], packet[:12]):
            sender.call("inject", "room", b64encode(strange).decode())
        sender.publish("room", b"hello")
        assert listener.received(1) == [("room", b"hello")]
        assert listener.call("counts")["unreadable"] == 2
        listener.stop()
        assert listener.log.count("dropped a packet") == 1

    def test_rubbish(self, peer: MakePeer) -> None:
        """Invalid packets are counted, logged once and dropped; the listener continues."""
        listener, sender = peer("room"), peer()
        packet = pack(Kind.MESSAGE, b"s" * 16, "room", b"")
        head = packet[: -len("room")]
        rubbish = [
            packet[:2],  # cut short
            packet[:-1],
            head + b"\xff\xfe\xfd\xfc",  # not UTF-8
            bytes((VERSION, 250)) + packet[2:],  # a kind of the future
            bytes((250,)) + packet[1:] + b"x" * 100_000,  # a version of the future
            pack(Kind.QUESTION, b"s" * 16, "room", b"?"),  # no number
            pack(Kind.ANSWER, b"s" * 16, "", b"?"),  # to no question
            b"GET / HTTP/1.1\r\n\r\n",
        ]
        for strange in rubbish:
            sender.call("inject", "room", b64encode(strange).decode())
            sender.publish("room", b"hello")
            assert listener.received(1) == [("room", b"hello")]
        # A process need not read packets for others.
        assert 1 <= listener.call("counts")["unreadable"] <= len(rubbish)
        assert listener.gaps(0) == []
        listener.stop()
        assert listener.log.count("dropped a packet") == 1
        assert "not listening" not in listener.log

    def test_killed_process(self, peer: MakePeer) -> None:
        """One process is killed while all publish: the others miss nothing of each other."""
        count = 1_000
        peers = [peer("room") for _ in range(3)]
        for index, sender in enumerate(peers):
            sender.begin("publish_numbers", "room", f"{index}", count)
        peers[2].kill()
        for index, other in ((0, 1), (1, 0)):
            peers[index].end()
            found: list[int] = []
            deadline = time.monotonic() + 60
            while len(found) < count and time.monotonic() < deadline:
                found += numbers(peers[index].received(1, 1.0), f"{other}")
            assert found == list(range(count))
            assert peers[index].gaps(0) == []

    def test_fork(self, peer: MakePeer) -> None:
        """A fork has its own id and connections; those of its parent keep working."""
        parent, listener = peer("room"), peer("room")
        parent.publish("room", b"parent 1")
        child = parent.call("fork_and_publish", "room", b64encode(b"child").decode())
        assert child != parent.call("id")
        parent.publish("room", b"parent 2")
        heard = [text for _, text in listener.received(3)]
        # The order is that of each sender.
        assert [text for text in heard if text != b"child"] == [b"parent 1", b"parent 2"]
        assert heard.count(b"child") == 1
        assert parent.received(1) == [("room", b"child")]
        listener.publish("room", b"to the parent")
        assert parent.received(1) == [("room", b"to the parent")]
        assert parent.gaps(0) == []

    def test_close(self, peer: MakePeer) -> None:
        """A closed backend does not answer any more; it can be started again."""
        closed, listener = peer("room"), peer("room")
        closed.call("close")
        assert listener.ask("room", b"who?") == []
        closed.start("room")
        listener.publish("room", b"hello")
        assert closed.received(1) == [("room", b"hello")]

    def test_others_run_meanwhile(self, peer: MakePeer) -> None:
        """Other threads and greenlets of a busy listener are never blocked for long."""
        listener, sender = peer("room"), peer()
        listener.call("watch_turns")
        listener.call("turns")
        sender.call("publish_numbers", "room", "0", 5_000)
        assert len(listener.received(5_000)) == 5_000
        assert listener.call("turns") > 0
