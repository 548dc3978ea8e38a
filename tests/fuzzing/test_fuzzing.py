"""The harnesses with their seeds and some thousand random inputs, without atheris."""

from __future__ import annotations

import re
import zlib
from importlib import import_module
from typing import Any

import pytest
from websockets.frames import apply_mask  # type: ignore[attr-defined]

from django_wsmux.protocol import codec, deflate, frames, handshake, origin
from django_wsmux.protocol.assembler import PartialMessage
from django_wsmux.protocol.codec import Codec
from django_wsmux.protocol.events import Closed

from .seeds import HARNESSES, inputs

#: Random inputs for each harness: a few seconds in all.
NUMBER = {"codec": 1000, "differential": 2000, "handshake": 4000, "reactor": 1000}


def run(name: str) -> None:
    """Run a harness with its inputs."""
    check = import_module(f"tests.fuzzing.fuzz_{name}").check
    for data in inputs(name, NUMBER[name]):
        try:
            check(data)
        except BaseException as error:
            error.add_note(f"input: {data!r}")
            raise


@pytest.mark.parametrize("name", HARNESSES)
def test_no_finding(name: str) -> None:
    """No input makes the package break a promise."""
    run(name)


def replace_bad_text(data: bytes, start: int, stop: int, text: bool) -> str | bytes:
    """Replace the check of UTF-8."""
    payload: bytes = apply_mask(data[start:stop], data[start - 4 : start])
    return payload.decode(errors="replace") if text else payload


def take_any_close(payload: bytes) -> Closed:
    """Replace the check of close codes."""
    return Closed(int.from_bytes(payload[:2], "big"), "")


def lose_the_mask(self: Codec, data: bytes, start: int, end: int, messages: Any) -> None:
    """Replace the reading of a piece of text: the mask is not rotated."""
    payload = apply_mask(data[start:end], self._mask)
    self._rest -= end - start
    self._add(payload, self._is_final and not self._rest, messages)


def inflate_all(self: PartialMessage, inflater: Any, payload: bytes, final: bool) -> bytes:
    """Replace limited inflating."""
    try:
        inflated: bytes = inflater.decompress(payload + deflate.TAIL if final else payload)
    except zlib.error:
        return b""
    return inflated


def stop_parsing_only(self: Codec) -> None:
    """Replace the end of a connection: data is kept."""
    self._finished = True


def filled_but_the_last(self: Codec, size: int, messages: Any) -> Any:
    """Replace the reading of a large frame into its own buffer: one byte short."""
    assert self.large is not None
    self._filled += size
    if self._filled < self._needed - 1:
        return []
    data, self.large = self.large, None
    return self.receive(data, messages)


always_next = property(lambda self: 2**20, lambda self, value: None)
"""Replaces the largest single frame: a message may begin anywhere, and be of any size."""

Mistake = tuple[str, Any, str, object]

MISTAKES: list[Mistake] = [
    ("codec", codec, "unmask", replace_bad_text),
    ("codec", codec, "parse_close", take_any_close),
    ("codec", Codec, "_receive_piece", lose_the_mask),
    ("codec", Codec, "buffer_updated", filled_but_the_last),
    ("codec", Codec, "_finish", stop_parsing_only),
    ("codec", Codec, "_check_size", lambda self, *lengths: None),
    ("codec", PartialMessage, "_inflate", inflate_all),
    ("differential", codec, "unmask", replace_bad_text),
    ("differential", frames, "is_valid_close_code", lambda code: True),
    ("differential", Codec, "_check_size", lambda self, *lengths: None),
    ("differential", PartialMessage, "_inflate", inflate_all),
    ("differential", deflate, "RSV1", 0),
    ("reactor", Codec, "max_single_frame", always_next),
    ("reactor", Codec, "buffer_updated", filled_but_the_last),
    ("handshake", handshake, "_is_key", lambda key: True),
    ("handshake", handshake, "_tokens", lambda value: [value]),
    ("handshake", origin, "_ORIGIN", re.compile(r"(?s).*")),
    ("handshake", deflate, "build_extension", lambda parts: "permessage-deflate"),
    ("handshake", handshake, "_NOT_ON_101", frozenset()),
]


@pytest.mark.parametrize(
    ("name", "where", "what", "mistake"),
    MISTAKES,
    ids=[f"{name}-{what.strip('_')}" for name, _, what, _ in MISTAKES],
)
def test_finds(
    monkeypatch: pytest.MonkeyPatch, name: str, where: object, what: str, mistake: object
) -> None:
    """Each harness finds mistakes of its kinds."""
    monkeypatch.setattr(where, what, mistake)
    with pytest.raises(AssertionError):
        run(name)
