"""``{% load websockets %}``: the JavaScript client, URLs of WebSockets, tickets, positions."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from django.http import HttpRequest
from django.template import Context, Library, TemplateSyntaxError
from django.template.base import Parser, Token
from django.template.defaulttags import URLNode
from django.template.defaulttags import url as parse_url
from django.urls import NoReverseMatch
from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString, mark_safe

from .. import scripts
from ..auth.tickets import issue_ticket
from ..decorators import position_for_page
from ..groups import Group
from ..groups.clients import identity_of
from ..urls import url_of
from ..urls import websocket_url as websocket_url_for

__all__ = ["register"]

register = Library()


class WebSocketURLNode(URLNode):
    """``{% url %}`` for ``WEBSOCKET_URLCONF``, with scheme and server."""

    def value(self, request: HttpRequest | None, url: str) -> str:
        """Return the value to render for the URL."""
        return url

    def render(self, context: Context) -> str:
        view_name = self.view_name.resolve(context)
        request = _request_of(context)
        match = getattr(request, "resolver_match", None)
        current_app = getattr(request, "current_app", None) or getattr(match, "namespace", None)
        try:
            url = websocket_url_for(
                view_name,
                args=[argument.resolve(context) for argument in self.args],
                kwargs={name: value.resolve(context) for name, value in self.kwargs.items()},
                request=request,
                current_app=current_app,
            )
            url = self.value(request, url)
        except NoReverseMatch:
            # Like {% url %}: only with "as" may the URL be missing.
            if self.asvar is None:
                raise
            url = ""
        if self.asvar:
            context[self.asvar] = url
            return ""
        return conditional_escape(url) if context.autoescape else url


class WebSocketTicketNode(WebSocketURLNode):
    """Renders a ticket for the URL."""

    def value(self, request: HttpRequest | None, url: str) -> str:
        """Return a ticket for the user of the page."""
        if request is None:
            raise TemplateSyntaxError(
                "{% websocket_ticket %} needs the request: put "
                "django.template.context_processors.request into TEMPLATES"
            )
        return issue_ticket(request, url)


@register.tag
def websocket_url(parser: Parser, token: Token) -> WebSocketURLNode:
    """Return the absolute URL of a WebSocket view.

    It takes the arguments of ``{% url %}``, including ``as variable``. To add the host it needs
    ``request`` in the context (``django.template.context_processors.request``)::

        {% load websockets %}
        <script>const socket = new WebSocket("{% websocket_url 'chat' room='lobby' %}")</script>
    """
    node = parse_url(parser, token)
    return WebSocketURLNode(node.view_name, node.args, node.kwargs, node.asvar)


@register.tag
def websocket_ticket(parser: Parser, token: Token) -> WebSocketTicketNode:
    """Return a ticket with which the page's user opens a WebSocket once, without cookies.

    It takes the arguments of ``{% websocket_url %}``. The page must not be cached::

        new WebSocket("{% websocket_url 'chat' %}", ["bearer", "{% websocket_ticket 'chat' %}"])
    """
    node = parse_url(parser, token)
    return WebSocketTicketNode(node.view_name, node.args, node.kwargs, node.asvar)


@register.simple_tag(takes_context=True)
def websocket_client(context: Context) -> SafeString:
    """Return the script element of the JavaScript client, which sets ``window.wsmux``.

    Module scripts after it can use the client::

        {% websocket_client %}
        <script type="module">
          const room = wsmux.connect("{% websocket_url 'room' room=room %}", {shared: true});
        </script>

    The element has the nonce of a Content Security Policy, Django's or django-csp's, the URL of the
    shared worker, and a hash that identifies the user. So the result depends on the user: do not
    cache it for other users. The hash comes from ``request.user``; the tag needs
    ``django.template.context_processors.request``. Turbo loads the whole page again when the user
    or the script is another one.
    """
    request = _require_request(context, "websocket_client")
    return format_html(
        '<script type="module" src="{}"{} data-wsmux-worker="{}" data-wsmux-user="{}"'
        ' data-turbo-track="reload"></script>',
        scripts.url_of("client.js"),
        _nonce(context),
        scripts.url_of("worker.js"),
        identity_of(getattr(request, "user", None)),
    )


@register.simple_tag(takes_context=True)
def websocket_htmx(context: Context, *, shared: bool = False) -> SafeString:
    """Return the script element of the module for htmx: a lost connection misses nothing.

    The WebSocket extensions of htmx 2 and 4 then use the JavaScript client for their sockets. Put
    the element after ``{% websocket_client %}`` and before the scripts of htmx::

        {% websocket_client %}{% websocket_htmx %}
        <script src="{% static 'htmx.js' %}"></script>
        <script src="{% static 'ext/hx-ws.js' %}"></script>
        ...
        <div hx-ws:connect="{% websocket_url 'chat' %}?at={% websocket_position %}">

    The element has the nonce of a Content Security Policy, like ``{% websocket_client %}``.

    Args:
        shared: whether all pages with the same URL of a socket share it.
    """
    return format_html(
        '<script type="module" src="{}"{}{}></script>',
        scripts.url_of("htmx.js"),
        _nonce(context),
        mark_safe(" data-wsmux-shared") if shared else "",
    )


def _nonce(context: Context) -> str:
    """Return the attribute for the nonce of a Content Security Policy; ``""`` if there is none."""
    # Both are lazy objects. They are false until the first use, which adds them to the header.
    nonce = context.get("csp_nonce")
    if nonce is None:
        nonce = getattr(_request_of(context), "csp_nonce", None)
    return "" if nonce is None else format_html(' nonce="{}"', str(nonce))


def _request_of(context: Context) -> HttpRequest | None:
    request: HttpRequest | None = getattr(context, "request", None) or context.get("request")
    return request


def _require_request(context: Context, tag: str) -> HttpRequest:
    request = _request_of(context)
    if request is None:
        raise TemplateSyntaxError(
            f"{{% {tag} %}} needs the request: put "
            f"django.template.context_processors.request into TEMPLATES"
        )
    return request


@register.simple_tag(takes_context=True)
def websocket_position(context: Context) -> str:
    """Return the positions that ``@resumable`` recorded for the page.

    A socket that is opened with them gets all later messages of its groups. The text is safe in a
    URL and in a script::

        new WebSocket("{% websocket_url 'chat' room=room %}?at={% websocket_position %}")
    """
    request = _request_of(context)
    positions: dict[str, str] | None = getattr(request, "websocket_positions", None)
    if positions is None:
        raise TemplateSyntaxError(
            "{% websocket_position %} needs a page whose view is decorated with @resumable, and "
            "django.template.context_processors.request in TEMPLATES"
        )
    if len(positions) == 1:
        return next(iter(positions.values()))
    return ",".join(f"{quote(name, safe='')}@{position}" for name, position in positions.items())


@register.simple_tag(takes_context=True)
def websocket_stream(context: Context, group: Group | str) -> SafeString:
    """Return an element that has the page follow a group.

    It shows the HTML that ``send_template()``, ``send_stream()`` and ``@broadcasts`` send to the
    group: Turbo and htmx swap it into the page if they are loaded, and otherwise it becomes the
    content of the element::

        {% load websockets %}
        {% websocket_client %}
        ...
        {% websocket_stream room.group_name %}
        <ul id="lines">{% for line in lines %}...{% endfor %}</ul>

    The name of the group is signed for the page's user, who may follow the group because the page
    is shown. The messages begin at the position that ``@resumable`` has recorded for the group, or
    at that of the moment of rendering. All elements of a page share one socket, that of the
    ``StreamView`` in ``WEBSOCKET_URLCONF``.

    Args:
        group: a ``Group`` or its name; ``"@user"`` is the group of the page's user, for which the
            tag renders nothing if no user is signed in.
    """
    from ..html import names, streams

    request = _require_request(context, "websocket_stream")
    owner = names.owner_of(request)
    found = names.group_of(group, owner)
    if found is None:
        return SafeString("")
    at = _position(request, found, names.shown(found.name))
    script = ""
    if not hasattr(request, "has_websocket_stream"):
        request.has_websocket_stream = True  # type: ignore[attr-defined]
        script = format_html(
            '<script type="module" src="{}"{}></script>',
            scripts.url_of("stream.js"),
            _nonce(context),
        )
    return format_html(
        '<websocket-stream signed="{}"{} url="{}"></websocket-stream>{}',
        names.sign(found, owner),
        "" if at is None else format_html(' at="{}"', at),
        url_of(streams.StreamView),
        script,
    )


def _position(request: Any, group: Group, name: str) -> str | None:
    """Return the position of a group for a page, the same one each time."""
    recorded: dict[str, str | None] = getattr(request, "websocket_positions", {})
    if name in recorded:
        return recorded[name]
    if not hasattr(request, "websocket_stream_positions"):
        request.websocket_stream_positions = {}
    found: dict[str, str | None] = request.websocket_stream_positions
    if name not in found:
        found[name] = position_for_page(group) if group.has_history else None
    return found[name]
