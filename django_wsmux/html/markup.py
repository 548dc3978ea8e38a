"""The markup around HTML that tells htmx and Turbo where it goes."""

from __future__ import annotations

import re
from typing import Final

from django.utils.html import conditional_escape, format_html
from django.utils.safestring import mark_safe

__all__ = ["check_id", "check_out_of_band", "check_stream", "css_escape", "out_of_band", "stream"]

#: Actions of Turbo with content, and all others.
_WITH_CONTENT: Final = frozenset({"append", "prepend", "before", "after", "replace", "update"})
_ACTIONS: Final = _WITH_CONTENT | {"remove", "refresh"}

#: Actions that can morph elements instead of replacing them.
_MORPHING: Final = frozenset({"replace", "update", "refresh"})

#: A way to swap of htmx or of one of its extensions.
_SWAP: Final = re.compile(r"[a-zA-Z]+")

#: The first tag of a piece of HTML, after white space and comments.
_FIRST_TAG: Final = re.compile(r"\s*(?:<!--.*?-->\s*)*<([a-zA-Z][^\s/>]*)", re.DOTALL)

#: Elements that a parser of HTML drops outside of their parents, and these parents.
_PARENTS: Final = {
    "caption": "table",
    "col": "colgroup",
    "colgroup": "table",
    "tbody": "table",
    "td": "tr",
    "tfoot": "table",
    "th": "tr",
    "thead": "table",
    "tr": "tbody",
}

#: What Turbo sends as X-Turbo-Request-Id.
_REQUEST_ID: Final = re.compile(r"[\w-]{1,64}", re.ASCII)


def check_out_of_band(target: str | None, swap: str | None) -> None:
    """Check the arguments of ``out_of_band()``.

    Raises:
        ValueError: the target is empty or a selector; or the way to swap is not a name, or has no
            target.
    """
    if target is not None:
        check_id(target)
    elif swap is not None:
        raise ValueError(f"swap={swap!r} needs a target: the id of an element")
    if swap is not None and not _SWAP.fullmatch(swap):
        raise ValueError(f"swap must be a name like 'beforeend', not {swap!r}")


def out_of_band(html: str, target: str, swap: str) -> str:
    """Return HTML in the form that htmx swaps into an element of the page.

    Args:
        html: the HTML.
        target: the id of the element.
        swap: how it is swapped.

    Raises:
        ValueError: the HTML has no root element, which ``outerHTML`` needs.
    """
    attribute = format_html(' hx-swap-oob="{}:#{}"', swap, css_escape(target))
    first = _FIRST_TAG.match(html)
    if swap.startswith("outer"):
        if first is None:
            raise ValueError(f"swap={swap!r} needs HTML that begins with an element")
        return html[: first.end()] + attribute + html[first.end() :]
    tag = _PARENTS.get(first[1].lower(), "div") if first else "div"
    return f"<{tag}{attribute}>{html}</{tag}>"


def css_escape(text: str) -> str:
    """Return a text as an identifier of CSS (CSS Syntax, section 4.3.7).

    Other than ``CSS.escape()``, it writes no ":" and no ",": htmx splits selectors there.

    Example:
        >>> css_escape("line-5:a")
        'line-5\\3a a'
    """
    found = []
    for index, char in enumerate(text):
        is_digit = "0" <= char <= "9"
        is_first = index == 0 or (index == 1 and text[0] == "-")
        if char == "\0":
            found.append("\ufffd")
        elif (
            (is_digit and is_first)
            or text == "-"
            or not (is_digit or char >= "\x80" or char in "-_" or char.isalpha())
        ):
            found.append(f"\\{ord(char):x} ")
        else:
            found.append(char)
    return "".join(found)


def stream(
    action: str,
    *,
    target: str | None = None,
    targets: str | None = None,
    html: str | None = None,
    method: str | None = None,
    request_id: str | None = None,
) -> str:
    """Return an element ``<turbo-stream>``.

    Args:
        action: what Turbo does.
        target: the id of the element that it concerns.
        targets: a selector of the elements instead.
        html: the content; escaped unless it is marked as safe.
        method: ``"morph"`` to morph elements instead of replacing them.
        request_id: the request that caused a refresh.
    """
    attributes = {
        "action": action,
        "method": method,
        "target": target,
        "targets": targets,
        "request-id": request_id if _REQUEST_ID.fullmatch(request_id or "") else None,
    }
    opening = "".join(
        format_html(' {}="{}"', name, value)
        for name, value in attributes.items()
        if value is not None
    )
    content = "" if html is None else f"<template>{conditional_escape(html)}</template>"
    return mark_safe(f"<turbo-stream{opening}>{content}</turbo-stream>")  # noqa: S308


def check_stream(
    action: str, target: str | None, targets: str | None, has_content: bool, method: str | None
) -> None:
    """Check the arguments of ``stream()``.

    Raises:
        ValueError: an argument is missing, or does not fit the action.
    """
    if action not in _ACTIONS:
        raise ValueError(f"action must be one of {', '.join(sorted(_ACTIONS))}, not {action!r}")
    if action == "refresh":
        if target is not None or targets is not None:
            raise ValueError("refresh concerns the whole page, and has no target")
    elif (target is None) == (targets is None):
        raise ValueError(f"{action} needs either target, an id, or targets, a selector")
    if target is not None:
        check_id(target)
    if has_content != (action in _WITH_CONTENT):
        problem = "has no content" if has_content else "needs a template or html"
        raise ValueError(f"{action} {problem}")
    if method is not None and (method != "morph" or action not in _MORPHING):
        raise ValueError(
            f"{action} has no method {method!r}: replace, update and refresh can morph"
        )


def check_id(target: str) -> None:
    """Raise unless a target is an id.

    Raises:
        ValueError: it is something else.
    """
    if not target or target.startswith("#") or any(char.isspace() for char in target):
        raise ValueError(f"target must be the id of an element, without '#', not {target!r}")
