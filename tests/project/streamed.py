"""Boards: pages that show lines, and are sent HTML when lines change.

What a page shows after any number of changes must equal what the server renders then.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import engines
from django.urls import path
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.csrf import csrf_exempt

from django_wsmux.connection import registry
from django_wsmux.decorators import resumable
from django_wsmux.groups import Group
from django_wsmux.html import StreamView, names, send_stream
from django_wsmux.html.markup import out_of_band

MODULES = Path(__file__).parents[2] / "client" / "node_modules"

#: Scripts that pages can load.
SCRIPTS = {
    "turbo": MODULES / "@hotwired" / "turbo" / "dist" / "turbo.es2017-esm.js",
    "htmx2": MODULES / "htmx2" / "dist" / "htmx.js",
    "htmx4": MODULES / "htmx.org" / "dist" / "htmx.js",
}

#: The groups of a board: each kind of page is sent HTML of its own.
KINDS = ("turbo", "plain", "htmx2", "htmx4")

#: ``violations``: of the Content Security Policy. ``gaps``: of which groups messages were missed.
PAGE = """<!doctype html>
<html>
<head>
<title>{{ board }} {{ number }}</title>
{% load websockets %}
<meta name="csp-nonce" content="{{ csp_nonce }}{{ request.csp_nonce }}">
{% if "morph" in query %}<meta name="turbo-refresh-method" content="morph">{% endif %}
<script nonce="{{ csp_nonce }}{{ request.csp_nonce }}">
  window.violations ??= [];
  window.gaps ??= [];
  if (!window.isWatched) {
    window.isWatched = true;
    addEventListener("securitypolicyviolation", (event) => {
      violations.push(event.violatedDirective);
    });
    addEventListener("wsmux:gap", (event) => gaps.push(event.detail.group));
    {% if kind != "turbo" %}
    addEventListener("wsmux:gap", async (event) => {
      event.preventDefault();
      const text = await (await fetch(location)).text();
      document.body.replaceWith(new DOMParser().parseFromString(text, "text/html").body);
    });
    {% endif %}
  }
</script>
{% if script %}
<script {% if kind == "turbo" %}type="module"{% endif %}
        nonce="{{ csp_nonce }}{{ request.csp_nonce }}"
        src="/streamed/script/{{ script }}.js"></script>
{% endif %}
{% websocket_client %}
</head>
<body data-client="{{ request.websocket_client|default:"" }}">
<p id="number">{{ number }}</p>
<a id="next" href="/streamed/{{ kind }}/{{ board }}/{{ next }}/?{{ query.urlencode }}">next</a>
<a id="apart" href="/streamed/apart/">apart</a>
<ul id="lines">{{ lines }}</ul>
{% if "away" not in query %}{% websocket_stream group %}{% endif %}
{% if "twice" in query %}<div id="second">{% websocket_stream group %}</div>{% endif %}
{% for each in more %}{% websocket_stream each %}{% endfor %}
{% if "own" in query %}<ol id="own"></ol>{% websocket_stream "@user" %}{% endif %}
</body>
</html>
"""


def _group(kind: str, board: str) -> Group:
    return Group(f"{kind}.{board}")


def _item(line: list[Any]) -> SafeString:
    number, text = line
    return format_html('<li id="line-{}">{}</li>', number, text)


def _items(lines: list[list[Any]]) -> SafeString:
    return format_html_join("", "{}", ((_item(line),) for line in lines))


@contextmanager
def _opened(board: str) -> Iterator[dict[str, Any]]:
    """Lock a board for all processes; store it at the end."""
    # Windows has no such module.
    from fcntl import LOCK_EX, LOCK_NB, flock

    file = Path(os.environ["TEST_BOARDS"]) / board
    with file.open("a+") as stream:
        while True:
            try:
                # Waiting for the lock would block the other greenlets.
                flock(stream, LOCK_EX | LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.002)
        content = file.read_text()
        state: dict[str, Any] = json.loads(content) if content else {"last": 0, "lines": []}
        yield state
        file.write_text(json.dumps(state))


def _read(board: str) -> list[list[Any]]:
    with _opened(board) as state:
        lines: list[list[Any]] = state["lines"]
    return lines


def _add(state: dict[str, Any], text: str) -> tuple[str, str, list[Any]]:
    state["last"] += 1
    state["lines"].append([state["last"], text])
    return "append", "lines", state["lines"][-1]


def _change(state: dict[str, Any], text: str) -> tuple[str, str, list[Any]]:
    line = state["lines"][len(text) % len(state["lines"])]
    line[1] = text
    return "replace", f"line-{line[0]}", line


def _remove(state: dict[str, Any], text: str) -> tuple[str, str, list[Any]]:
    line = state["lines"].pop(len(text) % len(state["lines"]))
    return "remove", f"line-{line[0]}", line


_ACTIONS: dict[str, Callable[[dict[str, Any], str], tuple[str, str, list[Any]]]] = {
    "add": _add,
    "change": _change,
    "remove": _remove,
}


@csrf_exempt
def write(request: HttpRequest, board: str) -> JsonResponse:
    """Do what the body lists, ``[action, text]``; tell the pages."""
    client: str | None = request.websocket_client  # type: ignore[attr-defined]
    for action, text in json.loads(request.body):
        with _opened(board) as state:
            if action != "add" and not state["lines"]:
                action = "add"
            how, target, line = _ACTIONS[action](state, text)
            html = None if how == "remove" else _item(line)
            # Within the lock, so that messages have the order of the changes.
            send_stream(_group("turbo", board), how, target=target, html=html, exclude=client)
            _group("plain", board).send_html(_items(state["lines"]))
            swap = {"append": "beforeend", "replace": "outerHTML", "remove": "delete"}[how]
            for kind in ("htmx2", "htmx4"):
                _group(kind, board).send_html(out_of_band(html or "", target, swap))
    return JsonResponse({"client": client})


def page(request: HttpRequest, kind: str, board: str, number: int) -> HttpResponse:
    """Render a board.

    Query: ``more``, the number of further streams; ``age``, days since the names were signed;
    ``twice``, ``away`` (no stream), ``morph``; ``own`` for a stream of the user's group.
    """
    group = _group(kind, board)
    view = resumable(group.name)(_page) if group.has_history else _page
    return view(request, kind, board, number)


def _page(request: HttpRequest, kind: str, board: str, number: int) -> HttpResponse:
    query = request.GET
    context = {
        "kind": kind,
        "board": board,
        "number": number,
        "next": number + 1,
        "script": kind if kind in SCRIPTS else "",
        "query": query,
        "group": _group(kind, board),
        "more": [f"more{index}.{board}" for index in range(int(query.get("more", 0)))],
        "lines": _items(_read(board)),
    }
    time.sleep(float(query.get("slow", 0)))
    age = timedelta(days=0 if "aged" in request.COOKIES else float(query.get("age", 0)))
    template = engines["django"].from_string(PAGE)
    with patch("django.core.signing.time.time", return_value=time.time() - age.total_seconds()):
        html = template.render(context, request)
    response = HttpResponse(html)
    if age:
        # The next time it is of the moment.
        response.set_cookie("aged", "1")
    return response


def greet(request: HttpRequest, user: str) -> HttpResponse:
    """Send to a user's group."""
    group = Group.for_user(get_user_model().objects.get(username=user))
    html = format_html("<li>{}</li>", request.GET["text"])
    send_stream(group, "append", target="own", html=html)
    return HttpResponse()


def apart(request: HttpRequest) -> HttpResponse:
    """Render a page without streams."""
    template = engines["django"].from_string(
        "{% load websockets %}<!doctype html><head>"
        '<script type="module" src="/streamed/script/turbo.js"></script>'
        "{% websocket_client %}</head><body><p id='number'>0</p></body>"
    )
    return HttpResponse(template.render({}, request))


def lines(request: HttpRequest, board: str) -> HttpResponse:
    """Render what the list of a page contains."""
    return HttpResponse(_items(_read(board)))


def signed(request: HttpRequest, name: str) -> HttpResponse:
    """Return the signed name of a group."""
    return HttpResponse(names.sign(Group(name), names.owner_of(request)))


def sockets(request: HttpRequest, board: str) -> JsonResponse:
    """Count the open sockets, and those that follow each group of a board."""
    groups = [f"{kind}.{board}" for kind in (*KINDS, *(f"more{index}" for index in range(4)))]
    members = {name: len(Group(name).members()) for name in groups}
    return JsonResponse({"open": len(registry.open_sockets), "members": members})


def script(request: HttpRequest, name: str) -> HttpResponse:
    """Return one of ``SCRIPTS``."""
    return HttpResponse(SCRIPTS[name].read_text(), content_type="text/javascript")


urlpatterns: list[Any] = [
    path("streamed/script/<name>.js", script),
    path("streamed/apart/", apart),
    path("streamed/greet/<user>/", greet),
    path("streamed/write/<board>/", write),
    path("streamed/lines/<board>/", lines),
    path("streamed/signed/<name>/", signed),
    path("streamed/sockets/<board>/", sockets),
    path("streamed/<kind>/<board>/<int:number>/", page),
]
websocket_urlpatterns = [path("streamed/", StreamView.as_view())]
