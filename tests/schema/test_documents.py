"""The documents: what the compiler and the validator make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.urls import path
from jsonschema import Draft202012Validator

from django_wsmux.schema.documents import json_schema, typescript
from django_wsmux.schema.views import find_views
from tests.client.nodes import type_check

from . import sockets

VIEWS = [view for view in find_views(sockets) if view.view_class is not sockets.Echo]

TYPESCRIPT = """\
// Made by manage.py websocketschema --format typescript. Do not edit.

/** tests.schema.sockets.Clock: /private/clock/ */
export type ClockSends = { [name: string]: any };

export interface ClockReceives {
  bye: {};
}

export interface ClockReplies {
}

/** tests.schema.sockets.Game: /game/, /game/<slug:room>/ */
export interface GameSends {
  say: { text: string; urgent?: boolean | null; color?: "" | "r" | "b" | null };
  move: { to: PointInput; via?: PointInput[] };
  "wait-here": {};
  look: {};
}

export interface GameReceives {
  moved: { to: Point; by: string | null; at: string };
  bye: {};
}

export interface GameReplies {
  say: { [name: string]: number };
  move: Point;
  "wait-here": null;
  look: null;
}

/** tests.schema.sockets.Inbox: /inbox/ */
export interface InboxSends {
  look: {};
}

export type InboxReceives = { [name: string]: any };

export interface InboxReplies {
  look: unknown;
}

export interface Point {
  x: number;
  y: number;
}

export interface PointInput {
  x: number;
  y?: number;
}
"""


def test_typescript() -> None:
    """The module is complete, and always the same."""
    assert typescript(VIEWS) == typescript(VIEWS) == TYPESCRIPT


RIGHT = """
import { connect } from "./client";
import type * as types from "./types";

const room = connect<types.GameSends, types.GameReceives, types.GameReplies>("/game/");
room.on("moved", (message) => {
  const x: number = message.to.x;
  const kind: "moved" = message.type;
  console.log(x, kind, message.by?.length);
});
room.on("message", (message) => {
  if (message.type === "moved") console.log(message.to.y);
});
room.send({ type: "say", text: "hi" });
room.send({ type: "move", to: { x: 1 }, via: [{ x: 1, y: 2 }] });
const to: types.Point = await room.request("move", { to: { x: 1, y: 2 } });
const { length } = await room.request("say", { text: "hi", color: "r", urgent: null });
const nothing: null = await room.request("look");
const queued: null = await room.request("wait-here", {}, { queue: true });
const clock = connect<types.ClockSends, types.ClockReceives>("/private/clock/");
clock.send({ type: "anything", at: "all" });
const inbox = connect<types.InboxSends, types.InboxReceives, types.InboxReplies>("/inbox/");
inbox.on("whatever", (message) => console.log(message.any.thing));
console.log(to, length, nothing, queued);
"""

#: A line that is wrong, and a part of the compiler's message.
WRONG = [
    ('room.send({ type: "say", txt: "hi" });', "txt"),
    ('room.send({ type: "say", text: 5 });', "number"),
    ('room.send({ type: "said", text: "hi" });', "not assignable"),
    ('room.send({ text: "hi" });', "type"),
    ('room.send({ type: "say", text: "hi", color: "green" });', "green"),
    ('room.send({ type: "move", to: {} });', "x"),
    ('await room.request("mov", { to: { x: 1 } });', "mov"),
    ('await room.request("move", { to: { x: "1" } });', "string"),
    ('await room.request("move", { to: { x: 1 }, fast: true });', "fast"),
    ('await room.request("move");', "arguments"),
    ('const wrong: string = await room.request("move", { to: { x: 1 } });', "string"),
    ('(await room.request("move", { to: { x: 1 } })).z;', "z"),
    ('const some: number = await room.request("look");', "null"),
    ('room.on("movd", () => {});', "movd"),
    ('room.on("moved", (message) => message.text);', "text"),
    ('room.on("moved", (message) => message.by.length);', "null"),
]


def test_compiler(tmp_path: Path) -> None:
    """``tsc --strict`` accepts right code and refuses each wrong line."""
    (tmp_path / "types.ts").write_text(TYPESCRIPT)
    (tmp_path / "right.ts").write_text(RIGHT)
    head = RIGHT.partition("room.on")[0]
    for number, (line, _) in enumerate(WRONG):
        (tmp_path / f"wrong{number}.ts").write_text(f"{head}{line}\n")
    errors = type_check(tmp_path, code=1)
    # One message may take several lines.
    found: dict[str, str] = {}
    name = ""
    for line in errors.splitlines():
        name = line.partition("(")[0] if line.startswith(("wrong", "right")) else name
        found[name] = found.get(name, "") + line
    assert found.keys() == {f"wrong{number}.ts" for number in range(len(WRONG))}, errors
    for number, (line, part) in enumerate(WRONG):
        assert part in found[f"wrong{number}.ts"], line


def check(document: Any, name: str, value: Any) -> bool:
    """Return whether a part of a document accepts a value."""
    schema = {"$ref": f"#/$defs/{name}", "$defs": document["$defs"]}
    return bool(Draft202012Validator(schema).is_valid(value))


def test_json_schema() -> None:
    """The document is a valid schema, and always the same."""
    text = json_schema(VIEWS)
    assert text == json_schema(VIEWS)
    document = json.loads(text)
    Draft202012Validator.check_schema(document)
    assert list(document["$defs"]) == [
        *("ClockSends", "ClockReceives", "ClockReplies"),
        *("GameSends", "GameReceives", "GameReplies"),
        *("InboxSends", "InboxReceives", "InboxReplies"),
        *("Point", "PointInput", "Json"),
    ]
    say = {"type": "say", "text": "hi"}
    assert check(document, "GameSends", say)
    assert check(document, "GameSends", {**say, "ref": "a-1", "urgent": True})
    for wrong in ({"ref": "a" * 65}, {"ref": 1.5}, {"type": "sa"}, {"text": ""}, {"more": 1}):
        assert not check(document, "GameSends", {**say, **wrong}), wrong
    moved = {"type": "moved", "to": {"x": 1, "y": 2}, "by": None, "at": "2026-05-01T12:00:00Z"}
    assert check(document, "GameReceives", moved)
    assert not check(document, "GameReceives", {**moved, "to": {"x": 1}})
    assert check(document, "ClockSends", {"type": "anything"})
    replies = {"say": {"length": 2}, "move": {"x": 1, "y": 2}, "wait-here": None, "look": None}
    assert check(document, "GameReplies", replies)


def test_nothing() -> None:
    """A view may send nothing, and a project may have no view."""
    (game,) = find_views((path("a/", sockets.Game.as_view(sends={})),))
    document = json.loads(json_schema([game]))
    assert not check(document, "GameReceives", {"type": "moved"})
    assert typescript([]).startswith("// Made by")
    assert list(json.loads(json_schema([]))["$defs"]) == ["Json"]
