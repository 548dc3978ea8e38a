"""The sample site's own tests, run as its README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.support import ROOT


def test_own_tests() -> None:
    """``manage.py test`` passes, in any order."""
    for order in ("--shuffle", "--reverse"):
        result = subprocess.run(
            [sys.executable, "sample_site/manage.py", "test", "sample_site", order],
            cwd=ROOT,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "sample_site.settings"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        assert re.search(r"Ran \d{2} tests", result.stderr), result.stderr
