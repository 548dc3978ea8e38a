"""A socket whose client speaks ``wsmux.v1``: the server's frames other than messages."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from ..connection import client_ids
from ..connection.connection import Connection
from ..connection.counters import count
from ..connection.returning import pace
from ..connection.websocket import WebSocket
from ..exceptions import BackendUnavailable
from ..groups import clients, presence_hooks
from ..groups.envelope import before
from ..groups.pubsub import pubsub, report_unreachable
from ..protocol import v1
from ..protocol.frames import CLOSE, TEXT, CloseCode, close_payload, encode
from ..protocol.v1 import BROUGHT_KEY
from ..server.limits import RETRY_AFTER, Permit
from .socket import DjangoHooks

if TYPE_CHECKING:
    from ..protocol.prepared import PreparedMessage

__all__ = ["RealtimeHooks", "replace_elsewhere", "start"]

_HEARTBEAT: Final = encode(TEXT, b"{}")

#: The close codes for which the server tells the client when to return.
_RETURNS: Final = frozenset({CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER})


class RealtimeHooks(DjangoHooks):
    """The hooks of a socket with ``wsmux.v1``.

    The class of existing hooks is changed to this one, so it has no slots of its own.
    """

    __slots__ = ()

    def opened(self, websocket: WebSocket) -> None:
        """Send the welcome."""
        options, found = websocket.options, self._handshake
        groups = {}
        for name, (alias, position, recovered) in (found.joined if found else {}).items():
            if alias is not None:
                websocket.name_group(name, alias)
            if position != "":
                groups[websocket.name_of_group(name)] = position, recovered
        # A ping follows the check of the ping before it.
        ping = options.ping_interval and max(options.ping_interval, options.ping_timeout)
        websocket.tell(v1.welcome(clients.sign(websocket.client_id), ping or 0, groups))
        if presence_hooks.installed is not None:
            presence_hooks.installed.opened(websocket)

    def closing(self, websocket: WebSocket, code: int) -> None:
        """Tell the client when to return, if it should."""
        if code not in _RETURNS:
            return
        permit = websocket.permit
        is_full = isinstance(permit, Permit) and permit.is_refused
        websocket.tell(v1.bye(RETRY_AFTER if is_full else pace.after()))

    def heartbeat(self, websocket: Any) -> bytes:
        """Return an empty object, since a script cannot see pings."""
        return _HEARTBEAT

    def leave(self, websocket: Connection) -> None:
        """Leave the groups of the user and the session; free the id."""
        assert isinstance(websocket, WebSocket)
        client_ids.leave(websocket.client_id, websocket)
        super().leave(websocket)

    def group_joined(
        self,
        websocket: Any,
        name: str,
        alias: str | None,
        position: str | None,
        recovered: bool | None,
    ) -> None:
        """Tell the client, in the welcome if it was not sent yet, then the view."""
        if not websocket.connecting:
            if alias is not None:
                websocket.name_group(name, alias)
            if position != "":
                group = websocket.name_of_group(name)
                websocket.tell(v1.joined({group: (position, recovered)}))
        super().group_joined(websocket, name, alias, position, recovered)

    def group_renamed(self, websocket: Any, name: str, alias: str, position: str | None) -> None:
        """Tell the client that it is in the group under another name, and not under the old one."""
        super().group_renamed(websocket, name, alias, position)
        old = websocket.name_of_group(name)
        if not websocket.connecting and old != alias:
            websocket.name_group(name, alias)
            websocket.tell(v1.left([old]))
            websocket.tell(v1.joined({alias: (position, None)}))
            if presence_hooks.installed is not None:
                # The client has dropped the list of the old name.
                presence_hooks.installed.missed(websocket, name)

    def group_left(self, websocket: Any, name: str) -> None:
        """Tell the client that it is no longer in the group."""
        super().group_left(websocket, name)
        websocket.tell(v1.left([websocket.name_of_group(name)]))

    def group_gap(self, websocket: Any, name: str, position: str) -> None:
        """Tell the client, in the welcome if it was not sent yet, then the view."""
        websocket.tell(v1.gap({websocket.name_of_group(name): position}))
        super().group_gap(websocket, name, position)

    def group_handled(self, websocket: Any, message: PreparedMessage) -> None:
        """Tell the client its new position."""
        websocket.tell(v1.mark(websocket.name_of_group(message.group), message.position))


def start(hooks: DjangoHooks, websocket: WebSocket) -> None:
    """Speak ``wsmux.v1`` on a socket that is about to open."""
    hooks.__class__ = RealtimeHooks
    websocket.use_v1()


def replace_elsewhere(websocket: WebSocket) -> None:
    """Ask other processes to close older sockets of the same client.

    Only a client that sent its id can have one.
    """
    brought = websocket.environ.get(BROUGHT_KEY)
    client_id = websocket.client_id
    if brought is None or brought.client_id != client_id:
        return
    payload = close_payload(clients.REPLACED, "replaced")
    try:
        pubsub.publish(clients.group_of(client_id), CLOSE, payload, before(time.time()))
    except BackendUnavailable as error:
        count("group_publish_failed")
        report_unreachable(websocket, error)
