"""Context variables of monitoring agents, whose values belong to one request."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from functools import cache
from typing import Final

__all__ = ["owns"]

#: Packages.
_AGENTS: Final = frozenset(
    {
        "bugsnag",
        "ddtrace",
        "elasticapm",
        "honeybadger",
        "newrelic",
        "opentelemetry",
        "rollbar",
        "scout_apm",
        "sentry_sdk",
    }
)

#: Names of their variables that neither a module nor the type of the value identifies.
_NAMES: Final = frozenset(
    {
        "elasticapm_spans_var",
        "honeybadger_error_context",
        "honeybadger_event_context",
        "last-seen",
    }
)


def owns(variable: ContextVar[object], value: object) -> bool:
    """Return whether an agent has set a variable to this value."""
    return _package(type(value)) in _AGENTS or _is_agents_own(variable)


def _package(kind: type) -> str:
    return str(kind.__module__).partition(".")[0]


@cache
def _is_agents_own(variable: ContextVar[object]) -> bool:
    """Return whether a variable is a global variable of an agent's module."""
    if variable.name in _NAMES:
        return True
    return any(
        candidate is variable
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in _AGENTS
        for candidate in list(vars(module).values())
    )
