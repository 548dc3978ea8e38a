"""Limits on how many messages of a type a socket may send; see ``JSONWebSocketView.limits``."""

from __future__ import annotations

import re
import time
from functools import cache
from math import ceil
from typing import Final, NamedTuple

from ..connection.counters import count
from ..requests import RateLimited

__all__ = ["Buckets", "Rate", "parse_rate", "take"]

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_RATE: Final = re.compile(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,4})?([smhd])")

#: For each type of messages, how many may still come, and when that was counted. It moves with the
#: view to another process of this machine, so it consists of simple values.
Buckets = dict[str, tuple[float, float]]


class Rate(NamedTuple):
    """A number of messages in a time.

    Attributes:
        messages: how many messages.
        seconds: the time. All of them may come at once.
    """

    messages: int
    seconds: int


@cache
def parse_rate(text: str) -> Rate:
    """Return the rate for a text such as ``"10/m"``, or ``"3/10s"`` for three in ten seconds.

    Raises:
        ValueError: the text is not a rate.
    """
    match = _RATE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(
            f"{text!r} is not a rate: write a number of messages and a time, such as '5/s', "
            f"'10/m', '100/h' or '3/10s'"
        )
    messages, several, unit = match.groups()
    return Rate(int(messages), int(several or 1) * _SECONDS[unit])


def take(buckets: Buckets, kind: str, rate: Rate) -> None:
    """Count a message.

    Args:
        buckets: what was counted for the socket; changed.
        kind: the message's type.
        rate: how many messages of this type may come.

    Raises:
        RateLimited: there were too many.
    """
    now = time.monotonic()
    left, counted_at = buckets.get(kind, (rate.messages, now))
    # The clock of another machine may be behind.
    passed = max(now - counted_at, 0)
    left = min(left + passed * rate.messages / rate.seconds, rate.messages)
    # A sum of fractions may be a little less than one.
    if left < 1 - 1e-9:
        buckets[kind] = left, now
        count("rate_limited")
        wait = (1 - left) * rate.seconds / rate.messages
        raise RateLimited(ceil(wait * 100) / 100)
    buckets[kind] = left - 1, now
