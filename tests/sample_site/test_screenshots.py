"""The pictures of the manual can be taken again."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.conftest import need
from tests.sample_site.screenshots import main
from tests.support import ROOT


def size(picture: Path) -> tuple[int, int]:
    """Return width and height of a PNG."""
    head = picture.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", head[16:])
    return width, height


def test_screenshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script takes the pictures of the manual, in the same sizes."""
    need("chromium", "chromedriver")
    monkeypatch.setenv("SAMPLE_SITE_CROWD", "50")
    main(tmp_path)
    taken = {picture.name: size(picture) for picture in tmp_path.iterdir()}
    assert taken == {
        picture.name: size(picture) for picture in (ROOT / "docs" / "images").glob("*.png")
    }
