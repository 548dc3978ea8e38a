"""The directory of one user and one project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from django_wsmux.backends import BackendUnavailable, from_url
from django_wsmux.backends.local import LocalBackend


def test_foreign_owner(directory: Path) -> None:
    """A directory of another user is refused."""
    if os.geteuid() != 0:
        pytest.skip("only root can change the owner of a directory")
    backend = from_url(f"local://{directory}", namespace="n")
    assert isinstance(backend, LocalBackend)
    os.mkdir(backend.directory, 0o700)
    os.chown(backend.directory, 65534, 65534)
    with pytest.raises(BackendUnavailable, match="only this user can enter"):
        backend.publish("room", b"")
    backend.close()


def test_missing_directory(directory: Path) -> None:
    """The error names a missing directory."""
    backend = from_url(f"local://{directory}/missing")
    backend.publish("room", b"to no one")
    with pytest.raises(BackendUnavailable, match=r"missing.*must exist"):
        backend.start(lambda channel, payload: None)
    backend.close()


def test_default_directory() -> None:
    """The directory is named after the user and the namespace."""
    one, two = (from_url("local://", namespace=name) for name in ("one", "two"))
    assert isinstance(one, LocalBackend)
    assert isinstance(two, LocalBackend)
    assert f"wsmux-{os.geteuid()}-" in one.directory
    assert one.directory != two.directory
