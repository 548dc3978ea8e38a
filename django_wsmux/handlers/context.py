"""Language, time zone and context variables that are active while a view handles a message.

Middleware sets them for the length of a request, but a socket outlives its request. So they are
recorded when the view accepts the handshake, and set for every message:

* language, time zone, script prefix and URLconf, by name: Django keeps them in
  ``asgiref.local.Local``, whose values are valid only in the greenlet that has set them;
* the values of other context variables that were set during the handshake. A copy of its whole
  context would keep alive what Django and agents store there: connections of caches, scopes;
* the context managers of ``WEBSOCKET_CONTEXT``, for values kept outside of context variables.

Each message runs in a copy of a prepared context, so values that a view sets end with the message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from contextvars import Context, ContextVar, copy_context
from functools import lru_cache
from types import NoneType
from typing import Any, Final, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary
from zoneinfo import ZoneInfo

from django.conf import settings
from django.http import HttpRequest
from django.urls import get_script_prefix, get_urlconf, set_script_prefix, set_urlconf
from django.utils import timezone, translation
from greenlet import getcurrent

from .. import conf
from ..connection.turns import CONTEXTS
from ..protocol.events import CannotMove
from ..server import agents, own_context

__all__ = ["RequestContext", "current", "managed", "named", "restored"]

Manager = Callable[[], AbstractContextManager[object]]

Result = TypeVar("Result")

_NOTHING: Final[dict[Any, Any]] = {}

#: Maximum number of contexts that a greenlet keeps; beyond it, the greenlet starts over.
_MOST: Final = 64

#: Types whose equal values are interchangeable.
_PLAIN: Final = frozenset({bool, bytes, float, int, str, NoneType, UUID})


class RequestContext:
    """Language, time zone, script prefix and URLconf; sockets with equal values share one object.

    Args:
        script_prefix: where the site is mounted.
        time_zone: ``tzinfo``.
        language: language code; ``None`` for no translation.
        urlconf: for ``reverse()``; ``None`` for ``ROOT_URLCONF``.
        is_default: whether all four are what a new context has.
    """

    __slots__ = ("_language", "_script_prefix", "_time_zone", "_urlconf", "is_default")

    #: Whether it has more than these four, which is made from a request.
    has_values = False

    def __init__(
        self,
        script_prefix: str,
        time_zone: Any,
        language: str | None,
        urlconf: Any,
        is_default: bool = False,
    ) -> None:
        self.is_default = is_default
        self._script_prefix = script_prefix
        self._time_zone = time_zone
        self._language = language
        self._urlconf = urlconf

    def context(self, greenlet: object) -> Any:
        """Return a context, or an object with its ``run()``, to run code in.

        Args:
            greenlet: the current greenlet. Values in a context are valid only in the greenlet that
                set them (asgiref 3.11, ``local.py``), so each greenlet prepares its own.
        """
        if self.is_default:
            return Context()
        prepared: dict[RequestContext, Context] = getattr(greenlet, CONTEXTS, _NOTHING)
        context = prepared.get(self)
        if context is None:
            context = self._prepare(greenlet)
        return context.copy()

    def state(self) -> list[Any]:
        """Return language, time zone, script prefix and URLconf as values of JSON.

        Raises:
            CannotMove: the time zone or the URLconf is an object without a name.
        """
        zone, urlconf = getattr(self._time_zone, "key", None), self._urlconf
        if zone is None:
            raise CannotMove(f"its time zone {self._time_zone!r} has no name", is_final=True)
        if not (urlconf is None or isinstance(urlconf, str)):
            raise CannotMove(f"its URLconf {urlconf!r} has no name", is_final=True)
        return [self._script_prefix, zone, self._language, urlconf]

    def enter(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function with these values active, and return its result.

        For code that belongs to a socket but runs outside its view, such as reading its session.
        """
        result: Result = self.context(getcurrent()).run(function, *args)
        return result

    def _prepare(self, greenlet: object) -> Context:
        prepared: dict[RequestContext, Context] | None = getattr(greenlet, CONTEXTS, None)
        if prepared is None or len(prepared) >= _MOST:
            prepared = {}
            setattr(greenlet, CONTEXTS, prepared)
        context = prepared[self] = Context()
        context.run(self._activate)
        return context

    def _activate(self) -> None:
        set_script_prefix(self._script_prefix)
        timezone.activate(self._time_zone)
        if self._urlconf is not None:
            set_urlconf(self._urlconf)
        if self._language is None:
            translation.deactivate_all()
        else:
            translation.activate(self._language)


class _ExtendedContext(RequestContext):
    """A ``RequestContext`` with values of context variables and context managers.

    Args:
        base: language, time zone, script prefix and URLconf.
        values: variables with their values.
        managers: callables that return the context managers to enter, the outermost first.
    """

    __slots__ = ("__weakref__", "_base", "_managers", "_values")

    has_values = True

    def __init__(
        self,
        base: RequestContext,
        values: tuple[tuple[ContextVar[Any], Any], ...],
        managers: tuple[Manager, ...] = (),
    ) -> None:
        self.is_default = False
        self._base = base
        self._values = values
        self._managers = managers

    def context(self, greenlet: object) -> Any:
        """Return a context, or an object with its ``run()``, to run code in."""
        context = self._base.context(greenlet)
        for variable, value in self._values:
            context.run(variable.set, value)
        return _Entering(context, self._managers) if self._managers else context

    def state(self) -> list[Any]:
        """Return language, time zone, script prefix and URLconf as values of JSON."""
        return self._base.state()

    def with_managers(self, managers: tuple[Manager, ...]) -> RequestContext:
        """Return the same with these context managers."""
        return _ExtendedContext(self._base, self._values, managers)


class _Entering:
    """A context that enters context managers around the code that it runs.

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


_equal = lru_cache(maxsize=256)(RequestContext)

# The objects in use, by the values that they hold.
_in_use: Final[WeakValueDictionary[tuple[Any, ...], _ExtendedContext]] = WeakValueDictionary()


def _shared(script_prefix: str, zone: Any, language: str | None, urlconf: Any) -> RequestContext:
    """Return the ``RequestContext`` with these values; equal ones are one object."""
    is_default = (
        script_prefix == "/"
        and zone is timezone.get_default_timezone()
        and language == settings.LANGUAGE_CODE
        and urlconf is None
    )
    return _equal(script_prefix, zone, language, urlconf, is_default)


def named() -> RequestContext:
    """Return the language, time zone, script prefix and URLconf that are active now."""
    urlconf = get_urlconf()
    return _shared(
        get_script_prefix(),
        timezone.get_current_timezone(),
        translation.get_language(),
        None if urlconf == settings.ROOT_URLCONF else urlconf,
    )


@lru_cache(maxsize=256)
def restored(
    script_prefix: str, zone: str, language: str | None, urlconf: str | None
) -> RequestContext:
    """Return a context from the items of ``RequestContext.state()``."""
    return _shared(script_prefix, ZoneInfo(zone), language, urlconf)


def current() -> RequestContext:
    """Return all values that are active now, in a handshake that runs in its own context."""
    base = named()
    values = tuple(_values())
    if not values:
        return base
    key = (base, *((variable, *_identity(value)) for variable, value in values))
    found = _in_use.get(key)
    if found is None:
        found = _in_use[key] = _ExtendedContext(base, values)
    return found


def managed(request: HttpRequest, request_context: RequestContext) -> RequestContext:
    """Add what the functions of ``WEBSOCKET_CONTEXT`` return for a request.

    Raises:
        TypeError: one of them returned something other than a callable.
    """
    functions = conf.context_functions()
    if not functions:
        return request_context
    managers = tuple(function(request) for function in functions)
    for function, manager in zip(functions, managers, strict=True):
        if not callable(manager):
            raise TypeError(
                f"{function!r} of WEBSOCKET_CONTEXT returned {manager!r}, not a callable that "
                f"returns a context manager"
            )
    if isinstance(request_context, _ExtendedContext):
        return request_context.with_managers(managers)
    return _ExtendedContext(request_context, (), managers)


def _values() -> Iterator[tuple[ContextVar[Any], Any]]:
    """Yield the variables of the current context that the project or its middleware set."""
    for variable, value in copy_context().items():
        if variable.name not in own_context.NAMES_OF_OTHERS and not agents.owns(variable, value):
            yield variable, value


def _identity(value: object) -> tuple[type, object]:
    """Return a key that is equal for two values if they are interchangeable.

    Objects of other than plain types are compared by identity: two equal objects may differ, such
    as model instances with the same key, and comparing them runs code of the project.
    """
    kind = type(value)
    return kind, value if kind in _PLAIN else id(value)
