"""The place of an error in one line, without its text."""

from __future__ import annotations

from collections.abc import Callable

from django_wsmux.handlers.tracebacks import raised_at


def described(function: Callable[[], object]) -> str:
    """Return the line for the error that a function raises."""
    try:
        function()
    except Exception as error:
        return raised_at(error)
    raise AssertionError


def deep(calls: int) -> int:
    """Raise an error after this number of calls."""
    return deep(calls - 1) if calls else int("secret")


def test_lines() -> None:
    """The line shows type and file, at most five calls, and no text of the error."""
    line = described(lambda: deep(0))
    assert line.startswith("ValueError in test_tracebacks.py:")
    assert line.count(" > ") == 1
    assert described(lambda: deep(20)).count(" > ") == 4
    assert "secret" not in line


def test_no_call() -> None:
    """A call that fails before the function runs has no lines."""
    assert described(deep) == "TypeError in the call itself"  # type: ignore[arg-type]
