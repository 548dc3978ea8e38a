"""Placeholder so that the suite is not empty."""

from django_wsmux import __version__


def test_version() -> None:
    assert __version__
