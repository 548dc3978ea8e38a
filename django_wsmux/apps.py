"""The Django app: template tag, checks, commands."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["WebSocketsConfig"]


class WebSocketsConfig(AppConfig):
    """``INSTALLED_APPS += ["django_wsmux"]``."""

    name = "django_wsmux"
    verbose_name = "WebSockets"

    def ready(self) -> None:
        """Register checks and the receivers that watch for the end of sessions; extend requests."""
        from . import checks, view_checks  # noqa: F401
        from .groups import clients, users

        clients.install()
        users.connect_signals()
