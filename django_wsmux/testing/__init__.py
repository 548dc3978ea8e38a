"""Implementation of ``django_wsmux.test``; tests import from there."""

from __future__ import annotations

__all__: list[str] = []
