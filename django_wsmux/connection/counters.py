"""Counters of this process, for operators."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Final

from .turns import HANDLER_BOUNDS, handler_calls

__all__ = [
    "COUNTERS",
    "count",
    "counters",
    "gauges",
    "handler_snapshot",
]

#: Descriptions of the counters, by name.
COUNTERS: Final = {
    "sockets_opened": "sockets opened",
    "handover_failed": "moved sockets closed with 1012 because their view could not be restored",
    "handshakes_refused": "handshakes that did not end in an open socket",
    "refusals_closed": "handshakes refused by accepting them and closing at once with a code",
    "messages_received": "messages from peers that were passed to views",
    "messages_sent": "messages sent to peers, including those of groups",
    "received_bytes": "bytes received from peers, including frame headers",
    "sent_bytes": "bytes of message frames sent to peers",
    "group_publishes": "messages sent to groups by this process",
    "group_deliveries": "group messages handed to sockets, one for each member",
    "message_too_big": "sockets closed with 1009 for a message over WEBSOCKET_MAX_MESSAGE_SIZE",
    "frame_too_big": "sockets closed with 1009 for a frame over WEBSOCKET_MAX_FRAME_SIZE",
    "too_many_fragments": "sockets closed with 1009 for more than WEBSOCKET_MAX_FRAGMENTS",
    "too_many_messages": "sockets closed with 1013 for more than WEBSOCKET_MAX_MESSAGES_PER_SECOND",
    "rate_limited": "messages that were refused because of a view's limits",
    "protocol_error": "sockets closed with 1002 or 1007 because the peer broke the protocol",
    "reading_paused": "times reading a socket was paused because its view fell behind",
    "send_waited": "times a view's send() waited for a slow peer",
    "slow_client_closed": "sockets closed with 1013 because a group sent more than they took",
    "slow_client_dropped": "group messages dropped for slow sockets (WEBSOCKET_SLOW_CLIENT)",
    "group_messages": "group messages delivered to members in this process",
    "group_publish_failed": "group messages and closes that did not reach other processes,"
    " because the backend was unavailable",
    "moved_with_gap": "sockets from another process that may have missed messages of groups",
    "history_replayed": "messages replayed to clients that returned",
    "history_repaired": "messages read from the store because they did not arrive in time",
    "history_gaps": "times a member was told of a gap",
    "history_failed": "times the store of the history could not be used",
    "presence_failed": "times the store of presence could not be used",
    "html_failed": "times HTML was not sent after a commit, because rendering it failed",
    "outbox_damaged": "rows of the outbox that could not be read, and were set aside",
    "backend_published": "publications handed to the backend",
    "backend_received": "publications of other processes received from the backend",
    "backend_dropped": "packets for other processes dropped because too many were waiting",
    "backend_unreadable": "packets of other processes that were damaged or of another version",
    "backend_gaps": "times publications of other processes may have been missed",
    "backend_unanswered": "questions that some of the other processes did not answer in time",
    "backend_failed": "errors while handling what another process sent",
    "backend_accept_paused": "times other processes had to wait to connect,"
    " because this process had no file descriptor left",
    "once_failed": "times the cache failed that keeps answers for views with once = True",
    "once_unknown": "requests that were sent again and whose outcome is unknown (once = True)",
    "authentication_failed": "handshakes and first messages with a wrong ticket or token",
    "token_timed_out": "sockets closed with 4401 because no first message came in time",
    "handover_given": "sockets handed over to other processes",
    "handover_taken": "sockets taken over from other processes",
    "handover_taken_back": "times a socket was taken back: the other process died, or refused it",
    "handover_refused": "sockets closed with 1012 because the other process refused them",
    "close_timed_out": "sockets dropped because the peer did not complete the close in time",
    "internal_errors": "internal errors that affected one socket; the log has the traceback",
    "send_timed_out": "sockets dropped because the peer did not read in time what was sent",
    "handshake_timed_out": "connections closed because no complete request came in time",
    "accepting_paused": "times accepting was paused because worker_connections was exhausted",
    "ping_timed_out": "sockets dropped because the peer showed no sign of life after a ping",
    "tracing_failed": "spans that were not recorded, because OpenTelemetry raised an error",
    "reports_failed": "errors of views that could not be reported, because the report failed",
    "late_exceptions": "exceptions that arrived after their event view had returned",
    "refused_handshake": "handshakes refused as invalid, or because this server cannot accept them",
    "refused_host": "handshakes refused because Host is not in ALLOWED_HOSTS",
    "refused_origin": "handshakes refused because they come from pages of other sites",
    "refused_sockets": "handshakes refused with 503 because of WEBSOCKET_MAX_SOCKETS",
    "refused_address": "handshakes refused with 429 because of WEBSOCKET_MAX_SOCKETS_PER_ADDRESS",
    "refused_user": "handshakes refused with 429 because of WEBSOCKET_MAX_SOCKETS_PER_USER",
}

#: Counts since the process started. Messages and bytes are those of closed sockets: open sockets
#: count their own, and ``metrics.snapshot()`` adds them up.
counters: Final = dict.fromkeys(COUNTERS, 0)

#: Functions that return the current values.
gauges: Final[dict[str, Callable[[], int]]] = {}


def count(name: str) -> None:
    """Increment one of ``COUNTERS``."""
    counters[name] += 1


def handler_snapshot() -> dict[str, float]:
    """Return the number of calls, their total time, and the number of calls within each bound."""
    buckets, seconds = handler_calls()
    *within, calls = accumulate(buckets)
    bounds = (f"handler_calls_within_{bound:g}" for bound in HANDLER_BOUNDS)
    return {
        "handler_calls": calls,
        "handler_seconds": seconds,
        **dict(zip(bounds, within, strict=True)),
    }
