"""Paths and headers of an environ as text, before and after Django has decoded it."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pytest
from django.core.handlers.wsgi import WSGIRequest
from django.test import RequestFactory, override_settings

from django_wsmux.protocol.environ import header, keep_wire_path, wire_path, wire_url


def environ(path: str, **more: str) -> dict[str, Any]:
    """Return the environ that a server makes of a quoted path."""
    request = RequestFactory().get("/")
    return {**request.environ, "PATH_INFO": unquote(path, "latin-1"), **more}


@pytest.mark.parametrize(
    "path",
    ["/", "/a/b/", "/%D0%BA/", "/%F0%9F%98%80", "/%FF/", "/%25D0/", "/a%20b%3F", "/@a:b"],
)
def test_path(path: str) -> None:
    """The path is the same before and after Django has decoded it, and as the client sent it."""
    found = environ(path, SCRIPT_NAME="/app", QUERY_STRING="a=%20b&c=\xff\n")
    before = wire_path(found), wire_url(found)
    path_info = found["PATH_INFO"]
    WSGIRequest(found)
    keep_wire_path(found, path_info)
    assert before == (wire_path(found), wire_url(found))
    assert before == (f"/app{path}", f"/app{path}?a=%20b&c=%FF%0A")


def test_script_name() -> None:
    """A prefix from a setting is text; no value that middleware leaves raises an error."""
    found = environ("/%D0%BA/")
    path_info = found["PATH_INFO"]
    with override_settings(FORCE_SCRIPT_NAME="/\N{CYRILLIC SMALL LETTER KA}/"):
        WSGIRequest(found)
    keep_wire_path(found, path_info)
    assert wire_path(found) == "/%D0%BA/%D0%BA/"
    assert wire_path({"PATH_INFO": "\N{CYRILLIC SMALL LETTER KA}"}) == "%5Cu043a"
    assert wire_path({}) == ""


def test_header() -> None:
    """A header is decoded as UTF-8, and invalid bytes stay visible."""
    found = {"HTTP_A": "\xd0\xba\xff", "HTTP_B": "b"}
    assert header(found, "HTTP_A") == "\N{CYRILLIC SMALL LETTER KA}\\xff"
    assert (header(found, "HTTP_B"), header(found, "HTTP_C")) == ("b", None)
