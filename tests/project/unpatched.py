"""A subclass of the worker that lacks a vital part."""

from django_wsmux.worker import WebSocketWorker

__all__ = ["Unpatched"]


class Unpatched(WebSocketWorker):
    """Does not monkey-patch."""

    def patch(self) -> None:
        """Do nothing."""
