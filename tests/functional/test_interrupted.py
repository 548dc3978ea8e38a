"""Handovers that are interrupted at random moments; interrupted.py runs more of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .interrupted import interrupt


@pytest.mark.parametrize("number", range(2))
def test_interrupted(tmp_path: Path, number: int) -> None:
    """No message is lost or answered twice, except those of sockets that are closed."""
    outcome = interrupt(tmp_path, random.Random())
    assert outcome["served"] + outcome["closed"] == 150
