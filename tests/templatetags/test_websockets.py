"""``{% websocket_url %}`` and ``{% websocket_ticket %}``."""

from __future__ import annotations

import pytest
from django.template import Context, RequestContext, Template
from django.template.exceptions import TemplateSyntaxError
from django.test import RequestFactory, override_settings
from django.urls import NoReverseMatch


@pytest.fixture
def rf() -> RequestFactory:
    """Requests as from a browser, with host and port."""
    return RequestFactory(HTTP_HOST="example.com:8000")


class TestTag:
    """``{% websocket_url %}`` takes the arguments of ``{% url %}``."""

    def render(self, text: str, request: object = None, **context: object) -> str:
        template = Template("{% load websockets %}" + text)
        if request is None:
            return template.render(Context(context))
        return template.render(RequestContext(request, context))  # type: ignore[arg-type]

    def test_keyword(self, rf: RequestFactory) -> None:
        """The tag accepts a keyword argument, and uses the request's host."""
        text = "{% websocket_url 'rooms:room' slug=name %}"
        assert self.render(text, rf.get("/"), name="x") == "ws://example.com:8000/rooms/x/"

    def test_positional(self) -> None:
        """The tag accepts a positional argument; without a request it returns the path."""
        assert self.render("{% websocket_url 'rooms:room' 'x' %}") == "/rooms/x/"

    def test_variable_as_name(self) -> None:
        """The name may be a variable of the context."""
        assert self.render("{% websocket_url view %}", view="echo") == "/echo/"

    def test_as(self) -> None:
        """The URL can be stored in a variable."""
        assert self.render("{% websocket_url 'echo' as u %}[{{ u }}]") == "[/echo/]"

    def test_as_missing(self) -> None:
        """With ``as``, an unknown name gives an empty string; without, an error."""
        assert self.render("{% websocket_url 'nothing' as u %}[{{ u }}]") == "[]"
        with pytest.raises(NoReverseMatch):
            self.render("{% websocket_url 'nothing' %}")

    def test_without_a_name(self) -> None:
        """The error names the tag."""
        with pytest.raises(TemplateSyntaxError, match="websocket_url"):
            self.render("{% websocket_url %}")

    def test_host_is_escaped(self) -> None:
        """The host that a client claims is escaped."""
        request = RequestFactory().get("/", headers={"host": "a'b"})
        with override_settings(ALLOWED_HOSTS=["*"]):
            request.get_host = lambda: "a'b"  # type: ignore[method-assign]
            assert "'" not in self.render("{% websocket_url 'echo' %}", request)
