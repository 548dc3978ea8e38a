"""The template tags of ``{% load websockets %}``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from types import ModuleType

import pytest
from csp.middleware import CSPMiddleware
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest, HttpResponse
from django.template import Context, RequestContext, Template
from django.template.exceptions import TemplateSyntaxError
from django.test import RequestFactory, override_settings
from django.urls import NoReverseMatch, path
from django.utils.functional import SimpleLazyObject

from django_wsmux.decorators import resumable
from django_wsmux.exceptions import BackendUnavailable
from django_wsmux.groups import Group, clients
from django_wsmux.html import StreamView, names


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
        # Turbo loads the page again if another user has signed in.
        assert attributes == {
            "type": "module",
            "data-wsmux-user": clients.ANONYMOUS,
            "data-turbo-track": "reload",
        }

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


class Elements(HTMLParser):
    """The elements of a text: their tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.found.append((tag, dict(attrs)))


class TestStream:
    """``{% websocket_stream %}`` has a page follow a group."""

    @pytest.fixture(autouse=True)
    def site(self) -> Iterator[None]:
        """A site with the view, whose groups ``kept.*`` keep messages."""
        urlconf = ModuleType("urlconf")
        vars(urlconf)["urlpatterns"] = [path("ws/streams/", StreamView.as_view())]
        history = {name: {"messages": 9, "seconds": 60} for name in ("kept.*", "@user:*")}
        with override_settings(WEBSOCKET_URLCONF=urlconf, WEBSOCKET_HISTORY=history):
            yield

    def elements(
        self, request: HttpRequest | None, *groups: object, **context: object
    ) -> list[tuple[str, dict[str, str | None]]]:
        """Return the elements that the tags for some groups render."""
        text = (
            "{% load websockets %}{% for group in groups %}{% websocket_stream group %}{% endfor %}"
        )
        context["groups"] = groups
        make = Context if request is None else partial(RequestContext, request)
        return Elements(Template(text).render(make(context))).found

    def stream(self, request: HttpRequest, group: object) -> dict[str, str | None]:
        """Return the attributes of the element."""
        return self.elements(request, group)[0][1]

    def test_attributes(self, rf: RequestFactory) -> None:
        """The element has the signed name and the URL; the first one loads the script."""
        request = rf.get("/")
        (tag, first), (script, source), (_, second) = self.elements(request, "a", Group("b"))
        assert (tag, script) == ("websocket-stream", "script")
        assert first["url"] == second["url"] == "/ws/streams/"
        assert names.verify(first["signed"] or "", "") == Group("a")
        assert names.verify(second["signed"] or "", "") == Group("b")
        assert "at" not in first
        assert source["type"] == "module"
        assert "/stream.js?v=" in (source["src"] or "")

    def test_user(self, rf: RequestFactory) -> None:
        """The name is for the user of the page."""
        request = rf.get("/")
        request.user = User(pk=7)
        signed = self.stream(request, "a")["signed"] or ""
        assert names.verify(signed, "user:7") == Group("a")
        with pytest.raises(names.RejectedName):
            names.verify(signed, "user:8")

    def test_escaped(self, rf: RequestFactory) -> None:
        """A name may have any characters."""
        name = "\"><script>'&amp;"
        assert names.verify(self.stream(rf.get("/"), name)["signed"] or "", "") == Group(name)

    def test_position(self, rf: RequestFactory) -> None:
        """Messages begin at the moment of rendering, the same for all elements of a page."""
        request = rf.get("/")
        before = Group("kept.a").position()
        Group("kept.a").send("1")
        at = self.stream(request, "kept.a")["at"]
        assert at == Group("kept.a").position() != before
        Group("kept.a").send("2")
        assert self.stream(request, "kept.a")["at"] == at
        assert self.stream(rf.get("/"), "kept.a")["at"] == Group("kept.a").position()

    def test_resumable(self, rf: RequestFactory) -> None:
        """Messages begin at what the page has recorded before it has read its data."""

        @resumable("kept.{name}")
        def view(request: HttpRequest, name: str) -> str | None:
            Group("kept.a").send("new")
            return self.stream(request, "kept.a")["at"]

        before = Group("kept.a").position()
        Group("kept.a").send("old")
        assert before != view(rf.get("/"), name="a") != Group("kept.a").position()

    def test_unreadable(self, rf: RequestFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the store cannot be read, the page is rendered nevertheless."""

        def position(self: Group) -> str:
            raise BackendUnavailable("local://", "away")

        monkeypatch.setattr(Group, "position", position)
        assert "at" not in self.stream(rf.get("/"), "kept.a")

    def test_own_group(self, rf: RequestFactory) -> None:
        """``@user`` is the group of the user; for others there is no element."""
        request = rf.get("/")
        assert self.elements(request, "@user") == []
        request.user = User(pk=7)
        attributes = self.stream(request, "@user")
        assert names.verify(attributes["signed"] or "", "user:7") == Group.for_user(7)
        assert attributes["at"]
        with pytest.raises(ValueError, match="not the group of the page's user"):
            self.stream(request, Group.for_user(8))

    def test_nonce(self, rf: RequestFactory) -> None:
        """The script has the nonce of the page."""
        found = self.elements(rf.get("/"), "a", csp_nonce=SimpleLazyObject(lambda: "once"))
        assert found[1][1]["nonce"] == "once"

    def test_without_a_request(self) -> None:
        """The error says how to give the request to templates."""
        with pytest.raises(TemplateSyntaxError, match=r"websocket_stream.*context_processors"):
            self.elements(None, "a")
