"""Parses the pages of the manual: tables, blocks, comments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.frontend import get_default_settings
from docutils.parsers.rst import Directive, Parser, directives
from docutils.utils import new_document

from tests.support import ROOT

__all__ = ["PAGES", "Block", "blocks", "comments", "document", "page_name", "python", "table"]

PAGES = [
    *(ROOT / f"{name}.rst" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").glob("*.rst")),
]


class _Nothing(Directive):
    """Stands for the directives that only Sphinx knows."""

    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = dict.fromkeys(
        (
            *("hidden", "caption"),
            *("members", "inherited-members", "exclude-members", "imported-members"),
        ),
        directives.unchanged,
    )

    def run(self) -> list[nodes.Node]:
        """Return no nodes."""
        return []


@cache
def document(path: Path) -> nodes.document:
    """Return a page as docutils reads it, without the files that it includes."""
    for name in ("toctree", "automodule", "autoclass"):
        directives.register_directive(name, _Nothing)
    settings = get_default_settings(Parser)
    settings.file_insertion_enabled = False
    settings.syntax_highlight = "none"
    settings.report_level = 5
    settings.warning_stream = ""
    found = new_document(str(path), settings)
    Parser().parse(path.read_text(), found)
    return found


def page_name(path: Path) -> str:
    """Return the path of a page relative to the root."""
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: as after ``code-block::``; ``None`` after a plain ``::``.
        text: the code.
        comment: the comment before the block, or before the paragraph that introduces it; else
            ``""``.
    """

    language: str | None
    text: str
    comment: str


def blocks(path: Path) -> list[Block]:
    """Return the blocks of code of a page, without included files."""
    found = []
    for node in document(path).findall(nodes.literal_block):
        text = node.astext()
        if text.startswith(".. include::"):
            continue
        before = node.previous_sibling()
        if isinstance(before, nodes.paragraph):
            before = before.previous_sibling()
        comment = " ".join(before.astext().split()) if isinstance(before, nodes.comment) else ""
        language = next((name for name in node["classes"] if name != "code"), None)
        found.append(Block(language, text, comment))
    return found


def python(name: str) -> list[str]:
    """Return the Python blocks of a page of ``docs/``."""
    return [each.text for each in blocks(ROOT / "docs" / name) if each.language == "python"]


def comments(path: Path) -> Iterator[str]:
    """Yield the comments of a page, each as one line."""
    for node in document(path).findall(nodes.comment):
        yield " ".join(node.astext().split())


def table(name: str, *head: str) -> list[list[str]]:
    """Return the rows of the only table of a page that begins with these headings.

    The text of each cell is one line.
    """
    tables = []
    for node in document(ROOT / "docs" / name).findall(nodes.table):
        rows = [
            [" ".join(cell.astext().split()) for cell in row.findall(nodes.entry)]
            for row in node.findall(nodes.row)
        ]
        if rows[0][: len(head)] == list(head):
            tables.append(rows[1:])
    (found,) = tables
    return found
