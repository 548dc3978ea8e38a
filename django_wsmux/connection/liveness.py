"""Pings and pongs, and whether a peer is alive."""

from __future__ import annotations

import itertools
import time

from ..protocol.frames import PING, PONG, encode
from ..protocol.options import Options
from . import fanout
from .counters import count
from .inbox import Inbox
from .interfaces import OPEN, Hooks

__all__ = ["Liveness", "next_payload"]

_numbers = itertools.count(1)


def next_payload() -> bytes:
    """Return a unique payload for a ping, so that unsolicited pongs do not match.

    Some clients send empty pongs unsolicited (RFC 6455 section 5.5.3).
    """
    return (next(_numbers) & 0xFFFFFFFF).to_bytes(4, "big")


class Liveness(Inbox):
    """The part of a connection that tracks whether its peer is alive; a base of ``Connection``.

    Args:
        options: the limits of the connection.
        hooks: the hooks of the framework.

    Attributes:
        latency: round-trip time of the last answered ping in seconds, or ``None``.
    """

    __slots__ = ("_ping_sent", "_pong_due", "latency")

    def __init__(self, options: Options, hooks: Hooks) -> None:
        super().__init__(options, hooks)
        self.latency: float | None = None
        # Payload and time of the last ping, and the payload of a pong that is still to be sent.
        self._ping_sent: tuple[bytes, float] | None = None
        self._pong_due: bytes | None = None

    def _drop(self, what: str, reason: str) -> None:
        raise NotImplementedError

    # Our pings

    def _send_ping(self, payload: bytes, before: bytes = b"") -> None:
        self._ping_sent = (payload, time.monotonic())
        self._transport.write(before + encode(PING, payload))

    def _note_pong(self, payload: bytes) -> None:
        if self._ping_sent is not None and self._ping_sent[0] == payload:
            self.latency = time.monotonic() - self._ping_sent[1]
            self._ping_sent = None

    def send_keepalive_ping(self) -> None:
        """Ping the peer, and expect a sign of life."""
        self._is_alive = False
        if self._owed:
            # The heartbeat may tell up to where the client has got the messages of its groups.
            fanout.settle(self)
        if self._state == OPEN and not self._transport.unsent:
            self._send_ping(next_payload(), self.hooks.heartbeat(self))

    def is_alive(self) -> bool:
        """Return whether the peer is alive, as far as is known.

        While reading is paused, a pong would not be read, so the peer counts as alive.
        """
        return self._is_alive or self._is_paused

    def give_up(self) -> None:
        """Drop a peer that has shown no sign of life."""
        count("ping_timed_out")
        seconds = self.options.ping_timeout
        self._drop(f"no sign of life {seconds} s after a ping", "ping timeout")

    def send_timed_out(self, taken: int) -> None:
        """Drop a peer that has not read enough in time.

        Args:
            taken: how many bytes it has taken in that time.
        """
        count("send_timed_out")
        seconds = self.options.send_timeout
        if taken:
            what = f"took {taken} bytes in {seconds} s, {self._transport.unsent} are left"
        else:
            what = f"took nothing for {seconds} s"
        self._drop(what, "send timeout")

    # The peer's pings

    def _answer_ping(self, payload: bytes) -> None:
        if self._transport.unsent:
            # Section 5.5.3 allows answering only the latest ping: a peer that pings without reading
            # must not fill memory with pongs.
            self._pong_due = payload
        else:
            self._transport.write(encode(PONG, payload))

    def progressed(self) -> None:
        """Note that the peer has taken some of the queued bytes."""
        self._is_alive = True

    def drained(self) -> None:
        """Send a pending pong, once all queued bytes are sent."""
        if pong := self._due_pong():
            self._transport.write(pong)

    def _due_pong(self) -> bytes:
        """Remove the pending pong and return its frame; empty if there is none."""
        payload, self._pong_due = self._pong_due, None
        return b"" if payload is None else encode(PONG, payload)
