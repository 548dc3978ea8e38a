"""``{% load websockets %}``: the JavaScript client, URLs of WebSockets, tickets, positions."""

from __future__ import annotations

from urllib.parse import quote

from django.http import HttpRequest
from django.template import Context, Library, TemplateSyntaxError
from django.template.base import Parser, Token
from django.template.defaulttags import URLNode
from django.template.defaulttags import url as parse_url
from django.urls import NoReverseMatch
from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString

from .. import scripts
from ..auth.tickets import issue_ticket
from ..groups.clients import identity_of
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
        request = getattr(context, "request", None) or context.get("request")
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
    ``django.template.context_processors.request``.
    """
    request = getattr(context, "request", None) or context.get("request")
    if request is None:
        raise TemplateSyntaxError(
            "{% websocket_client %} needs the request: put "
            "django.template.context_processors.request into TEMPLATES"
        )
    # Both are lazy objects. They are false until the first use, which adds them to the header.
    nonce = context.get("csp_nonce")
    if nonce is None:
        nonce = getattr(request, "csp_nonce", None)
    return format_html(
        '<script type="module" src="{}"{} data-wsmux-worker="{}" data-wsmux-user="{}"></script>',
        scripts.url_of("client.js"),
        "" if nonce is None else format_html(' nonce="{}"', str(nonce)),
        scripts.url_of("worker.js"),
        identity_of(getattr(request, "user", None)),
    )


@register.simple_tag(takes_context=True)
def websocket_position(context: Context) -> str:
    """Return the positions that ``@resumable`` recorded for the page.

    A socket that is opened with them gets all later messages of its groups. The text is safe in a
    URL and in a script::

        new WebSocket("{% websocket_url 'chat' room=room %}?at={% websocket_position %}")
    """
    request = getattr(context, "request", None) or context.get("request")
    positions: dict[str, str] | None = getattr(request, "websocket_positions", None)
    if positions is None:
        raise TemplateSyntaxError(
            "{% websocket_position %} needs a page whose view is decorated with @resumable, and "
            "django.template.context_processors.request in TEMPLATES"
        )
    if len(positions) == 1:
        return next(iter(positions.values()))
    return ",".join(f"{quote(name, safe='')}@{position}" for name, position in positions.items())
