"""README and manual say what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from django_wsmux import conf
from tests.support import ROOT

PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]


def test_settings_table() -> None:
    """It has every setting with its default, in order."""
    text = (ROOT / "docs" / "settings.rst").read_text()
    rows = dict(re.findall(r"^``(WEBSOCKET_\w+)`` +(?:``)?(.+?)(?:``)?  ", text, re.MULTILINE))
    defaults = {name: repr(setting.default) for name, setting in conf.SETTINGS.items()}
    defaults = {name: default.replace("'", '"') for name, default in defaults.items()}
    defaults.update(WEBSOCKET_URLCONF="(required)", WEBSOCKET_SERVER='""')
    assert rows == defaults
    assert list(rows) == list(defaults)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles(page: Path) -> None:
    """Every block of Python is Python."""
    blocks = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", page.read_text())
    for block in blocks:
        compile(re.sub(r"^    ", "", block, flags=re.MULTILINE), page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_names_exist(page: Path) -> None:
    """Files that are linked to are there, and so is what is imported from the package."""
    text = page.read_text()
    for target in re.findall(r"<([\w./-]+\.rst)>`_", text):
        assert (page.parent / target).exists(), target
    for line in re.findall(r"^ +(from django_wsmux\.\w+ import \w+)$", text, re.MULTILINE):
        exec(line, {})
