"""The markup of ``django_wsmux.html``, as htmx 2, htmx 4 and Turbo understand it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.utils.html import format_html
from django.utils.safestring import mark_safe

from django_wsmux.html.markup import out_of_band, stream

from .browsers import Browser, browser_of

#: Ids of elements, from keys of any kind.
IDS = [
    "lines",
    "5x",
    "-5",
    "-",
    "a.b,c",
    "a:b:c",
    "a b",
    "ü日",
    "\\",
    "it's",
    '"><script>x()</script>',
]

NEW = "<p>new</p>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser."""
    yield from browser_of("chromium", "swaps.cases.mjs", tmp_path_factory.mktemp("profile"))


def shown(target: str, *content: str) -> str:
    """Return an element with an id."""
    return format_html('<div id="{}">{}</div>', target, mark_safe("".join(content)))


@pytest.mark.parametrize("library", ["htmx2", "htmx4"])
def test_htmx(browser: Browser, library: str) -> None:
    """Each way to swap finds elements with any id."""
    steps = []
    old = "<p>old</p>"
    for target in IDS:
        for swap, after in {
            "beforeend": shown(target, old, NEW),
            "afterbegin": shown(target, NEW, old),
            "innerHTML": shown(target, NEW),
            "outerHTML": NEW,
            "delete": "",
        }.items():
            html = "" if swap == "delete" else NEW
            steps.append((shown(target, old), out_of_band(html, target, swap), after))
    check(browser, library, steps)


@pytest.mark.parametrize("library", ["htmx2", "htmx4"])
def test_tables(browser: Browser, library: str) -> None:
    """Rows, cells and other parts of tables stay what they are."""
    row = '<tr id="row"><td>1</td></tr>'
    table = f'<table id="table"><tbody id="body">{row}</tbody></table>'
    expected = {
        out_of_band("<tr><td>2</td></tr>", "body", "beforeend"): table.replace(
            "</tbody>", "<tr><td>2</td></tr></tbody>"
        ),
        out_of_band("<td>2</td>", "row", "beforeend"): table.replace("</tr>", "<td>2</td></tr>"),
        out_of_band('<tr id="row"></tr>', "row", "outerHTML"): table.replace("<td>1</td>", ""),
        out_of_band("<tbody></tbody>", "table", "beforeend"): table.replace(
            "</table>", "<tbody></tbody></table>"
        ),
        out_of_band("", "row", "delete"): table.replace(row, ""),
    }
    check(browser, library, [(table, html, after) for html, after in expected.items()])


def test_turbo(browser: Browser) -> None:
    """Streams find elements with any id, and their text is no HTML."""
    steps = []
    for target in IDS:
        before = shown(target, "old")
        added = shown(target, "old&lt;script&gt;")
        steps.append((before, stream("append", target=target, html="<script>"), added))
        steps.append((before, stream("replace", target=target, html=mark_safe(NEW)), NEW))
        steps.append((before, stream("remove", target=target), ""))
    check(browser, "turbo", steps)


def check(browser: Browser, library: str, steps: list[tuple[str, str, str]]) -> None:
    """Give HTML to a library, and compare what the page then shows.

    Args:
        browser: the browser.
        library: a key of ``LIBRARIES`` in ``swaps.cases.mjs``.
        steps: what the page shows before, the HTML, and what it shows afterwards.
    """
    found = browser.run("swap", library=library, steps=steps)
    assert len(found) == len(steps)
    for content, expected in found:
        assert content == expected
