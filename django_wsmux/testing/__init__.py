"""Private: how ``django_wsmux.test`` works; tests import from there."""

from __future__ import annotations

__all__: list[str] = []
