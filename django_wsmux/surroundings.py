"""What a view finds active beside its arguments, in each message of its socket.

Middleware sets it up around a request, and a socket outlives its request. So it is taken down when
the view accepts, and holds for every message:

* language, time zone and script prefix, by name: Django keeps them in ``asgiref.local.Local``,
  whose values are valid only in the greenlet that has set them;
* the values of other context variables that were set during the handshake. A whole copy of its
  context would keep alive what Django and agents have there: connections of caches, scopes;
* what the functions of ``WEBSOCKET_CONTEXT`` return, for all that is no context variable.

Each message runs in a copy of a prepared context, so what a view sets ends with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from contextvars import Context, ContextVar, copy_context
from functools import cache, lru_cache
from types import NoneType
from typing import Any, Final
from uuid import UUID
from weakref import WeakValueDictionary

from django.http import HttpRequest
from django.urls import get_script_prefix, set_script_prefix
from django.utils import timezone, translation

from . import conf

__all__ = ["Surroundings", "current", "handshake_context", "managed", "named"]

Manager = Callable[[], AbstractContextManager[object]]

_PREPARED = "_django_wsmux_surroundings"

_NOTHING: Final[dict[Any, Any]] = {}

#: Contexts that a greenlet keeps: users of more languages and time zones than that take turns.
_MOST: Final = 64

#: Agents: what they keep in context variables belongs to one request.
_AGENTS: Final = frozenset({"ddtrace", "elasticapm", "newrelic", "opentelemetry", "sentry_sdk"})

#: Names of their variables that are no globals of a module, and whose values do not tell.
_NAMES_OF_AGENTS: Final = frozenset({"elasticapm_spans_var", "last-seen"})

#: Names of variables that say nothing about a request: Django's, which go by name, and Python's.
_NAMES_OF_OTHERS: Final = frozenset({"asgiref.local", "decimal_context", "warnings_context"})

#: Types whose equal values are the same to everyone.
_PLAIN: Final = frozenset({bool, bytes, float, int, str, NoneType, UUID})


class Surroundings:
    """Language, time zone and script prefix, shared by all sockets with the same; see ``named()``.

    Args:
        script_prefix: where the site is mounted.
        time_zone: ``tzinfo``.
        language: language code; ``None`` for no translation.
    """

    __slots__ = ("_language", "_script_prefix", "_time_zone")

    def __init__(self, script_prefix: str, time_zone: Any, language: str | None) -> None:
        self._script_prefix = script_prefix
        self._time_zone = time_zone
        self._language = language

    def context(self, greenlet: object) -> Any:
        """Return a context, or what has its ``run()``, to run something in.

        Args:
            greenlet: the current one. What a context holds is valid in the greenlet that put it
                there (asgiref 3.11, ``local.py``), so each prepares its own.
        """
        prepared: dict[Surroundings, Context] = getattr(greenlet, _PREPARED, _NOTHING)
        context = prepared.get(self)
        if context is None:
            context = self._prepare(greenlet)
        return context.copy()

    def _prepare(self, greenlet: object) -> Context:
        prepared: dict[Surroundings, Context] | None = getattr(greenlet, _PREPARED, None)
        if prepared is None or len(prepared) >= _MOST:
            prepared = {}
            setattr(greenlet, _PREPARED, prepared)
        context = prepared[self] = Context()
        context.run(self._activate)
        return context

    def _activate(self) -> None:
        set_script_prefix(self._script_prefix)
        timezone.activate(self._time_zone)
        if self._language is None:
            translation.deactivate_all()
        else:
            translation.activate(self._language)


class _MoreSurroundings(Surroundings):
    """The same with values of context variables, and with context managers.

    Args:
        base: language, time zone and script prefix.
        values: variables with their values.
        managers: what returns the context managers to enter, the outermost first.
    """

    __slots__ = ("__weakref__", "_base", "_managers", "_values")

    def __init__(
        self,
        base: Surroundings,
        values: tuple[tuple[ContextVar[Any], Any], ...],
        managers: tuple[Manager, ...] = (),
    ) -> None:
        self._base = base
        self._values = values
        self._managers = managers

    def context(self, greenlet: object) -> Any:
        """Return what to run something in."""
        context = self._base.context(greenlet)
        for variable, value in self._values:
            context.run(variable.set, value)
        return _Entering(context, self._managers) if self._managers else context

    def with_managers(self, managers: tuple[Manager, ...]) -> Surroundings:
        """Return the same with these context managers."""
        return _MoreSurroundings(self._base, self._values, managers)


class _Entering:
    """A context in which context managers are entered around what runs.

    Attributes:
        plain: the context without them.
    """

    __slots__ = ("_managers", "plain")

    def __init__(self, context: Context, managers: tuple[Manager, ...]) -> None:
        self.plain = context
        self._managers = managers

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call the function, as ``Context.run()`` does."""
        return self.plain.run(self._run, function, args)

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        with ExitStack() as stack:
            for manager in self._managers:
                stack.enter_context(manager())
            return function(*args)


_shared = lru_cache(maxsize=256)(Surroundings)

# Those that are in use, by the values that they hold.
_in_use: Final[WeakValueDictionary[tuple[Any, ...], _MoreSurroundings]] = WeakValueDictionary()


def named() -> Surroundings:
    """Return the language, time zone and script prefix that are active now."""
    return _shared(get_script_prefix(), timezone.get_current_timezone(), translation.get_language())


def current() -> Surroundings:
    """Return what is active now, in a handshake that runs in its ``handshake_context()``."""
    base = named()
    values = tuple(_values())
    if not values:
        return base
    key = (base, *((variable, *_identity(value)) for variable, value in values))
    found = _in_use.get(key)
    if found is None:
        found = _in_use[key] = _MoreSurroundings(base, values)
    return found


def managed(request: HttpRequest, surroundings: Surroundings) -> Surroundings:
    """Add what the functions of ``WEBSOCKET_CONTEXT`` return for a request.

    Raises:
        TypeError: one of them has returned something else than a callable.
    """
    functions = conf.context_functions()
    if not functions:
        return surroundings
    managers = tuple(function(request) for function in functions)
    for function, manager in zip(functions, managers, strict=True):
        if not callable(manager):
            raise TypeError(
                f"{function!r} of WEBSOCKET_CONTEXT returned {manager!r}, not a callable that "
                f"returns a context manager"
            )
    if isinstance(surroundings, _MoreSurroundings):
        return surroundings.with_managers(managers)
    return _MoreSurroundings(surroundings, (), managers)


def handshake_context() -> Context:
    """Return a context to run a handshake in.

    It is empty but for what agents keep in the current one. A connection that is kept alive is one
    greenlet, whose context holds what earlier requests have left there.
    """
    context = Context()
    for variable, value in copy_context().items():
        if variable.name not in _NAMES_OF_OTHERS and _is_of_agent(variable, value):
            context.run(variable.set, value)
    return context


def _values() -> Iterator[tuple[ContextVar[Any], Any]]:
    """Yield the variables of the current context that the project or its middleware has set."""
    for variable, value in copy_context().items():
        if variable.name not in _NAMES_OF_OTHERS and not _is_of_agent(variable, value):
            yield variable, value


def _is_of_agent(variable: ContextVar[Any], value: object) -> bool:
    return _package(type(value)) in _AGENTS or _is_agents_own(variable)


def _package(kind: type) -> str:
    return str(kind.__module__).partition(".")[0]


@cache
def _is_agents_own(variable: ContextVar[Any]) -> bool:
    """Return whether a variable is a global of a module of an agent."""
    if variable.name in _NAMES_OF_AGENTS:
        return True
    return any(
        candidate is variable
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in _AGENTS
        for candidate in list(vars(module).values())
    )


def _identity(value: object) -> tuple[type, object]:
    """Return what two values share if one of them may stand for the other.

    Other objects are compared by identity: two that are equal may differ, such as instances of a
    model with the same key, and to compare them runs code of the project.
    """
    kind = type(value)
    return kind, value if kind in _PLAIN else id(value)
