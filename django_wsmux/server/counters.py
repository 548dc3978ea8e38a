"""What has happened in this process that an operator may want to know of."""

from __future__ import annotations

from typing import Final

__all__ = ["COUNTERS", "count", "counters"]

#: What is counted, by name.
COUNTERS: Final = {
    "message_too_big": "sockets closed with 1009 for a message over WEBSOCKET_MAX_MESSAGE_SIZE",
    "frame_too_big": "sockets closed with 1009 for a frame over WEBSOCKET_MAX_FRAME_SIZE",
    "too_many_fragments": "sockets closed with 1009 for more than WEBSOCKET_MAX_FRAGMENTS",
    "protocol_error": "sockets closed with 1002 or 1007 as the peer broke the protocol",
    "reading_paused": "times that a view fell behind and its socket was not read",
    "send_waited": "times that a view's send() waited for its peer",
    "slow_client_closed": "sockets closed with 1013 as they could not take a group's messages",
    "slow_client_dropped": "messages of groups that a slow socket did not get, by policy",
    "group_messages": "messages that groups delivered to members in this process",
    "close_timed_out": "sockets dropped as the peer did not end its close in time",
    "send_timed_out": "sockets dropped as the peer took nothing of what was sent",
    "handshake_timed_out": "connections closed before they had sent a whole request",
    "accepting_paused": "times that all worker_connections were taken and nobody was let in",
    "ping_timed_out": "sockets dropped as the peer gave no sign of life after a ping",
}

#: How often each has happened since the process started.
counters: Final = dict.fromkeys(COUNTERS, 0)


def count(name: str) -> None:
    """Count one more of ``COUNTERS``."""
    counters[name] += 1
