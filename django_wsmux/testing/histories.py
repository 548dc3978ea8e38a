"""Groups with a history in tests: the positions of a lost client, and a store for each test.

Tests of projects without ``WEBSOCKET_HISTORY`` import nothing of histories.
"""

from __future__ import annotations

import sys
from typing import Any

from ..groups.members import name_of
from ..groups.pubsub import is_alone
from ..protocol.v1 import shown

__all__ = ["forget_histories", "positions_of"]

_SEQUENCER = "django_wsmux.groups.sequencer"


def positions_of(websocket: Any) -> dict[str, str]:
    """Return the positions of a socket in its groups, by the names that the client sees."""
    if _SEQUENCER not in sys.modules:
        return {}
    from ..groups.sequencer import sequencer

    found = {}
    for key in (*websocket.close_keys(lambda key: True), *websocket.hooks.groups):
        tracked = sequencer.tracked(key)
        if tracked is not None:
            name = name_of(key)
            known = websocket.name_of_group(name)
            found[shown(name) if known == name else known] = str(tracked.position)
    return found


def forget_histories() -> None:
    """Give the next test a store of its own, if groups stay within the process."""
    if _SEQUENCER in sys.modules and is_alone():
        from ..groups.sequencer import sequencer
        from ..history import stores

        stores.reset()
        sequencer.reset()
