"""Which implementation serves the sockets, and what the package says about it."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

from django_wsmux.connection import link
from tests.support import ROOT

#: Prints what a process finds that has run a line of code before.
PROGRAM = """
import sys
{}
from django_wsmux.connection.link import WHY_NOT, in_words, is_compiled
print(is_compiled, in_words(), WHY_NOT, sep="|")
"""


def found(before: str, cwd: Path = ROOT) -> list[str]:
    """Return ``is_compiled``, ``in_words()`` and ``WHY_NOT`` of another process."""
    output = subprocess.check_output(
        [sys.executable, "-c", PROGRAM.format(before)], cwd=cwd, text=True
    )
    return output.rstrip("\n").split("|")


def test_compiled() -> None:
    """An extension that has been built is in use."""
    pytest.importorskip(
        "django_wsmux.connection._reactor",
        reason="there was no compiler when the package was installed",
    )
    assert link.is_compiled
    assert link.WHY_NOT == ""
    assert link.in_words() == "C"
    assert found("") == ["True", "C", ""]


def test_not_compiled() -> None:
    """Without the extension, Python code serves the sockets."""
    why = "it was not compiled when the package was installed"
    expected = ["False", f"Python, since {why}", why]
    assert found("sys.modules['django_wsmux.connection._reactor'] = None") == expected


def test_wrong_greenlet() -> None:
    """The extension refuses a greenlet without the interface in C, and the reason is known."""
    pytest.importorskip(
        "django_wsmux.connection._reactor",
        reason="there was no compiler when the package was installed",
    )
    before = "from types import ModuleType; sys.modules['greenlet'] = ModuleType('greenlet')"
    is_compiled, words, why = found(before)
    assert is_compiled == "False"
    assert why == (
        "it cannot be loaded: greenlet's C interface cannot be used: "
        "module 'greenlet' has no attribute '_C_API'"
    )
    assert words == f"Python, since {why}"


def test_broken_file(tmp_path: Path) -> None:
    """A file that cannot be loaded does not stop the package."""
    package = tmp_path / "django_wsmux" / "connection"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "link.py").write_bytes(Path(link.__file__).read_bytes())
    (package / f"_reactor{EXTENSION_SUFFIXES[0]}").write_text("no program")
    is_compiled, words, why = found("", tmp_path)
    assert (is_compiled, words) == ("False", f"Python, since {why}")
    assert why.startswith("it cannot be loaded: ")


#: All members, with values other than those of a new connection.
MEMBERS = {
    **dict.fromkeys(("codec", "hooks", "options", "_transport", "_framing", "_inbox"), "x"),
    **dict.fromkeys(("_held", "_readiness", "_waiter"), "x"),
    **dict.fromkeys(("_messages_in", "_bytes_in", "_messages_out", "_bytes_out"), 2**40),
    **dict.fromkeys(("_owed", "_given"), 2**40),
    **dict.fromkeys(("_descriptor", "_direct"), 7),
    "_state": 1,
    "_is_alive": False,
    **dict.fromkeys(("_is_busy", "is_event_driven", "_is_intercepting"), True),
    **dict.fromkeys(("_is_paused", "_is_watched"), True),
}


@pytest.mark.parametrize("kind", [link.Link, link._Link], ids=["in use", "Python"])
def test_members(kind: type[Any]) -> None:
    """All members have a default or must be set, and keep what they are set to."""
    one = kind()
    assert (one._state, one._direct, one._descriptor, one._is_alive) == (0, -1, -1, True)
    assert one._inbox is one._held is one._readiness is one._waiter is None
    assert one._messages_in == one._bytes_in == one._messages_out == one._bytes_out == 0
    assert one._owed == one._given == 0
    assert not any((one._is_busy, one.is_event_driven, one._is_paused, one._is_watched))
    for name, value in MEMBERS.items():
        setattr(one, name, value)
        assert getattr(one, name) == value
    assert set(link._Link.__slots__) == set(MEMBERS)
    with pytest.raises(AttributeError):
        one.other = 1
