"""The lives of processes that a handle of a store knows."""

from __future__ import annotations

from django_wsmux.presence.lives import KnownLives

from .contract import HERE, THERE


def test_another_life() -> None:
    """After rows in another life, ``renew()`` returns False once."""
    lives = KnownLives()
    lives.entered(HERE, 1)
    lives.entered(HERE, 1)
    assert lives.renewed(HERE, is_alive=True)
    lives.entered(HERE, 2)
    lives.entered(THERE, 3)
    assert lives.renewed(THERE, is_alive=True)
    assert not lives.renewed(HERE, is_alive=True)
    assert lives.renewed(HERE, is_alive=True)


def test_reported() -> None:
    """A process that was told enters its rows in another life, which is no news."""
    lives = KnownLives()
    lives.entered(HERE, 1)
    assert not lives.renewed(HERE, is_alive=False)
    lives.entered(HERE, 2)
    assert lives.renewed(HERE, is_alive=True)


def test_parts() -> None:
    """Parts of a store have lives of their own."""
    lives = KnownLives()
    assert lives.parts(HERE) == []
    lives.entered(HERE, 1, "a")
    lives.entered(HERE, 2, "b")
    assert lives.renewed(HERE, is_alive=True)
    assert lives.parts(HERE) == ["a", "b"]
    lives.entered(HERE, 3, "b")
    assert not lives.renewed(HERE, is_alive=True)
    assert lives.parts(HERE) == []
