"""The markup around HTML: values are escaped, and arguments are checked."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils.safestring import mark_safe

from django_wsmux.html.markup import (
    check_out_of_band,
    check_stream,
    css_escape,
    out_of_band,
    stream,
)

EVIL = "\"'><script>alert(1)</script>&"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("lines", "lines"),
        ("line-5", "line-5"),
        ("chat.line:5", "chat\\2e line\\3a 5"),
        ("5", "\\35 "),
        ("-5a5", "-\\35 a5"),
        ("a5", "a5"),
        ("-", "\\2d "),
        ("--", "--"),
        ("ümlaut_日", "ümlaut_日"),
        ("a\0\x1f\x7f", "a\ufffd\\1f \\7f "),
        ('"<,\\', "\\22 \\3c \\2c \\5c "),
    ],
)
def test_css_escape(text: str, escaped: str) -> None:
    """Identifiers are escaped as CSS asks for, without characters that htmx splits at."""
    assert css_escape(text) == escaped


def test_out_of_band() -> None:
    """HTML for a target is wrapped in an element that names it."""
    html = out_of_band("<p>hi</p>", "lines", "innerHTML")
    assert html == '<div hx-swap-oob="innerHTML:#lines"><p>hi</p></div>'
    html = out_of_band("text", "lines", "beforeend")
    assert html == '<div hx-swap-oob="beforeend:#lines">text</div>'
    assert out_of_band("", "lines", "delete") == '<div hx-swap-oob="delete:#lines"></div>'


@pytest.mark.parametrize(
    ("inner", "outer"),
    [("tr", "tbody"), ("TD", "tr"), ("tbody", "table"), ("col", "colgroup"), ("li", "div")],
)
def test_parts_of_tables(inner: str, outer: str) -> None:
    """Rows and cells are wrapped in what an HTML parser accepts around them."""
    html = f"\n<!-- <p> -->\n<{inner} class=a></{inner}>"
    expected = f'<{outer} hx-swap-oob="beforeend:#a">{html}</{outer}>'
    assert out_of_band(html, "a", "beforeend") == expected


@pytest.mark.parametrize("html", ["<br>", "<br/>", "<my-line\nclass='a>b'>hi</my-line>", "<p >"])
def test_outer(html: str) -> None:
    """With ``outerHTML`` the root element of the template has the attribute."""
    tag = html.strip("<>/").split()[0]
    found = out_of_band(f"<!-- a -->\n{html}", "a", "outerHTML")
    start = f'<!-- a -->\n<{tag} hx-swap-oob="outerHTML:#a"'
    assert found == start + html.removeprefix(f"<{tag}")


@pytest.mark.parametrize("html", ["", "text", "text <p>", "<!-- <p> -->"])
def test_no_root(html: str) -> None:
    """``outerHTML`` needs an element."""
    with pytest.raises(ValueError, match="needs HTML that begins with an element"):
        out_of_band(html, "a", "outerHTML")


@pytest.mark.parametrize("target", ["", "#lines", ".lines p", "a b"])
def test_targets(target: str) -> None:
    """A target is an id."""
    with pytest.raises(ValueError, match="target must be the id of an element"):
        check_out_of_band(target, None)
    with pytest.raises(ValueError, match="target must be the id of an element"):
        check_stream("remove", target, None, False, None)


def test_swaps() -> None:
    """A way to swap is a name, and needs a target."""
    with pytest.raises(ValueError, match="needs a target"):
        check_out_of_band(None, "beforeend")
    with pytest.raises(ValueError, match="must be a name"):
        check_out_of_band("lines", "beforeend:#lines")


def test_escaped() -> None:
    """What stands in an attribute or is no HTML is escaped."""
    assert "<script" not in out_of_band("", EVIL, "beforeend")
    assert "<script" not in out_of_band("<p>", EVIL, "outerHTML")
    html = stream("append", target=EVIL, html=EVIL)
    escaped = "&quot;&#x27;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;"
    assert html == (
        f'<turbo-stream action="append" target="{escaped}">'
        f"<template>{escaped}</template></turbo-stream>"
    )
    assert "<script" not in stream("remove", targets=EVIL)


def test_streams() -> None:
    """Streams have the attributes that Turbo reads."""
    html = stream("replace", target="a", html=mark_safe("<p>hi</p>"), method="morph")
    assert html == (
        '<turbo-stream action="replace" method="morph" target="a">'
        "<template><p>hi</p></template></turbo-stream>"
    )
    assert stream("remove", targets=".a > b") == (
        '<turbo-stream action="remove" targets=".a &gt; b"></turbo-stream>'
    )
    assert stream("refresh", request_id="5f1-a_b") == (
        '<turbo-stream action="refresh" request-id="5f1-a_b"></turbo-stream>'
    )
    assert stream("refresh", request_id="a b") == '<turbo-stream action="refresh"></turbo-stream>'
    assert stream("refresh") == '<turbo-stream action="refresh"></turbo-stream>'
    assert "<template></template>" in stream("update", target="a", html="")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"action": "insert"}, "action must be one of after, append, .*not 'insert'"),
    ({"action": "refresh", "target": "a"}, "refresh concerns the whole page"),
    ({"action": "remove"}, "remove needs either target, an id, or targets"),
    ({"action": "remove", "target": "a", "targets": "b"}, "remove needs either target"),
    ({"action": "remove", "target": "a", "has_content": True}, "remove has no content"),
    ({"action": "append", "target": "a"}, "append needs a template or html"),
    ({"action": "remove", "target": "a", "method": "morph"}, "remove has no method 'morph'"),
    ({"action": "refresh", "method": "melt"}, "refresh has no method 'melt'"),
]


@pytest.mark.parametrize(("arguments", "problem"), WRONG)
def test_wrong(arguments: dict[str, Any], problem: str) -> None:
    """Arguments that do not fit the action are errors that say what to pass."""
    nothing = {"target": None, "targets": None, "has_content": False, "method": None}
    with pytest.raises(ValueError, match=problem):
        check_stream(**nothing | arguments)


def test_right() -> None:
    """Other arguments are accepted."""
    check_out_of_band(None, None)
    check_out_of_band("lines", None)
    check_out_of_band("lines", "textContent")
    check_stream("refresh", None, None, False, "morph")
    check_stream("remove", None, ".a", False, None)
    check_stream("update", "a", None, True, "morph")
