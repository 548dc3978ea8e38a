"""The moving picture of README can be made again, and is current."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.conftest import need
from tests.sample_site.film import main
from tests.support import ROOT


def content(path: Path) -> tuple[object, ...]:
    """Return the size of a picture, the number of its frames, and what they show."""
    with Image.open(path) as picture:
        # More than one frame, without end.
        assert picture.info["loop"] == 0
        return picture.size, getattr(picture, "n_frames", 1), picture.info["comment"].decode()


def test_film(tmp_path: Path) -> None:
    """The script makes a picture in which the same happens, with the same lines of gunicorn."""
    need("chromium", "chromedriver")
    main(tmp_path / "readme.gif")
    assert content(tmp_path / "readme.gif") == content(ROOT / "docs" / "images" / "readme.gif")
