"""The Django app: template tag, checks, commands."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["WebSocketsConfig"]


class WebSocketsConfig(AppConfig):
    """``INSTALLED_APPS += ["django_wsmux"]``."""

    name = "django_wsmux"
    verbose_name = "WebSockets"

    def ready(self) -> None:
        """Register the system checks and the receivers that watch for ends of sessions."""
        from . import checks  # noqa: F401
        from .groups import users

        users.connect_signals()
