"""Contexts of handshakes, each of which starts with the server's processing of the request.

All requests of a kept-alive connection run in one greenlet, whose context still has the variables
of earlier requests. In a new context, every variable belongs to this request, including those that
WSGI middleware sets around the dispatcher.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, TypeVar

from .agents import owns

__all__ = ["NAMES_OF_OTHERS", "mark", "new", "run"]

Result = TypeVar("Result")

#: Whether all variables of the current context belong to one request.
mark: Final = ContextVar("django_wsmux.own_context", default=False)

#: Names of variables to leave out: Django's, whose values are recorded by name, and Python's.
NAMES_OF_OTHERS: Final = frozenset(
    {"asgiref.local", "decimal_context", "warnings_context", mark.name}
)


def new() -> Context:
    """Return a context that contains only the variables of agents."""
    context = Context()
    for variable, value in copy_context().items():
        if variable.name not in NAMES_OF_OTHERS and owns(variable, value):
            context.run(variable.set, value)
    return context


def run(function: Callable[..., Result], *args: Any) -> Result:
    """Call the function in a new context."""
    context = new()
    context.run(mark.set, True)
    return context.run(function, *args)
