"""The limit on the messages per second of a peer."""

from __future__ import annotations

import time

import pytest

from django_wsmux.protocol.codec import LARGE, Codec
from django_wsmux.protocol.events import Closed, Control, Failure, Ping
from django_wsmux.protocol.rate_limit import RateLimitedCodec
from tests.support import frame

RATE = 10

TOO_MANY = Failure(1013, "more than 10 messages a second", "too_many_messages")

MESSAGE = frame(0x81, b"x")


class Peer:
    """A peer whose clock stands still unless told otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *limits: int) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.codec = RateLimitedCodec(RATE, *(limits or (2**20,)))
        self.messages: list[str | bytes] = []

    def send(self, data: bytes) -> list[Control]:
        """Send bytes; return the control frames and the failure."""
        return self.codec.receive(data, self.messages)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Peer:
    """A peer that has sent nothing yet."""
    return Peer(monkeypatch)


class TestRate:
    """A token bucket of two seconds."""

    def test_burst(self, peer: Peer) -> None:
        """Twice the rate at once passes, one more message does not."""
        assert peer.send(MESSAGE * 20) == []
        assert peer.send(MESSAGE) == [TOO_MANY]
        assert peer.messages == ["x"] * 20

    def test_goes_on(self, peer: Peer) -> None:
        """A peer that keeps to the rate is served without end."""
        for _ in range(1000):
            peer.now += 0.1
            assert peer.send(MESSAGE) == []

    def test_above_the_rate(self, peer: Peer) -> None:
        """A peer at one and a half times the rate is not."""
        sent = 0
        while not peer.send(MESSAGE):
            peer.now += 1 / (1.5 * RATE)
            sent += 1
        assert 55 <= sent <= 65

    def test_silence(self, peer: Peer) -> None:
        """An hour of silence allows no larger burst."""
        peer.now += 3600
        assert peer.send(MESSAGE * 21) == [TOO_MANY]
        assert peer.messages == ["x"] * 20

    def test_pause_does(self, peer: Peer) -> None:
        """Messages sent while reading was paused may come at once, but no more."""
        assert peer.send(MESSAGE * 20) == []
        peer.now += 60
        peer.codec.refill()
        assert peer.send(MESSAGE * 600) == []
        assert peer.send(MESSAGE) == [TOO_MANY]

    def test_nothing_after(self, peer: Peer) -> None:
        """After the failure, nothing is parsed (RFC 6455 section 7.1.7)."""
        peer.send(MESSAGE * 21)
        peer.now += 60
        assert peer.send(MESSAGE) == []
        assert len(peer.messages) == 20


class TestWhatCounts:
    """Everything that makes work counts once."""

    @pytest.mark.parametrize("first", [0x82, 0x89, 0x8A])
    def test_frames(self, peer: Peer, first: int) -> None:
        """Messages and control frames count alike."""
        controls = peer.send(frame(first, b"") * 20)
        assert TOO_MANY not in controls
        assert peer.send(frame(first, b"")) == [TOO_MANY]

    def test_shared_limit(self, peer: Peer) -> None:
        """All kinds share one limit; the pings of a batch that exceeds it are not answered."""
        controls = peer.send((MESSAGE + frame(0x89, b"p")) * 10)
        assert controls == [Ping(b"p")] * 10
        assert peer.send(frame(0x89, b"p")) == [TOO_MANY]

    def test_fragments(self, peer: Peer) -> None:
        """Sixteen fragments count as one message."""
        assert peer.send(frame(0x01, b"") + frame(0x00, b"") * 200) == []
        assert peer.send(frame(0x00, b"") * 118) == []
        assert peer.send(frame(0x00, b"") * 2) == [TOO_MANY]

    def test_fragmented(self, peer: Peer) -> None:
        """A message in two frames counts little more than one."""
        both = frame(0x01, b"a") + frame(0x80, b"b")
        assert peer.send(both * 18) == []
        assert peer.send(both * 2) == [TOO_MANY]
        assert len(peer.messages) == 18

    def test_text_in_pieces(self, peer: Peer) -> None:
        """Text counts once, however it is cut."""
        for _ in range(20):
            assert peer.send(frame(0x81, b"text")[:8]) == []
            assert peer.send(frame(0x81, b"text")[8:]) == []
        peer.send(frame(0x81, b"text")[:8])
        assert peer.send(frame(0x81, b"text")[8:]) == [TOO_MANY]

    def test_large(self, peer: Peer) -> None:
        """A frame that is read into its own buffer counts, and one behind it."""
        large = frame(0x82, bytes(LARGE))
        for _ in range(9):
            assert peer.send(large[:100]) == []
            assert peer.send(large[100:] + MESSAGE) == []
        assert peer.send(MESSAGE * 3) == [TOO_MANY]
        assert len(peer.messages) == 20

    def test_large_read_in_place(self, peer: Peer) -> None:
        """A frame that is read into the codec's own buffer counts once."""
        large = frame(0x82, bytes(LARGE))
        for _ in range(20):
            assert peer.send(large[:100]) == []
            rest = large[100:]
            while rest:
                with peer.codec.get_buffer() as space:
                    size = min(len(space), len(rest))
                    space[:size] = rest[:size]
                rest = rest[size:]
                assert peer.codec.buffer_updated(size, peer.messages) == []
        assert peer.send(MESSAGE) == [TOO_MANY]

    def test_bytes_of_a_frame(self, peer: Peer) -> None:
        """Bytes that complete nothing cost nothing."""
        data = frame(0x82, bytes(1000))
        for byte in data:
            assert peer.send(bytes((byte,))) == []
        assert peer.send(MESSAGE * 19) == []

    def test_held(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Held messages count when they are parsed."""
        peer = Peer(monkeypatch, 2**20, 2**20, 2**16, 4)
        assert peer.send(MESSAGE * 21) == []
        for _ in range(4):
            peer.messages.clear()
            assert peer.codec.is_suspended
            assert peer.send(b"") == []
        peer.messages.clear()
        assert peer.send(b"") == [TOO_MANY]
        assert peer.messages == []


class TestOtherEnds:
    """A batch that exceeds the limit and ends by itself."""

    def test_close(self, peer: Peer) -> None:
        """The peer's own close counts; messages beyond the limit are dropped."""
        assert peer.send(MESSAGE * 30 + frame(0x88, b"\x03\xe8")) == [Closed(1000, "")]
        assert len(peer.messages) == 20

    def test_close_within(self, peer: Peer) -> None:
        """A close frame does not count, so nothing before it is lost."""
        assert peer.send(MESSAGE * 20 + frame(0x88, b"")) == [Closed(1005, "")]
        assert len(peer.messages) == 20

    def test_failure(self, peer: Peer) -> None:
        """Another violation counts first, too."""
        (failure,) = peer.send(MESSAGE * 30 + b"\x81\x00")
        assert isinstance(failure, Failure)
        assert failure.code == 1002


def test_is_a_codec() -> None:
    """Within its rate it behaves like any codec."""
    assert issubclass(RateLimitedCodec, Codec)
