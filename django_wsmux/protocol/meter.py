"""How many messages a second a peer may send: a codec that counts.

It is used where there is such a limit, so that others pay nothing for it.
"""

from __future__ import annotations

import time
from math import ceil
from typing import Any, Final

from .codec import Codec
from .events import Closed, Control, Failure, Sink
from .frames import CloseCode
from .remainder import Remainder

__all__ = ["MeteredCodec"]

#: Seconds' worth of messages that may come at once: the network holds some up now and then.
_BURST: Final = 2.0

#: Fragments that count as one message: browsers cut a large one up, so each cannot be one.
_FRAGMENTS: Final = 16


class MeteredCodec(Codec):
    """A codec that holds the peer to a number of messages a second (a token bucket).

    Control frames count as messages do, and fragments a little, as they make work too. What has
    come with one call is counted at once. The peer that goes beyond is closed with 1008; messages
    beyond are not passed on.

    Args:
        rate: messages a second, 1 or more; twice as many may come at once.
        limits: those of ``Codec``.

    Example:
        >>> codec, messages = MeteredCodec(1, 1024), []
        >>> codec.receive(b"\\x81\\x80\\x00\\x00\\x00\\x00" * 3, messages)[-1].code
        1008
        >>> messages
        ['', '']
    """

    __slots__ = ("_counted_at", "_left", "_rate")

    def __init__(self, rate: int, *limits: Any) -> None:
        super().__init__(*limits)
        self.alone = -1  # every message is to be counted
        self._rate = rate
        # What may still come now.
        self._left = rate * _BURST
        self._counted_at = time.monotonic()

    def receive(
        self, data: bytes | bytearray, messages: Sink, size: int | None = None
    ) -> list[Control]:
        """Take the next bytes from the peer; see ``Codec``."""
        if self.large is not None:
            # Comes back here when the frame is whole.
            return super().receive(data, messages, size)
        before = len(messages)
        self._frames = 0
        controls = super().receive(data, messages, size)
        self.alone = -1
        whole = len(messages) - before
        if not whole and not self._frames:
            return controls
        is_end = bool(controls) and type(controls[-1]) in (Closed, Failure)
        fragments = max(self._frames - len(controls) - whole, 0)
        cost = whole + len(controls) - is_end + fragments / _FRAGMENTS
        self._refill(self._rate * _BURST)
        excess = cost - self._left
        self._left = max(-excess, 0)
        if excess <= 0:
            return controls
        for _ in range(min(whole, ceil(excess))):
            messages.pop()
        if is_end:
            self._finish()
            return controls[-1:]  # it is over anyhow
        kept = self._buffer or b""
        rest = self._rest if self.large is None else self._needed - self._filled
        self.remainder = Remainder(kept, self._start, len(kept), rest)
        self._finish()
        reason = f"more than {self._rate} messages a second"
        return [Failure(CloseCode.POLICY_VIOLATION, reason, "too_many_messages")]

    def forgive(self) -> None:
        """Reading goes on after a pause: what comes now may all have been sent meanwhile."""
        self._refill(float("inf"))

    def _refill(self, most: float) -> None:
        now = time.monotonic()
        left = self._left + (now - self._counted_at) * self._rate
        # Never take away what was there.
        self._left, self._counted_at = max(self._left, min(left, most)), now
