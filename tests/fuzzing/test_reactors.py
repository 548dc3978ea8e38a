"""Plays with the reactor in C and in Python, of which ``reactors.py`` runs more."""

from __future__ import annotations

import pytest

from django_wsmux.connection.link import is_compiled
from tests.implementations import PYTHON

from .reactors import compare

#: Mistakes in the delivery of messages to many sockets.
MISTAKES = {
    "order": "fanout.settle = lambda member: None",
    "lost": "fanout.owe = lambda members, start, number: None",
    "rate": "rate_limit._BURST = 3.0",
}


@pytest.mark.skipif(not is_compiled, reason="there was no compiler when the package was installed")
def test_same() -> None:
    """Whatever sockets, views and peers do, C and Python do the same."""
    assert compare(0, 25) > 5_000


@pytest.mark.parametrize("mistake", MISTAKES)
def test_finds(mistake: str) -> None:
    """Plays differ if one implementation has a mistake."""
    start = f"""{PYTHON}
from django_wsmux.connection import fanout
from django_wsmux.protocol import rate_limit
"""
    with pytest.raises(AssertionError):
        compare(0, 12, {"right": start, "wrong": start + MISTAKES[mistake]})
