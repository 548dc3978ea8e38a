"""What moves a socket to another process: the framework's part of it.

``handover.py`` and ``giving.py`` carry descriptors, bytes and JSON. A mover knows what a view
remembers, its groups, and how to build them again.
"""

from __future__ import annotations

from typing import Any, Protocol

from ..connection.interfaces import Detached

__all__ = ["Mover", "current", "install"]


class Mover(Protocol):
    """Packs sockets in the process that gives them, and builds them in the one that takes them.

    All dictionaries are values of JSON. A websocket is a ``Connection``.
    """

    @property
    def directory(self) -> str:
        """The directory for the sockets of ``offers.py``; only this user can enter it.

        Raises:
            OSError: it can be neither found nor made.
        """

    # In the process that gives

    def wants_to_move(self, websocket: Any) -> bool:
        """Return whether the socket may move; if not, it is closed like all that stay."""

    def ask(self, websockets: list[Any]) -> dict[str, Any]:
        """Return the request for the taker that precedes a batch. May wait."""

    def wait_for(self, answer: dict[str, Any], seconds: float) -> bool:
        """Wait until this process has received what the taker's answer names.

        Args:
            answer: from ``answer()`` of the taker.
            seconds: the longest time to wait.

        Returns:
            Whether all has come; if not, messages of groups may be missed.
        """

    def pack(self, websocket: Any) -> dict[str, Any]:
        """Return the record of a socket, which is detached next. Must not wait.

        Raises:
            CannotMove: it cannot move, or not now. Nothing has changed.
        """

    def seal(self, records: list[dict[str, Any]], is_complete: bool) -> dict[str, Any]:
        """Return what concerns the batch as a whole. Must not wait.

        Args:
            records: from ``pack()``; all of these sockets are detached. It may change them.
            is_complete: what ``wait_for()`` has returned.
        """

    def given(self, websockets: list[Any]) -> None:
        """Note that these sockets, which are detached, have moved."""

    def take_back(
        self, websocket: Any, record: dict[str, Any], detached: Detached, batch: dict[str, Any]
    ) -> Any:
        """Continue a detached socket in this process, with the same view. May wait.

        Args:
            websocket: the socket that was detached.
            record: from ``pack()``.
            detached: the new socket becomes the owner of its descriptor.
            batch: from ``seal()``.

        Returns:
            The new socket, or ``None`` if it could not be continued.
        """

    def gave_all(self) -> None:
        """Note that this process gives no more sockets."""

    # In the process that takes

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to ``ask()`` of the giver. May wait."""

    def build(self, batch: dict[str, Any], records: list[dict[str, Any]]) -> list[object]:
        """Build what continues the sockets of a batch; check everything, and change nothing.

        The giver may take the batch back until this process has said that it takes it.

        Returns:
            An object for each record, or a string: the reason why this socket is refused.
        """

    def adopt(self, batch: dict[str, Any], built: list[tuple[Any, Detached]]) -> None:
        """Continue sockets: from now on they belong to this process. May wait.

        Args:
            batch: from ``seal()`` of the giver.
            built: the objects from ``build()``, without those that were refused.
        """

    def finished(self) -> None:
        """Note that no process gives sockets to this one any more, for the time being."""


#: The mover of this process; ``None`` if nothing here can move.
_mover: Mover | None = None


def install(mover: Mover | None) -> None:
    """Set the mover of this process."""
    global _mover
    _mover = mover


def current() -> Mover | None:
    """Return the mover of this process, if it has one."""
    return _mover
