"""The events that presence is told of, if this process uses it.

``groups.presence`` installs its hooks when it is imported, which is when ``Group.presence()`` or
``Group.present()`` is first called. Until then there are none, and nothing of it is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..connection.connection import Connection
    from .members import Key

__all__ = ["PresenceHooks", "install", "installed", "is_manual", "set_manual"]


class PresenceHooks(Protocol):
    """What presence is told; no method waits or raises."""

    def hinted(self, key: Key, version: str) -> None:
        """Note that the store may have a new version of who is present in a group."""

    def opened(self, member: Connection) -> None:
        """Note that a socket of ``wsmux.v1`` was sent its welcome."""

    def missed(self, member: Connection, name: str) -> None:
        """Note that a member missed messages of a group, or of who is present in it."""

    def state_of(self, key: Key, member: Connection) -> list[Any] | None:
        """Return the presence of a member as values of JSON, for another process.

        Raises:
            CannotMove: it is being entered.
        """


#: The hooks of this process; ``None`` until it uses presence.
installed: PresenceHooks | None = None

#: Whether the sockets are those of a test's client, which does what is due itself.
is_manual = False


def install(hooks: PresenceHooks) -> None:
    """Tell presence from now on."""
    global installed
    installed = hooks


def set_manual(value: bool) -> None:
    """Set ``is_manual``."""
    global is_manual
    is_manual = value
