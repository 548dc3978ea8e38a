"""The Django app: template tag, checks, commands."""

from __future__ import annotations

import sys
from typing import Any

from django.apps import AppConfig
from django.core.signals import setting_changed

__all__ = ["WebSocketsConfig"]


class WebSocketsConfig(AppConfig):
    """``INSTALLED_APPS += ["django_wsmux"]``."""

    name = "django_wsmux"
    verbose_name = "WebSockets"

    def ready(self) -> None:
        """Register checks and receivers of signals; extend requests; start tracing if it is set."""
        from . import checks, view_checks  # noqa: F401
        from .groups import clients, users

        clients.install()
        users.connect_signals()
        setting_changed.connect(_trace, dispatch_uid="django_wsmux.apps")
        _trace()


def _trace(*, setting: str = "WEBSOCKET_TRACING", **kwargs: Any) -> None:
    """Start or stop tracing as the setting says. A process that never traces imports nothing."""
    from . import conf

    if setting != "WEBSOCKET_TRACING":
        return
    rule = conf.SETTINGS[setting]
    # Without the package, a check reports it.
    is_wanted = conf.get(setting) is True and rule.problem(True) is None
    if is_wanted or "django_wsmux.monitoring.tracing" in sys.modules:
        from .monitoring import tracing

        tracing.install(is_wanted=is_wanted)
