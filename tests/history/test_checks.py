"""The checks of histories."""

from __future__ import annotations

import subprocess
import sys

import pytest
from django.core.checks import run_checks
from django.test import override_settings

from django_wsmux.history.checks import messages
from tests.support import ROOT

KEEP = {"messages": 10, "seconds": 60}


def found(*, has_private_tmp: bool = False) -> list[tuple[str | None, str, str | None]]:
    """Return ids, messages and hints."""
    return [
        (each.id, str(each.msg), each.hint) for each in messages(has_private_tmp=has_private_tmp)
    ]


@pytest.mark.parametrize(
    "patterns",
    [
        ["room.vip.*", "room.*", "*"],
        ["*", "@user:*", "@session:*"],
        ["@user:7", "@user:*", "@*"],
        ["@[us]*"],
        ["@?ser:*"],
        ["room.1", "room.10", "room.?"],
        ["room.*.typing", "room.1.*"],
        ["room.[ab]*", "room.b*"],
    ],
    ids=str,
)
def test_useful_patterns(patterns: list[str]) -> None:
    """A pattern that may match a group that no pattern above it matches gets no message."""
    with override_settings(WEBSOCKET_HISTORY=dict.fromkeys(patterns, KEEP)):
        assert found() == []
        assert run_checks() == []


@pytest.mark.parametrize(
    ("patterns", "useless", "by"),
    [
        (["*", "room.*"], "room.*", "*"),
        (["room.*", "room.vip.*"], "room.vip.*", "room.*"),
        (["room.*", "price.*", "room.1"], "room.1", "room.*"),
        (["room.?", "room.1"], "room.1", "room.?"),
        (["@*", "@user:*"], "@user:*", "@*"),
    ],
    ids=str,
)
def test_shadowed(patterns: list[str], useless: str, by: str) -> None:
    """W023 names a pattern that has no effect, and the pattern that is above it."""
    with override_settings(WEBSOCKET_HISTORY=dict.fromkeys(patterns, KEEP)):
        ((number, text, _),) = found()
        assert [message.id for message in run_checks()] == [number]
    assert number == "django_wsmux.W023"
    assert text.startswith(f'WEBSOCKET_HISTORY: the pattern "{useless}" has no effect: "{by}" is')


@pytest.mark.parametrize("pattern", ["@users:*", "@room", "@user", "@user:", "@users*", "@room.*"])
def test_never(pattern: str) -> None:
    """W023 names a pattern for users or sessions that matches no name of theirs."""
    with override_settings(WEBSOCKET_HISTORY={pattern: KEEP}):
        ((number, text, hint),) = found()
    assert number == "django_wsmux.W023"
    assert text == f'WEBSOCKET_HISTORY: the pattern "{pattern}" matches no group.'
    assert hint is not None
    assert '"@user:*"' in hint


def test_no_store() -> None:
    """E025 asks for a store if the backend is the project's own."""
    with override_settings(
        WEBSOCKET_HISTORY={"*": KEEP}, WEBSOCKET_BACKEND="mysite.nats.NatsBackend://localhost"
    ):
        ((number, text, _),) = found()
        assert number == "django_wsmux.E025"
        assert text == "mysite.nats.NatsBackend:// cannot keep the history of groups."
        with override_settings(WEBSOCKET_HISTORY_STORE="redis://127.0.0.1"):
            assert found() == []


@pytest.mark.parametrize(
    ("backend", "store", "is_warned"),
    [
        ("local://", "", True),
        ("redis://127.0.0.1", "local://", True),
        ("local:///run/mysite", "", False),
        ("local://", "local:///run/mysite", False),
        ("redis://127.0.0.1", "", False),
    ],
)
def test_private_tmp(backend: str, store: str, is_warned: bool) -> None:
    """W024 warns of a file that is deleted with the service."""
    with override_settings(
        WEBSOCKET_HISTORY={"*": KEEP}, WEBSOCKET_BACKEND=backend, WEBSOCKET_HISTORY_STORE=store
    ):
        assert found() == []
        ids = [number for number, _, _ in found(has_private_tmp=True)]
    assert ids == ["django_wsmux.W024"] * is_warned


def test_no_history() -> None:
    """The checks of a project without history do not import it."""
    program = (
        "import django, sys; django.setup(); from django.core.checks import run_checks; "
        "print(run_checks(), 'django_wsmux.history.stores' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"DJANGO_SETTINGS_MODULE": "tests.project.settings"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "[] False\n", result.stderr
