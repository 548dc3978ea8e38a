"""Sphinx: python -m sphinx -W docs docs/_build."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import django  # noqa: E402
from django.conf import settings  # noqa: E402
from docutils import nodes  # noqa: E402
from sphinx.util import logging  # noqa: E402

import django_wsmux  # noqa: E402

# Settings that the modules in the reference need.
settings.configure(
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django_wsmux",
    ],
    WEBSOCKET_URLCONF="django_wsmux.monitoring.page",
)
django.setup()

project = "django_wsmux"
release = version = django_wsmux.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"django_wsmux {release}"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["manual.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # arguments are explained in words, with units and ranges
napoleon_numpy_docstring = False
napoleon_use_ivar = True

#: Pages that include a file from outside this directory, by the name of the file.
ELSEWHERE = {"../bench/README.rst": "benchmarks", "../CHANGELOG.rst": "changes"}


def point_to_pages(app: Any, doctree: nodes.document) -> None:
    """Point links to HTML pages: in the sources they point to files, for readers of the files."""
    for node in doctree.findall(nodes.reference):
        target, hash_mark, place = node.get("refuri", "").partition("#")
        if target.endswith(".rst"):
            page = ELSEWHERE.get(target, Path(target).stem)
            if page not in app.env.found_docs:
                logging.getLogger(__name__).warning("no page for %r", target, location=node)
            node["refuri"] = f"{page}.html{hash_mark}{place}"


def setup(app: Any) -> None:
    """Register the extension."""
    app.connect("doctree-read", point_to_pages)
