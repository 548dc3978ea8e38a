"""What has happened in this process that an operator may want to know of."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate
from typing import Final

__all__ = [
    "COUNTERS",
    "HANDLER_BOUNDS",
    "count",
    "counters",
    "gauges",
    "handled",
    "handler_snapshot",
]

#: What is counted, by name.
COUNTERS: Final = {
    "sockets_opened": "sockets that have opened",
    "handshakes_refused": "handshakes answered otherwise than by an open socket",
    "refusals_closed": "refused handshakes that were accepted and closed with a code at once",
    "messages_received": "messages of peers, once they are the view's to take",
    "messages_sent": "messages sent to peers, those of groups included",
    "received_bytes": "bytes from peers, frames and all",
    "sent_bytes": "bytes of the frames of messages to peers",
    "group_publishes": "messages that this process has sent to groups",
    "group_deliveries": "messages of groups that were handed to a socket, one for each member",
    "message_too_big": "sockets closed with 1009 for a message over WEBSOCKET_MAX_MESSAGE_SIZE",
    "frame_too_big": "sockets closed with 1009 for a frame over WEBSOCKET_MAX_FRAME_SIZE",
    "too_many_fragments": "sockets closed with 1009 for more than WEBSOCKET_MAX_FRAGMENTS",
    "too_many_messages": "sockets closed with 1008 for more than WEBSOCKET_MAX_MESSAGES_PER_SECOND",
    "protocol_error": "sockets closed with 1002 or 1007 as the peer broke the protocol",
    "reading_paused": "times that a view fell behind and its socket was not read",
    "send_waited": "times that a view's send() waited for its peer",
    "slow_client_closed": "sockets closed with 1013 as they could not take a group's messages",
    "slow_client_dropped": "messages of groups that a slow socket did not get, by policy",
    "group_messages": "messages that groups delivered to members in this process",
    "group_publish_failed": "messages and closes of groups that other processes were not told of,"
    " as the backend was away",
    "backend_published": "publications that were handed to the backend",
    "backend_received": "publications of other processes that the backend handed over",
    "backend_dropped": "packets for other processes that were given up, as too many were waiting",
    "backend_unreadable": "packets of other processes that were damaged, or of another version",
    "backend_gaps": "times that publications of other processes may have been missed",
    "backend_unanswered": "questions to the other processes that not all answered in time",
    "backend_failed": "times that what another process had sent could not be handled here",
    "backend_accept_paused": "times that other processes had to wait to connect to this one,"
    " which had no descriptor left",
    "authentication_failed": "handshakes and first messages with a wrong ticket or token",
    "token_timed_out": "sockets closed with 4401 as no first message came",
    "close_timed_out": "sockets dropped as the peer did not end its close in time",
    "internal_errors": "errors of which one socket was the victim; a traceback is in the log",
    "send_timed_out": "sockets dropped as the peer took nothing of what was sent",
    "handshake_timed_out": "connections closed before they had sent a whole request",
    "accepting_paused": "times that all worker_connections were taken and nobody was let in",
    "ping_timed_out": "sockets dropped as the peer gave no sign of life after a ping",
    "reports_failed": "errors of views whose report raised an error itself",
    "late_exceptions": "exceptions that came when the event view they were meant for had returned",
    "refused_handshake": "handshakes refused that no server could accept, or this one cannot",
    "refused_host": "handshakes refused for a Host header that is not in ALLOWED_HOSTS",
    "refused_origin": "handshakes refused to pages of other sites",
    "refused_sockets": "handshakes refused with 503 for WEBSOCKET_MAX_SOCKETS",
    "refused_address": "handshakes refused with 429 for WEBSOCKET_MAX_SOCKETS_PER_ADDRESS",
    "refused_user": "handshakes refused with 429 for WEBSOCKET_MAX_SOCKETS_PER_USER",
}

#: How often each has happened since the process started. Messages and bytes are those of closed
#: sockets: open ones count their own, and ``metrics.snapshot()`` adds them up.
counters: Final = dict.fromkeys(COUNTERS, 0)

#: What is there now, asked for when somebody wants to know.
gauges: Final[dict[str, Callable[[], int]]] = {}


def count(name: str) -> None:
    """Count one more of ``COUNTERS``."""
    counters[name] += 1


# Handlers of event views

#: Seconds: the upper bounds of the histogram's buckets.
HANDLER_BOUNDS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)

# How many calls took so long, the last for those beyond all bounds; and all of them together.
_calls: Final = [0] * (len(HANDLER_BOUNDS) + 1)
_seconds: Final = [0.0]


def handled(seconds: float) -> None:
    """Note that a handler of an event view took so long."""
    _calls[bisect_left(HANDLER_BOUNDS, seconds)] += 1
    _seconds[0] += seconds


def handler_snapshot() -> dict[str, float]:
    """Return how many calls there were, how long they took, and how many stayed within a bound."""
    *within, calls = accumulate(_calls)
    bounds = (f"handler_calls_within_{bound:g}" for bound in HANDLER_BOUNDS)
    return {
        "handler_calls": calls,
        "handler_seconds": _seconds[0],
        **dict(zip(bounds, within, strict=True)),
    }
