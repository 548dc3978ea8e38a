"""The template tags of ``{% load websockets %}``."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from csp.middleware import CSPMiddleware
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest, HttpResponse
from django.template import Context, RequestContext, Template
from django.template.exceptions import TemplateSyntaxError
from django.test import RequestFactory, override_settings
from django.urls import NoReverseMatch
from django.utils.functional import SimpleLazyObject

from django_wsmux.groups import clients


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


class TestClient:
    """``{% websocket_client %}`` loads the JavaScript client."""

    def render(self, request: HttpRequest | None, **context: object) -> str:
        template = Template("{% load websockets %}{% websocket_client %}")
        if request is None:
            return template.render(Context(context))
        return template.render(RequestContext(request, context))

    def element(self, request: HttpRequest, **context: object) -> dict[str, str | None]:
        """Return the attributes of the only element."""
        found: list[tuple[str, dict[str, str | None]]] = []

        class Parser(HTMLParser):
            def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
                found.append((tag, dict(attrs)))

        Parser().feed(self.render(request, **context))
        ((tag, attributes),) = found
        assert tag == "script"
        return attributes

    def test_attributes(self, rf: RequestFactory) -> None:
        """It is a module, with the URL of the worker, and the constant of anonymous users."""
        request = rf.get("/")
        request.user = AnonymousUser()
        urlconf = "tests.project.websocket_urls"
        with override_settings(ROOT_URLCONF=urlconf, STATIC_URL="/static/"):
            attributes = self.element(request)
        for name in ("client", "worker"):
            url = attributes.pop({"client": "src", "worker": "data-wsmux-worker"}[name]) or ""
            assert url.startswith(f"/static/django_wsmux/{name}.js?v=")
        assert attributes == {"type": "module", "data-wsmux-user": clients.ANONYMOUS}

    def test_user(self, rf: RequestFactory) -> None:
        """The identity is that of the user, without the primary key."""
        request = rf.get("/")
        request.user = User(pk=7)
        identity = self.element(request)["data-wsmux-user"]
        assert identity == clients.identity_of(User(pk=7)) != clients.identity_of(User(pk=8))
        assert clients.is_identity(identity or "", "7")

    def test_without_users(self, rf: RequestFactory) -> None:
        """A site without django.contrib.auth has anonymous users only."""
        assert self.element(rf.get("/"))["data-wsmux-user"] == clients.ANONYMOUS

    def test_nonce_of_django(self, rf: RequestFactory) -> None:
        """The nonce is Django's, in the context; using it puts it into the header."""
        nonce = SimpleLazyObject(lambda: "from-django")
        assert self.element(rf.get("/"), csp_nonce=nonce)["nonce"] == "from-django"

    def test_nonce_of_django_csp(self, rf: RequestFactory) -> None:
        """The nonce is that of django-csp, which is false until it is used."""
        request = rf.get("/")
        CSPMiddleware(lambda request: HttpResponse()).process_request(request)
        nonce = self.element(request)["nonce"]
        assert nonce
        assert nonce == str(request.csp_nonce)  # type: ignore[attr-defined]

    def test_without_a_nonce(self, rf: RequestFactory) -> None:
        """Without Django's middleware, its context processor returns None."""
        assert "nonce" not in self.element(rf.get("/"), csp_nonce=None)

    def test_without_a_request(self) -> None:
        """The error names what is missing."""
        with pytest.raises(TemplateSyntaxError, match=r"context_processors\.request"):
            self.render(None)


class TestHtmx:
    """``{% websocket_htmx %}`` loads the module for htmx."""

    def render(self, arguments: str = "", **context: object) -> str:
        template = Template("{% load websockets %}{% websocket_htmx " + arguments + "%}")
        return template.render(Context(context))

    def test_element(self) -> None:
        """It is a module."""
        urlconf = "tests.project.websocket_urls"
        with override_settings(ROOT_URLCONF=urlconf, STATIC_URL="/static/"):
            element = self.render()
        before, version, after = re.split(r"\?v=(\w{12})", element)
        assert before == '<script type="module" src="/static/django_wsmux/htmx.js'
        assert version
        assert after == '"></script>'

    def test_shared(self) -> None:
        """The module is told to share sockets."""
        assert self.render("shared=True").endswith(" data-wsmux-shared></script>")
        assert "shared" not in self.render("shared=False")

    def test_nonce(self) -> None:
        """The element has the nonce of a policy, escaped."""
        assert ' nonce="a&quot;b"' in self.render(csp_nonce='a"b')
        assert "nonce" not in self.render()
