"""The Django app: template tag, checks, commands."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["WebSocketsConfig"]


class WebSocketsConfig(AppConfig):
    """``INSTALLED_APPS += ["django_wsmux"]``."""

    name = "django_wsmux"
    verbose_name = "WebSockets"

    def ready(self) -> None:
        """Register the system checks."""
        from . import checks  # noqa: F401
