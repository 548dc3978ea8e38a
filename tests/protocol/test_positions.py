"""Positions: parsing, epochs and their moments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_wsmux.protocol.positions import Position, epoch_of, moment_of, parse


@given(
    st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=24),
    st.integers(0, 2**63),
    st.integers(0, 10**15),
)
def test_round_trip(store: str, moment: int, offset: int) -> None:
    """A position is parsed from its own text, and its epoch contains store and moment."""
    position = Position(epoch_of(store, moment), offset)
    assert parse(str(position)) == position
    assert moment_of(position.epoch) == (store, moment)


@pytest.mark.parametrize(
    "text",
    ["", "-", "a.b", "a.b-", "a.b--1", "a.b-01", "a-1", "A.b-1", "a.b-1\n", "a.b-٣", "a.b-1 ",
     "a" * 60 + ".b-1", "a.b-" + "9" * 17, "a.b.c-1"],
)  # fmt: skip
def test_malformed(text: str) -> None:
    """Malformed positions are ``None``."""
    assert parse(text) is None


@given(st.text())
def test_any_text(text: str) -> None:
    """No text raises an error."""
    parse(text)
