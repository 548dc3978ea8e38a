"""Signals about sockets, like those of ``django.core.signals``.

Receivers are called where the view runs and may use the database. Django logs what they raise, and
nothing else is affected.
"""

from __future__ import annotations

from typing import Final

from django.dispatch import Signal

__all__ = ["backend_gap", "websocket_closed", "websocket_moved", "websocket_opened"]

#: Sent when a socket is open. Arguments: ``websocket``; ``request``, the handshake.
websocket_opened: Final = Signal()

#: Sent once for each opened socket, when its view is done with it. Arguments: ``websocket``;
#: ``request``, or ``None`` if the view did not keep it; ``code`` and ``reason`` of the close;
#: ``duration`` in seconds; ``traffic``, see ``connection.inbox.Traffic``.
websocket_closed: Final = Signal()

#: Sent in both processes when a socket has moved to a new one. Arguments: ``websocket``;
#: ``is_leaving``, which is true in the old process, where the socket is closed now.
websocket_moved: Final = Signal()

#: Sent when the backend works again after group messages of other processes may have been missed:
#: send the clients what they may lack. Arguments: ``reason``, ``seconds``, ``missed`` or ``None``.
backend_gap: Final = Signal()
