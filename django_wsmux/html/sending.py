"""Sends HTML to groups, from anywhere: rendered once, whatever the number of members.

A template that is rendered at the commit cannot raise in the code that has called for it. An error
is logged and counted, nothing is sent, and other callbacks of the commit run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from django.db import transaction
from django.http import HttpRequest
from django.utils.safestring import mark_safe

from ..connection.counters import count
from ..groups import Group
from ..groups.excluding import EXCLUDE_NONE, Exclude
from ..logs import LogLimit, get_logger
from . import markup
from .rendering import active, check_context, render

__all__ = ["report", "send_stream", "send_template"]

logger = get_logger("django_wsmux.html")

_failed: Final = LogLimit()


def send_template(
    group: Group | str,
    template_name: str | None,
    context: Mapping[str, Any] | None = None,
    *,
    target: str | None = None,
    swap: str | None = None,
    exclude: Exclude = EXCLUDE_NONE,
    on_commit: bool | str = False,
    stored: bool = False,
    fail_silently: bool = False,
    key: str | None = None,
) -> None:
    """Render a template and send it to the members of a group, for htmx or plain scripts.

    The template is rendered once, in the active language and without a request: all members get the
    same HTML.

    Args:
        group: a group, or its name.
        template_name: the template; ``"chat/line.html#line"`` is a partial of it (Django 6).
            ``None`` with ``swap="delete"``.
        context: the variables of the template.
        target: id of the element of the page that htmx swaps the HTML into ("out of band").
            Without it the HTML is sent as it is.
        swap: how htmx swaps it: ``"innerHTML"`` (the default), ``"beforeend"``, ``"outerHTML"``,
            ``"delete"`` and so on. With ``"outerHTML"``, the root element of the template replaces
            the target.
        exclude, fail_silently, key: as for ``Group.send()``. ``exclude=request.websocket_client``
            leaves out the page that sent a request.
        on_commit: render and send if and when the current transaction commits; pass an alias for a
            database other than the default. If the template fails then, this is logged and counted,
            and nothing is sent.
        stored: with ``on_commit``, render the template now and write the HTML to the database in
            the current transaction; see ``Group.send()``.

    Raises:
        TypeError: the context has a ``request``.
        ValueError: ``target`` and ``swap`` do not fit, or another argument is wrong.
        ImproperlyConfigured: the template is a partial, which needs Django 6.
        TemplateDoesNotExist: there is no such template.
        BackendUnavailable: as for ``Group.send()``.

    Example::

        send_template("room.1", "chat/line.html", {"line": line}, target="lines", swap="beforeend")
    """
    if template_name is None and (swap != "delete" or target is None):
        raise ValueError('only swap="delete" with a target needs no template')
    check_context(context)
    markup.check_out_of_band(target, swap)

    def make() -> str:
        html = "" if template_name is None else render(template_name, context)
        return html if target is None else markup.out_of_band(html, target, swap or "innerHTML")

    options = {"exclude": exclude, "fail_silently": fail_silently, "key": key}
    _send(group, template_name, make, on_commit, stored, options)


def send_stream(
    group: Group | str,
    action: str,
    *,
    target: str | None = None,
    targets: str | None = None,
    template: str | None = None,
    context: Mapping[str, Any] | None = None,
    html: str | None = None,
    method: str | None = None,
    request: HttpRequest | None = None,
    exclude: Exclude = EXCLUDE_NONE,
    on_commit: bool | str = False,
    stored: bool = False,
    fail_silently: bool = False,
    key: str | None = None,
) -> None:
    """Send a stream action of Turbo to the members of a group.

    Args:
        group: a group, or its name.
        action: ``"append"``, ``"prepend"``, ``"before"``, ``"after"``, ``"replace"``, ``"update"``,
            ``"remove"`` or ``"refresh"``.
        target: id of the element of the page that it concerns.
        targets: a CSS selector of such elements instead.
        template: the template with the content; ``"chat/line.html#line"`` is a partial of it
            (Django 6).
        context: the variables of the template.
        html: the content instead of a template. It is escaped unless it is marked as safe.
        method: ``"morph"`` lets Turbo morph the elements for ``"replace"``, ``"update"`` and
            ``"refresh"``.
        request: with ``"refresh"``, the request that has caused it: its page does not refresh.
        exclude, on_commit, stored, fail_silently, key: as for ``send_template()``.

    Raises:
        TypeError: the context has a ``request``.
        ValueError: the arguments do not fit the action.
        ImproperlyConfigured: the template is a partial, which needs Django 6.
        TemplateDoesNotExist: there is no such template.
        BackendUnavailable: as for ``Group.send()``.

    Example::

        send_stream("room.1", "append", target="lines", template="chat/line.html",
                    context={"line": line})
        send_stream("board", "refresh", request=request, on_commit=True)
    """
    if template is not None and html is not None:
        raise ValueError("pass either template or html")
    if request is not None and action != "refresh":
        raise ValueError(f"request belongs to refresh; {action} reaches all pages")
    has_content = template is not None or html is not None
    markup.check_stream(action, target, targets, has_content, method)
    check_context(context)
    request_id = None if request is None else request.headers.get("X-Turbo-Request-Id")

    def make() -> str:
        content = html if template is None else mark_safe(render(template, context))  # noqa: S308
        return markup.stream(
            action,
            target=target,
            targets=targets,
            html=content,
            method=method,
            request_id=request_id,
        )

    options = {"exclude": exclude, "fail_silently": fail_silently, "key": key}
    _send(group, template or action, make, on_commit, stored, options)


def _send(
    group: Group | str,
    what: str | None,
    make: Callable[[], str],
    on_commit: bool | str,
    stored: bool,
    options: dict[str, Any],
) -> None:
    """Render and send, now or at the commit.

    Args:
        group: a group, or its name.
        what: what is rendered, for the log.
        make: returns the HTML.
        on_commit, stored: see ``send_template()``.
        options: further arguments of ``Group.send_html()``.
    """
    group = Group(group) if isinstance(group, str) else group
    if stored or not on_commit:
        group.send_html(make(), on_commit=on_commit, stored=stored, **options)
        return
    group = group.pinned()
    group.check_send(options["exclude"], options["key"])
    options["fail_silently"] = True
    call = active()

    def send_rendered() -> None:
        try:
            html = call(make)
        except Exception as error:
            report(f"{group} ({what})", error)
        else:
            group.send_html(html, **options)

    using = on_commit if isinstance(on_commit, str) else None
    transaction.on_commit(send_rendered, using=using, robust=True)


def report(what: object, error: Exception) -> None:
    """Log and count that HTML was not sent because of an error.

    Args:
        what: whose HTML, or for which group.
        error: the error.
    """
    count("html_failed")
    suffix = _failed.suffix()
    if suffix is not None:
        logger.error("HTML for %s was not sent%s", what, suffix, exc_info=error)
