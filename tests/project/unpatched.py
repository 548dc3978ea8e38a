"""A worker as somebody might derive one, with a vital part missing."""

from django_wsmux.worker import WebSocketWorker

__all__ = ["Unpatched"]


class Unpatched(WebSocketWorker):
    """Does not monkey-patch."""

    def patch(self) -> None:
        """Do nothing."""
