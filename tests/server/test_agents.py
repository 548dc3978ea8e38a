"""Context variables of monitoring agents; ``tests/compat/`` runs the real agents."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from types import ModuleType

import pytest

from django_wsmux.server.agents import owns


def test_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable is an agent's by its module, by the type of its value, or by its name."""
    module = ModuleType("newrelic.somewhere")
    variable: ContextVar[object] = ContextVar("transaction")
    vars(module)["_current"] = variable
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert owns(variable, 1)
    value = type("Span", (), {"__module__": "ddtrace.span"})()
    assert owns(ContextVar("any"), value)
    assert owns(ContextVar("last-seen"), 1)
    assert not owns(ContextVar("of_the_project"), 1)
