"""Counters and gauges of this process, as plain numbers.

``django_wsmux.monitoring.prometheus`` exports them, ``manage.py websockets stats`` prints them.
"""

from __future__ import annotations

from ..connection.counters import counters, gauges, handler_snapshot
from ..connection.registry import open_sockets, yielding_every
from ..groups.pubsub import pubsub

__all__ = ["GAUGES", "snapshot"]

#: Numbers that can fall; all others in a snapshot only rise while the process lives.
GAUGES = {
    "open": "sockets that are open",
    "unsent_bytes": "bytes queued for peers, all sockets together",
    "unsent_bytes_max": "bytes queued for the slowest peer",
    "unread_messages": "messages queued for views, all sockets together",
    "unread_messages_max": "messages queued for the slowest view",
    "handlers_running": "messages that event views are handling",
    "handlers_waiting": "messages waiting for one of WEBSOCKET_HANDLER_GREENLETS",
}


def snapshot() -> dict[str, int | float]:
    """Return the counters and gauges of this process.

    It reads every open socket, a thousand at a time, and lets other greenlets run in between.

    Returns:
        Numbers by name. ``GAUGES`` has the names of those that can fall, ``COUNTERS`` in
        ``django_wsmux.connection.counters`` those that count from the start of the process.
        ``handler_calls`` is the number of calls of event views, ``handler_seconds`` the time that
        they took in total, and ``handler_calls_within_0.1`` the number of calls that took at most
        so many seconds.

    Example::

        >>> snapshot()["open"]
        0
    """
    found: dict[str, int | float] = {**dict.fromkeys(GAUGES, 0), **counters}
    # A socket that closes from here on is still in the list, and not yet in the counters.
    sockets = list(open_sockets)
    received = received_bytes = sent = sent_bytes = unsent = unread = 0
    unsent_max = unread_max = 0
    for websocket in yielding_every(sockets):
        received += websocket._messages_in
        received_bytes += websocket._bytes_in
        sent += websocket._messages_out
        sent_bytes += websocket._bytes_out
        if size := websocket._transport.unsent:
            unsent += size
            unsent_max = max(unsent_max, size)
        if websocket._inbox:
            size = len(websocket._inbox)
            unread += size
            unread_max = max(unread_max, size)
    found["open"] = len(sockets)
    found["messages_received"] += received
    found["received_bytes"] += received_bytes
    found["messages_sent"] += sent
    found["sent_bytes"] += sent_bytes
    found["unsent_bytes"], found["unsent_bytes_max"] = unsent, unsent_max
    found["unread_messages"], found["unread_messages_max"] = unread, unread_max
    found |= pubsub.counts()
    for name, ask in gauges.items():
        found[name] = ask()
    return found | handler_snapshot()
