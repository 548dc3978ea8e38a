"""A codec that limits how many messages a second a peer may send.

It is only used if there is such a limit, so that other sockets pay nothing for it.
"""

from __future__ import annotations

import time
from math import ceil
from typing import Any, Final

from .codec import Codec
from .deflate import Compression
from .events import Closed, Control, Failure, Sink
from .frames import CloseCode
from .remainder import Remainder

__all__ = ["RateLimitedCodec"]

#: Seconds' worth of messages that may come at once: networks deliver some in bursts.
_BURST: Final = 2.0

#: Fragments that count as one message: browsers split large messages.
_FRAGMENTS: Final = 16


class RateLimitedCodec(Codec):
    """A codec that limits the peer to a number of messages a second (a token bucket).

    Control frames count like messages; fragments count a little, because they make work too. All
    that one call receives is counted together. A peer that exceeds the limit is closed with 1013,
    and messages beyond the limit are not passed on.

    Args:
        rate: messages a second, 1 or more; twice as many may come at once.
        limits: the limits of ``Codec``.

    Example:
        >>> codec, messages = RateLimitedCodec(1, 1024), []
        >>> codec.receive(b"\\x81\\x80\\x00\\x00\\x00\\x00" * 3, messages)[-1].code
        1013
        >>> messages
        ['', '']
    """

    __slots__ = ("_counted_at", "_left", "_rate")

    def __init__(self, rate: int, *limits: Any) -> None:
        super().__init__(*limits)
        self.max_single_frame = -1  # every message must be counted
        self._rate = rate
        # How many messages may still come now.
        self._left = rate * _BURST
        self._counted_at = time.monotonic()

    def receive(
        self, data: bytes | bytearray, messages: Sink, size: int | None = None
    ) -> list[Control]:
        """Process the next bytes from the peer; see ``Codec``."""
        if self.large is not None:
            # When the frame is complete, this method is called again.
            return super().receive(data, messages, size)
        before = len(messages)
        self._frames = 0
        controls = super().receive(data, messages, size)
        self.max_single_frame = -1
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
            return controls[-1:]  # the connection ends anyway
        kept = self._buffer or b""
        rest = self._rest if self.large is None else self._needed - self._filled
        self.remainder = Remainder(kept, self._start, len(kept), rest)
        self._finish()
        reason = f"more than {self._rate} messages a second"
        return [Failure(CloseCode.TRY_AGAIN_LATER, reason, "too_many_messages")]

    def state(self) -> tuple[bytes, dict[str, Any]]:
        """Return what another codec needs to go on; see ``Codec``."""
        unread, state = super().state()
        self._refill(self._rate * _BURST)
        return unread, state | {"left": self._left}

    def restore(self, state: dict[str, Any], compression: Compression) -> None:
        """Go on where another codec was, which may have counted or not; see ``Codec``."""
        super().restore(state, compression)
        self._left = min(state.get("left", self._left), self._rate * _BURST)

    def refill(self) -> None:
        """Refill the bucket after a pause in reading: the peer may have sent messages meanwhile."""
        self._refill(float("inf"))

    def _refill(self, most: float) -> None:
        now = time.monotonic()
        left = self._left + (now - self._counted_at) * self._rate
        # Never take away what is left.
        self._left, self._counted_at = max(self._left, min(left, most)), now
