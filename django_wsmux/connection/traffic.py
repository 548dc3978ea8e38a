"""The traffic of one socket."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Traffic"]


class Traffic(NamedTuple):
    """The traffic of one socket so far.

    Attributes:
        messages_in: messages that the view has received.
        bytes_in: bytes from the peer, including frame headers.
        messages_out: messages sent, including those of groups.
        bytes_out: bytes of the frames of those messages.
    """

    messages_in: int
    bytes_in: int
    messages_out: int
    bytes_out: int
