"""The imports of a module, read from its source."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from django_wsmux.server.imports import imported_by, is_installed


def test_imported_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each import counts, also in functions; the module is not run."""
    (tmp_path / "read_only.py").write_text(
        "import os.path\nfrom json import loads\n1 / 0\ndef late():\n    from . import near\n"
    )
    (tmp_path / "ours.py").write_text("import json\nfrom django_wsmux import wsgi\n")
    (tmp_path / "broken.py").write_text("import (")
    monkeypatch.syspath_prepend(tmp_path)
    assert imported_by("read_only") == {"os.path", "json", "json.loads", ".", "..near"}
    assert "read_only" not in sys.modules
    for module in ("ours", "broken", "missing", ""):
        assert imported_by(module) == set()


@pytest.mark.parametrize(
    ("name", "expected"), [("json.decoder", True), ("django.http", True), ("tests", False)]
)
def test_is_installed(name: str, expected: bool) -> None:
    """Modules of the project itself are not installed packages."""
    assert is_installed(name) is expected
