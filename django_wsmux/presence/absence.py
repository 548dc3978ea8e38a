"""How a handle of a store notices that the store was away.

While a store is away, no process can show a sign of life. When it is back, the processes that live
must not lose their rows before each of them could show one. The handle whose calls have failed
tells the store: then every process counts as if it had just shown a sign of life.
"""

from __future__ import annotations

import time

__all__ = ["Absence"]


class Absence:
    """Whether a store, or a part of it, was away for long."""

    def __init__(self) -> None:
        self._available = time.monotonic()
        self._has_failed = False
        self._told = float("-inf")

    def failed(self) -> None:
        """Note a call that has failed."""
        self._has_failed = True

    def succeeded(self) -> None:
        """Note a call that has not failed."""
        self._has_failed = False
        self._available = time.monotonic()

    def told(self) -> None:
        """Note that the store was told."""
        self._told = time.monotonic()

    def is_to_tell(self, leaving_seconds: float) -> bool:
        """Return whether to tell the store that it was away, before the next call.

        Calls that fail often must not keep the rows of dead processes for ever. So the store is
        told only after a third of ``LEAVING_SECONDS`` without success, and not often.

        Args:
            leaving_seconds: ``PresenceStore.leaving_seconds``.
        """
        now = time.monotonic()
        return (
            self._has_failed
            and now - self._available >= leaving_seconds / 3
            and now - self._told >= leaving_seconds * 4
        )
