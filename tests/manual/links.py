"""Checks links: ``python -m tests.manual.links DISTRIBUTION_OR_DIRECTORY...``.

Of an sdist or a wheel, the description that a package index shows; of a directory, the manual that
Sphinx has built there. Links to other hosts are checked for their form only.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Mapping
from email.message import Message
from email.parser import Parser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from readme_renderer import rst

from tests.support import ROOT

__all__ = ["broken_in_description", "broken_in_manual", "metadata_of", "render"]


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what a tag refers to, and by what others refer to it."""
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.links.append(value)
            elif name == "id" and value:
                self.anchors.add(value)


def metadata_of(distribution: Path) -> Message:
    """Return the metadata of an sdist or a wheel."""
    if distribution.suffix == ".whl":
        with zipfile.ZipFile(distribution) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            return Parser().parsestr(wheel.read(name).decode())
    with tarfile.open(distribution) as sdist:
        (entry,) = (entry for entry in sdist if entry.name.count("/") == 1 and "PKG" in entry.name)
        file = sdist.extractfile(entry)
        assert file is not None
        return Parser().parsestr(file.read().decode())


def render(metadata: Message) -> str:
    """Return the description as the HTML that a package index makes of it."""
    html = rst.render(str(metadata.get_payload()))
    assert html is not None, "the description is not valid reStructuredText"
    return html


def broken_in_description(metadata: Message) -> list[str]:
    """Return what is wrong with the links of a description and with those beside it.

    A link to a file of the repository must lead to a file of this tree.
    """
    beside = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    repository = beside.get("Source", "")
    files = [f"{repository}/{kind}/{metadata['Version']}/" for kind in ("blob", "raw")]
    page = _Page(render(metadata))
    errors = []
    for link in [*page.links, *beside.values()]:
        if link.startswith("#"):
            if link[1:] not in page.anchors:
                errors.append(f"{link}: no such anchor")
            continue
        url = urlsplit(link)
        if url.scheme != "https" or "." not in url.netloc:
            errors.append(f"{link}: not a full https URL")
        if not repository or not link.startswith(f"{repository}/"):
            continue
        path = next((link.removeprefix(each) for each in files if link.startswith(each)), None)
        if path is None:
            if link != f"{repository}/issues":
                errors.append(f"{link}: not a file of this version")
        elif not (ROOT / urldefrag(path).url).is_file():
            errors.append(f"{link}: no such file")
    return errors


def broken_in_manual(directory: Path) -> list[str]:
    """Return what is wrong with the links of the pages in a directory, and with their anchors."""
    pages: Mapping[str, _Page] = {
        str(path.relative_to(directory)): _Page(path.read_text())
        for path in directory.rglob("*.html")
    }
    errors = []
    for name, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                if url.scheme not in ("http", "https", "data", "mailto"):
                    errors.append(f"{name}: {link}: not a URL")
                continue
            # Without the query: it only makes browsers load a changed file again.
            target, anchor = unquote(urljoin(name, url.path)), url.fragment
            if not (directory / target).exists():
                errors.append(f"{name}: {link}: no such file")
            elif anchor and anchor not in pages[target].anchors:
                errors.append(f"{name}: {link}: no such anchor")
    return errors


def main(*arguments: str) -> int:
    """Print what is wrong; return the exit status."""
    errors = []
    for path in map(Path, arguments):
        if path.is_dir():
            errors += broken_in_manual(path)
        else:
            errors += broken_in_description(metadata_of(path))
    print(*errors, sep="\n", end="\n" if errors else "")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
