"""Plays with the reactor in C and in Python, of which ``reactors.py`` runs more."""

from __future__ import annotations

import pytest

from django_wsmux.connection.link import is_compiled

from .reactors import compare


@pytest.mark.skipif(not is_compiled, reason="there was no compiler when the package was installed")
def test_same() -> None:
    """Whatever sockets, views and peers do, C and Python do the same."""
    assert compare(0, 40) > 10_000
