"""Presence in tests: what is due is done between the turns of the views, and no time passes.

Tests of projects that do not use presence import nothing of it.
"""

from __future__ import annotations

import sys

from ..groups import presence_hooks
from ..groups.pubsub import is_alone
from .memory import Loop

__all__ = ["expire_presence", "forget_presence", "take_turn"]

_PRESENCE = "django_wsmux.groups.presence"


def take_turn(loop: Loop) -> None:
    """Do what is due, and let the views handle it."""
    if presence_hooks.installed is not None:
        from ..groups.presence import presence

        presence.take_turn()
        loop.run()


def expire_presence() -> None:
    """Let the sockets leave whose connections have ended, as if 15 seconds had passed."""
    if _PRESENCE in sys.modules:
        from ..groups.presence import presence

        presence.expire()


def forget_presence() -> None:
    """Give the next test a store of its own, if groups stay within the process."""
    presence_hooks.set_manual(False)
    if _PRESENCE in sys.modules:
        from ..groups.presence import presence
        from ..presence import stores

        if is_alone():
            stores.reset()
        presence.reset()
