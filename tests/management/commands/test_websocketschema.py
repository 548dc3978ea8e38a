"""``manage.py websocketschema``: what it writes, and what it refuses."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.urls import clear_url_caches, path

from tests.schema import sockets
from tests.schema.test_documents import TYPESCRIPT
from tests.schema.test_views import Broken


@pytest.fixture(autouse=True)
def urlconf(settings: Any) -> None:
    """Use views that declare their messages."""
    settings.WEBSOCKET_URLCONF = "tests.schema.sockets"


def output(*arguments: str) -> str:
    """Run the command; return what it writes."""
    stream = StringIO()
    call_command("websocketschema", *arguments, stdout=stream)
    return stream.getvalue()


def test_all() -> None:
    """By default the types of all views are written, in TypeScript."""
    assert output() == output("--format", "typescript") == TYPESCRIPT


def test_json_schema() -> None:
    """With ``--format jsonschema`` they are a JSON Schema."""
    assert "GameSends" in json.loads(output("--format", "jsonschema"))["$defs"]


@pytest.mark.parametrize("word", ["game", "Game", "tests.schema.sockets.Game", "any-game"])
def test_one_view(word: str) -> None:
    """A view is selected by the name of a pattern, its name or its dotted path."""
    text = output(word)
    assert "export interface GameSends" in text
    assert "Clock" not in text
    assert "export interface ClockReceives" in output(word, "me:clock")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gam", "no class-based view of WEBSOCKET_URLCONF is called 'gam'; .*: Clock, Game, Inbox"),
        ("function", "no class-based view"),
        ("echo", "echo declares neither forms nor sends"),
    ],
)
def test_unknown_view(word: str, message: str) -> None:
    """A view that cannot be described is an error."""
    with pytest.raises(CommandError, match=message):
        output(word)


def test_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hint that is not supported is an error of the command."""
    patterns = [*sockets.urlpatterns, path("broken/", Broken.as_view())]
    monkeypatch.setattr(sockets, "urlpatterns", patterns)
    clear_url_caches()
    with pytest.raises(CommandError, match=r"Broken.a_valid\(\): the type hint set\[int\]"):
        output()
    clear_url_caches()
