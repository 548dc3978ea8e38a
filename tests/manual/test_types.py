"""The examples of ``docs/types.rst``: the view, its types, and the client that uses them."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.management import call_command

from django_wsmux.test import WebSocketClient
from tests.client.nodes import type_check
from tests.manual import blocks
from tests.support import ROOT

PAGE = ROOT / "docs" / "types.rst"

#: The blocks of the page.
(VIEW,) = (each.text for each in blocks(PAGE) if each.language == "python")
TYPES, CLIENT_CODE = (each.text for each in blocks(PAGE) if each.language == "typescript")
TEXT = PAGE.read_text()


@pytest.fixture(autouse=True)
def sockets(settings: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the page."""
    module = ModuleType("game.sockets")
    monkeypatch.setitem(sys.modules, "game.sockets", module)
    exec(VIEW, vars(module))
    settings.WEBSOCKET_URLCONF = module
    settings.WEBSOCKET_BACKEND = "memory://"
    return module


def test_view() -> None:
    """Messages of both kinds are handled; requests are answered; errors have paths."""
    with WebSocketClient().websocket("/game/") as ws:
        ws.send_json({"type": "say", "text": "hi"})
        said = ws.receive_json()
        assert (said["type"], said["by"], said["text"]) == ("said", "ann", "hi")
        assert ws.request("move", piece="rook", to={"x": 1}) == {"x": 1, "y": 0}
        moved = {"type": "moved", "piece": "rook", "to": {"x": 1, "y": 0}}
        assert ws.receive_json() == moved
        ws.send_json({"type": "move", "piece": "rook", "to": {"x": "a"}})
        assert json.dumps(ws.receive_json()) in TEXT


def test_types() -> None:
    """The command writes what the page shows."""
    stream = StringIO()
    call_command("websocketschema", "game", stdout=stream)
    assert stream.getvalue() == f"{TYPES}\n"


def test_client(tmp_path: Path) -> None:
    """The compiler accepts the client's code."""
    (tmp_path / "messages.ts").write_text(TYPES)
    (tmp_path / "page.ts").write_text(CLIENT_CODE)
    assert type_check(tmp_path, paths={"django-wsmux": ["./client.d.ts"]}) == ""


def test_assertion(sockets: Any) -> None:
    """The error of a test is the one that the page shows."""
    del sockets.Point.__dataclass_fields__["y"]
    with WebSocketClient().websocket("/game/") as ws, pytest.raises(AssertionError) as raised:
        ws.send_json({"type": "move", "piece": "rook", "to": {"x": 1}})
    assert " ".join(str(raised.value).split()) in " ".join(TEXT.split())
