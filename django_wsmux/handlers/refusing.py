"""Sends a refusal to the client: as an HTTP response or as a close code.

A script cannot see the HTTP response to a handshake: ``onclose`` always reports 1006. So a
handshake can be accepted and closed at once, with a code that tells the cause. Clients that offer
our own subprotocol always get the code, browsers if ``WEBSOCKET_REFUSALS`` or the view says so. All
others get the HTTP response.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch
from django.utils.http import parse_http_date_safe

from .. import conf
from ..groups.users import SIGNED_OUT
from ..logs import SHOWN, quote, suffix
from ..protocol import handshake, origin
from ..protocol.frames import CloseCode
from ..protocol.handshake import Refusal
from ..responses import refusal_reason
from ..server import dismissal
from ..server.limits import RETRY_AFTER, Permit
from ..server.takeover import Takeover
from .request import WebSocketRequest
from .socket import DjangoHooks
from .tracebacks import raised_at

__all__ = [
    "advice",
    "check_refusals",
    "close_code",
    "dismiss",
    "hint",
    "limit_lines",
    "limit_security",
    "option_of",
    "refusal_response",
    "refusals_of",
    "retry_after",
    "wants_close",
    "with_port",
]

#: The close code of a refusal is this plus its status, unless the status has its own code.
_OWN_CODES: Final = 4000

_REDIRECTS: Final = (301, 302, 303, 307, 308)


def refusal_response(refusal: Refusal) -> HttpResponse:
    """Return a Django response for a refusal that has already been counted and logged."""
    status, _, reason = refusal.status.partition(" ")
    response = HttpResponse(
        refusal.reason,
        status=int(status),
        reason=reason,
        headers=dict(refusal.headers),
        content_type="text/plain; charset=utf-8",
    )
    # django.utils.log.log_response() must not log a flood a second time.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def wants_close(environ: Mapping[str, Any], mode: str) -> bool:
    """Return whether a refused client gets a close code.

    Args:
        environ: the environ of the handshake.
        mode: a value of ``WEBSOCKET_REFUSALS``.
    """
    if handshake.V1 in _offered(environ):
        return True
    return mode == "close" and _is_browser(environ)


def _is_browser(environ: Mapping[str, Any]) -> bool:
    """Return whether the client is a browser. Chromium sends no ``Sec-Fetch-Mode`` here."""
    is_marked = environ.get("HTTP_SEC_FETCH_MODE") == "websocket"
    is_named = environ.get("HTTP_USER_AGENT", "").startswith("Mozilla/")
    return "HTTP_ORIGIN" in environ and (is_marked or is_named)


def _offered(environ: Mapping[str, Any]) -> list[str]:
    names = environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").split(",")
    return [name.strip() for name in names]


def refusals_of(request: HttpRequest) -> str:
    """Return the view's ``refusals``, or else ``WEBSOCKET_REFUSALS``."""
    return option_of(request, "refusals", None) or str(conf.get("WEBSOCKET_REFUSALS"))


def option_of(request: HttpRequest, name: str, default: Any) -> Any:
    """Return an option of the handshake that the view of a request declares."""
    match = request.resolver_match
    view: Any = match.func if match is not None else None
    options = getattr(view, "view_initkwargs", {})
    return options.get(name, getattr(getattr(view, "view_class", view), name, default))


def close_code(response: HttpResponseBase) -> int:
    """Return the close code that corresponds to a response."""
    status = response.status_code
    if status == 401 or (status in _REDIRECTS and _leads_to_login(response)):
        return SIGNED_OUT
    if status in (429, 503):
        return CloseCode.TRY_AGAIN_LATER
    if status >= 500:
        return CloseCode.INTERNAL_ERROR
    return _OWN_CODES + status


def _leads_to_login(response: HttpResponseBase) -> bool:
    """Return whether a redirect leads to the login page."""
    try:
        target = urlsplit(response.headers.get("Location", ""))
        if REDIRECT_FIELD_NAME in parse_qs(target.query, keep_blank_values=True):
            return True
        login = urlsplit(resolve_url(settings.LOGIN_URL))
    except (NoReverseMatch, ValueError):
        return False
    hosts = {target.netloc, login.netloc} - {""}
    return target.path == login.path and len(hosts) < 2


def retry_after(response: HttpResponseBase, is_later: bool) -> float | None:
    """Return after how many seconds a client should try again (RFC 9110 section 10.2.3).

    Args:
        response: the refusal.
        is_later: whether the client should try again and understands the value.
    """
    if not is_later:
        return None
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    date = parse_http_date_safe(value) if value else None
    return RETRY_AFTER if date is None else max(round(date - time.time(), 1), 0.0)


def dismiss(
    request: WebSocketRequest,
    takeover: Takeover,
    response: HttpResponseBase,
    headers: Iterable[tuple[str, str]],
    slot: Permit,
) -> None:
    """Accept the handshake and close it with a code that a script can read.

    Args:
        request: the handshake.
        takeover: takes the socket from the server.
        response: the refusal.
        headers: the headers of the refusal, whose cookies are sent with the 101.
        slot: the result of ``dismissal.enter()``.
    """
    meta = request.META
    offered = meta.get("HTTP_SEC_WEBSOCKET_PROTOCOL")
    # Browsers that offer subprotocols give up if none is selected.
    subprotocol = handshake.select_subprotocol(offered, (handshake.V1, *_offered(meta)))
    cookies = [header for header in headers if header[0].lower() == "set-cookie"]
    head = handshake.switching_protocols(meta["HTTP_SEC_WEBSOCKET_KEY"], subprotocol, cookies)
    code = close_code(response)
    if request.failure is not None and code == CloseCode.INTERNAL_ERROR:
        response.reason_phrase = request.failure
    is_later = code == CloseCode.TRY_AGAIN_LATER and subprotocol == handshake.V1
    frames = dismissal.frames(code, refusal_reason(response), retry_after(response, is_later))
    websocket = takeover.websocket_class(
        meta, dismissal.limits(conf.options()), DjangoHooks(request)
    )
    dismissal.dismiss(websocket, takeover, slot, head + frames)


def hint(status: int) -> str:
    """Return advice for a status that looks like a mistake of the project, else ``""``."""
    if 200 <= status < 300:
        return "the view returned a page; does it lack @websocket?"
    if status == 301:
        return "clients do not follow; if the cause is APPEND_SLASH, use the URL with the slash"
    return ""


#: Prefix of Django's loggers for a SuspiciousOperation; the name of its class follows.
_SECURITY: Final = "django.security."


def limit_lines(record: logging.LogRecord) -> bool:
    """Limit Django's log lines about refused handshakes, and the client's data in them.

    All errors of the project are logged. Those of ``django.security`` are caused by clients.
    """
    request = getattr(record, "request", None)
    if not isinstance(request, WebSocketRequest):
        return True
    is_security = record.name.startswith(_SECURITY)
    if record.levelno >= logging.ERROR and not is_security:
        return True
    # The text of a SuspiciousOperation may quote the client's data.
    end = suffix(record.name if is_security else record.msg)
    if end is None:
        return False
    if is_security:
        record.msg, record.args = "%s", (quote(str(record.msg)),)
    elif isinstance(record.args, tuple):
        record.args = tuple(
            quote(each) if isinstance(each, str) and len(each) > SHOWN else each
            for each in record.args
        )
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        # The traceback would repeat that text.
        end = f" ({raised_at(error)}){end}"
        record.exc_info = None
    record.msg += end.replace("%", "%%")
    return True


def limit_security(kind: type[SuspiciousOperation] = SuspiciousOperation) -> None:
    """Limit Django's log lines about errors of a class and of its subclasses.

    Django has a logger for each class, and a filter applies to one logger only.
    """
    logging.getLogger(f"{_SECURITY}{kind.__name__}").addFilter(limit_lines)
    for derived in kind.__subclasses__():
        limit_security(derived)


def check_refusals(refusals: str | None) -> None:
    """Check the ``refusals`` of a view.

    Raises:
        ValueError: the value is neither ``"http"`` nor ``"close"`` nor ``None``.
    """
    if refusals not in (None, "http", "close"):
        raise ValueError(f'refusals must be "http", "close" or None, not {refusals!r}')


def advice(request: HttpRequest, claimed: str, host: str) -> str:
    """Return advice about an origin that is refused."""
    if request.is_secure() and origin.is_same(claimed, host, secure=False):
        return (
            "only the scheme differs: redirect pages to https (SECURE_SSL_REDIRECT), or have the "
            "proxy send the client's scheme in the header of SECURE_PROXY_SSL_HEADER; to allow the "
            "origin anyway, add it to WEBSOCKET_ALLOWED_ORIGINS"
        )
    advice = (
        "if it is yours, add it to WEBSOCKET_ALLOWED_ORIGINS or CSRF_TRUSTED_ORIGINS, and have "
        "the proxy pass on the Host header"
    )
    if not request.is_secure() and claimed.startswith(("https:", "wss:")):
        advice += ", and the scheme (SECURE_PROXY_SSL_HEADER)"
    return advice


def with_port(host: str, port: str) -> str:
    """Add a port from the proxy to a host that has none, unless it is a default port.

    ``CsrfViewMiddleware`` does the same.
    """
    return host if port in ("80", "443") or origin.has_port(host) else f"{host}:{port}"
