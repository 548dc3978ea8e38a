"""Rendering templates: context, language, partials."""

from __future__ import annotations

from collections.abc import Iterator

import django
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.template import TemplateDoesNotExist
from django.test import override_settings
from django.utils import timezone, translation

from django_wsmux.html.rendering import active, render

from . import SITE, TEMPLATES


@pytest.fixture(autouse=True)
def _site() -> Iterator[None]:
    with override_settings(**SITE):
        yield


def test_escaped() -> None:
    """Values are escaped, as in any template."""
    html = render("lines/line.html", {"line": {"pk": 1, "text": "<script>"}})
    assert html == '<p id="line-1">&lt;script&gt;</p>\n'


def test_without_context() -> None:
    """A template needs no context, and gets no values of context processors."""
    options = {"context_processors": ["django.template.context_processors.static"]}
    with override_settings(TEMPLATES=[TEMPLATES | {"OPTIONS": options}], STATIC_URL="/static/"):
        assert render("lines/static.html") == "static: \n"


def test_request() -> None:
    """A request in the context is an error: the HTML is for all members."""
    with pytest.raises(TypeError, match="all members of the group get the same HTML"):
        render("lines/line.html", {"request": None})


def test_missing() -> None:
    """A template that does not exist is Django's error."""
    with pytest.raises(TemplateDoesNotExist):
        render("lines/nothing.html")


def test_language() -> None:
    """The language and time zone are those that were active."""
    with translation.override("de"), timezone.override("Asia/Tokyo"):
        assert render("lines/translated.html") == "Ja Asia/Tokyo\n"
        call = active()
    assert render("lines/translated.html") == "Yes UTC\n"
    assert call(lambda: render("lines/translated.html")) == "Ja Asia/Tokyo\n"
    assert translation.get_language() == "en-us"


def test_no_translation() -> None:
    """Text is not translated if translations were not active."""
    with translation.override(None):
        call = active()
    with translation.override("de"):
        assert call(lambda: render("lines/translated.html")) == "Yes UTC\n"


if django.VERSION >= (6,):

    def test_partial() -> None:
        """A name after "#" is a partial of the template."""
        assert render("lines/parts.html#line", {"line": {"text": "hi"}}) == "<p>hi</p>"
        with pytest.raises(TemplateDoesNotExist):
            render("lines/parts.html#nothing")

else:

    def test_partial() -> None:
        """Django 5.2 has no partials, and the error says so."""
        with pytest.raises(
            ImproperlyConfigured, match=r"'lines/parts\.html#line' .* needs Django 6"
        ):
            render("lines/parts.html#line")


def test_engine() -> None:
    """A template engine can be named."""
    other = TEMPLATES | {"NAME": "other", "DIRS": [], "OPTIONS": {"loaders": [LOADER]}}
    with override_settings(TEMPLATES=[TEMPLATES, other]):
        assert render("lines/line.html", using="other") == "other"


LOADER = ("django.template.loaders.locmem.Loader", {"lines/line.html": "other"})
