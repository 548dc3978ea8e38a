"""The examples of ``docs/testing.rst`` do what the page says."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

from tests.support import ROOT
from tests.testing.test_plugin import run_pytest


def test_examples(tmp_path: Path) -> None:
    """All of them pass unchanged."""
    page = (ROOT / "docs" / "testing.rst").read_text()
    blocks = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", page)
    tests = "\n".join(map(textwrap.dedent, blocks))
    names = re.findall(r"def (test_\w+)", tests)
    output = run_pytest(
        tmp_path,
        tests,
        "-p",
        "pytest_django.plugin",
        DJANGO_SETTINGS_MODULE="tests.project.settings",
        TEST_SETTINGS=json.dumps(
            {
                "WEBSOCKET_URLCONF": "tests.manual.testing_sockets",
                "WEBSOCKET_HISTORY": {"room.*": {"messages": 10, "seconds": 600}},
                "STATIC_URL": "static/",
            }
        ),
    )
    for name in names:
        assert re.search(rf"\b{name} PASSED", output), output
    assert re.search(rf"\b{len(names)} passed in", output), output
    assert len(names) >= 11
