"""Fixtures: a directory for sockets."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a short name: the path of a unix socket is limited."""
    return tmp_path_factory.mktemp("l")
