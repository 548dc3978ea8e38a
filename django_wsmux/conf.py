"""The settings of this package; all other modules read them here.

A value is looked up on its first use, and again after a setting has changed, so
``override_settings`` works. ``manage.py check`` and the start of the server check each value by the
same rule.
"""

from __future__ import annotations

import json
import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from .backends import from_url
from .protocol import origin
from .protocol.deflate import Compression
from .protocol.options import Options

__all__ = [
    "NO_CONTROLS",
    "RAISED_IN",
    "SETTINGS",
    "Setting",
    "context_functions",
    "get",
    "group_prefix",
    "has_history",
    "has_limits",
    "json_encoder",
    "options",
    "prefix_function",
    "problems",
    "require_valid",
    "unknown",
]

#: Characters of group names and prefixes: no control characters, no lone surrogates.
NO_CONTROLS: Final = r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]"

_PREFIX: Final = re.compile(rf"{NO_CONTROLS}{{0,200}}")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        name: name in the project's settings module.
        default: value if the project does not set it.
        problem: returns what is wrong with a value, or ``None``.
    """

    name: str
    default: Any
    problem: Callable[[Any], str | None]


#: In the message of a problem, if a module of the project raises when it is imported.
RAISED_IN: Final = " (raised in "


def _told(error: Exception) -> str:
    """Return the text of an error that an import raised, with the project's line that raised it."""
    told = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_of_library(frame.filename)]
    return f"{told}{RAISED_IN}{own[-1].filename}, line {own[-1].lineno})" if own else told


def _is_of_library(filename: str) -> bool:
    places = (os.path.dirname(__file__), *sysconfig.get_paths().values())
    return filename.startswith(("<frozen ", *places))


def _urlconf_problem(value: Any) -> str | None:
    if value is None:
        return 'is not set: name the module of your WebSocket URLs, such as "mysite.websocket_urls"'
    if not isinstance(value, (str, ModuleType)):
        return f"must be the dotted path of a module, not {value!r}"
    try:
        module = import_module(value) if isinstance(value, str) else value
    except Exception as error:
        return f"{value!r} cannot be imported: {_told(error)}"
    if not isinstance(getattr(module, "urlpatterns", None), (list, tuple)):
        return f"{value!r} has no list named urlpatterns"
    return None


def _number_problem(
    minimum: float, kind: type[int] | tuple[type[int], type[float]], unit: str
) -> Callable[[Any], str | None]:
    def problem(value: Any) -> str | None:
        if isinstance(value, kind) and not isinstance(value, bool) and value >= minimum:
            return None
        return f"must be a number of {unit}, {minimum} or more, not {value!r}"

    return problem


def _server_problem(value: Any) -> str | None:
    if not isinstance(value, str):
        return f'must be a string such as "wss://ws.example.com", not {value!r}'
    scheme, separator, rest = value.partition("://")
    if separator and (scheme not in ("ws", "wss") or not rest):
        return f'must start with "ws://" or "wss://", or name just host and port, not {value!r}'
    return None


def _origins_problem(value: Any) -> str | None:
    if not isinstance(value, (list, tuple)):
        return f'must be a list of origins such as "https://example.com", not {value!r}'
    found = [(pattern, origin.problem(pattern)) for pattern in value]
    wrong = [f"{pattern!r} {problem}" for pattern, problem in found if problem]
    return f"has entries that match no origin: {'; '.join(wrong)}" if wrong else None


def _backend_problem(value: Any) -> str | None:
    if not isinstance(value, str):
        return f'must be a URL such as "local://" or "redis://127.0.0.1:6379/0", not {value!r}'
    if value == "memory://":
        return None
    try:
        from_url(value)
    except ValueError as error:
        return f"cannot be used: {error}"
    return None


def _import_problem(value: Any, example: str) -> str | None:
    """Return why a dotted path cannot be imported."""
    if not isinstance(value, str):
        return f'must be a dotted path such as "{example}", not {value!r}'
    try:
        import_string(value)
    except Exception as error:
        return f"{value!r} cannot be imported: {_told(error)}"
    return None


def _prefix_problem(value: Any) -> str | None:
    if value is None:
        return None
    problem = _import_problem(value, "mysite.tenants.group_prefix")
    if problem is None and not callable(import_string(value)):
        return f"{value!r} is not a callable that returns the prefix"
    return problem


def _encoder_problem(value: Any) -> str | None:
    problem = _import_problem(value, "mysite.encoders.Encoder")
    if problem is not None:
        return problem
    encoder = import_string(value)
    if not isinstance(encoder, type) or not issubclass(encoder, json.JSONEncoder):
        return f"{value!r} is not a subclass of json.JSONEncoder"
    return None


def _namespace_problem(value: Any) -> str | None:
    if isinstance(value, str) and len(value) <= 100 and (not value or value.isprintable()):
        return None
    return f'must be a name of at most 100 characters, such as "mysite", not {value!r}'


def _cache_problem(value: Any) -> str | None:
    if isinstance(value, str) and value in settings.CACHES:
        return None
    return f"must be one of CACHES, {', '.join(map(repr, settings.CACHES))}, not {value!r}"


def _context_problem(value: Any) -> str | None:
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        return f"must be a list of dotted paths of functions, not {value!r}"
    for path in value:
        try:
            function = import_string(path)
        except Exception as error:
            return f"{path!r} cannot be imported: {_told(error)}"
        if not callable(function):
            return f"{path!r} is not a function, but {function!r}"
    return None


def _slow_client_problem(value: Any) -> str | None:
    return None if value in ("close", "drop") else f'must be "close" or "drop", not {value!r}'


def _refusals_problem(value: Any) -> str | None:
    return None if value in ("http", "close") else f'must be "http" or "close", not {value!r}'


def _flag_problem(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"must be True or False, not {value!r}"


def _tracing_problem(value: Any) -> str | None:
    if value is not True:
        return _flag_problem(value)
    # The other packages of OpenTelemetry share the first part of the name.
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.trace") is None:
        return 'is True, but opentelemetry-api is missing: pip install "django-wsmux[otel]"'
    return None


_COMPRESSION_RANGES = {"threshold": (0, 2**31), "level": (1, 9), "window_bits": (9, 15)}


def _compression_problem(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    if not isinstance(value, dict):
        return f"must be True, False or a dict of options, not {value!r}"
    for name, option in value.items():
        if name == "context_takeover":
            if not isinstance(option, bool):
                return f"has context_takeover {option!r}: it must be True or False"
        elif name not in _COMPRESSION_RANGES:
            known = ", ".join([*_COMPRESSION_RANGES, "context_takeover"])
            return f"has an unknown option {name!r}: the options are {known}"
        else:
            low, high = _COMPRESSION_RANGES[name]
            if type(option) is not int or not low <= option <= high:
                return f"has {name} {option!r}: it must be a whole number from {low} to {high}"
    return None


# Sample values for a line of the access log; see access_log.py.
_ATOMS: Final = {
    **dict.fromkeys(("h", "l", "u", "t", "r", "m", "U", "f", "a", "L", "p", "reason"), ""),
    **dict.fromkeys(("s", "b", "messages_in", "bytes_in", "messages_out", "bytes_out"), 0),
}


def _access_log_problem(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return f"must be a string or None, not {value!r}"
    try:
        value % _ATOMS
    except (KeyError, TypeError, ValueError) as error:
        known = ", ".join(_ATOMS)
        return f"cannot be used: {type(error).__name__}: {error}; the names in %(name)s are {known}"
    return None


_count = _number_problem(1, int, "messages")
_greenlets = _number_problem(1, int, "greenlets")
_fragments = _number_problem(1, int, "fragments")
_bytes = _number_problem(1, int, "bytes")
_seconds = _number_problem(0, (int, float), "seconds")
_some_seconds = _number_problem(0.1, (int, float), "seconds")


def _optional(problem: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    return lambda value: None if value is None else problem(value)


_HISTORY_LIMITS: Final[dict[str, tuple[type, ...]]] = {
    "messages": (int,),
    "seconds": (int, float),
    "bytes": (int,),
}

# Stores count microseconds and bytes in 64 bits.
_MAX_HISTORY_LIMIT: Final = 10**9


def _history_problem(value: Any) -> str | None:
    if not isinstance(value, dict):
        return f"must be a dict of patterns, not {value!r}"
    for pattern, keep in value.items():
        if not isinstance(pattern, str) or not pattern:
            return f'has the key {pattern!r}: it must be a pattern such as "room.*"'
        if not isinstance(keep, dict) or not {"messages", "seconds"} <= keep.keys():
            return (
                f'needs limits such as {{"messages": 200, "seconds": 600}} for {pattern!r}, '
                f"not {keep!r}"
            )
        for name, limit in keep.items():
            kind = _HISTORY_LIMITS.get(name)
            if kind is None:
                return f"has an unknown limit {name!r} for {pattern!r}: they are " + ", ".join(
                    _HISTORY_LIMITS
                )
            if type(limit) not in kind or not 0 < limit <= _MAX_HISTORY_LIMIT:
                number = "number" if float in kind else "whole number"
                return (
                    f"has {name} {limit!r} for {pattern!r}: it must be a {number} above 0, at "
                    f"most {_MAX_HISTORY_LIMIT}"
                )
    return None


def _store_problem(value: Any) -> str | None:
    return None if value == "" else _backend_problem(value)


_sockets = _optional(_number_problem(1, int, "sockets"))
_proxies = _number_problem(0, int, "proxies")


_default = Options()

#: All settings by name.
SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("WEBSOCKET_URLCONF", None, _urlconf_problem),
        Setting("WEBSOCKET_SERVER", "", _server_problem),
        Setting("WEBSOCKET_ALLOWED_ORIGINS", (), _origins_problem),
        Setting("WEBSOCKET_REQUIRE_ORIGIN", False, _flag_problem),
        Setting("WEBSOCKET_REFUSALS", "http", _refusals_problem),
        Setting("WEBSOCKET_BACKEND", "local://", _backend_problem),
        Setting("WEBSOCKET_HISTORY", {}, _history_problem),
        Setting("WEBSOCKET_HISTORY_STORE", "", _store_problem),
        Setting("WEBSOCKET_HISTORY_BYTES", 256 * 2**20, _bytes),
        Setting("WEBSOCKET_HISTORY_LIMIT", 500, _count),
        Setting("WEBSOCKET_OUTBOX", False, _flag_problem),
        Setting("WEBSOCKET_GROUP_PREFIX", None, _prefix_problem),
        Setting("WEBSOCKET_NAMESPACE", "", _namespace_problem),
        Setting("WEBSOCKET_CLOSE_SIGNED_OUT", True, _flag_problem),
        Setting("WEBSOCKET_TICKET_SECONDS", 30, _some_seconds),
        Setting("WEBSOCKET_TICKET_CACHE", "default", _cache_problem),
        Setting("WEBSOCKET_TOKEN_TIMEOUT", 10.0, _some_seconds),
        Setting("WEBSOCKET_COMPRESSION", False, _compression_problem),
        Setting("WEBSOCKET_MAX_MESSAGE_SIZE", _default.max_message_size, _bytes),
        Setting("WEBSOCKET_MAX_FRAME_SIZE", _default.max_frame_size, _optional(_bytes)),
        Setting("WEBSOCKET_MAX_FRAGMENTS", _default.max_fragments, _fragments),
        Setting("WEBSOCKET_MAX_UNREAD_MESSAGES", _default.max_unread_messages, _count),
        Setting("WEBSOCKET_MAX_UNREAD_BYTES", _default.max_unread_bytes, _bytes),
        Setting("WEBSOCKET_MAX_UNSENT_BYTES", _default.max_unsent_bytes, _bytes),
        Setting("WEBSOCKET_SLOW_CLIENT", "close", _slow_client_problem),
        Setting("WEBSOCKET_CLOSE_TIMEOUT", _default.close_timeout, _seconds),
        Setting("WEBSOCKET_SEND_TIMEOUT", _default.send_timeout, _seconds),
        Setting("WEBSOCKET_HANDSHAKE_TIMEOUT", _default.handshake_timeout, _seconds),
        Setting("WEBSOCKET_CONTEXT", (), _context_problem),
        Setting("WEBSOCKET_ACCESS_LOG_FORMAT", None, _access_log_problem),
        Setting("WEBSOCKET_TRACING", False, _tracing_problem),
        Setting("WEBSOCKET_DRAIN_SECONDS", 5.0, _seconds),
        Setting("WEBSOCKET_BLOCKED_WARNING", _default.blocked_warning, _seconds),
        Setting("WEBSOCKET_HANDLER_GREENLETS", _default.handler_greenlets, _greenlets),
        Setting("WEBSOCKET_PING_INTERVAL", _default.ping_interval, _seconds),
        Setting("WEBSOCKET_PING_TIMEOUT", _default.ping_timeout, _seconds),
        Setting(
            "WEBSOCKET_JSON_ENCODER",
            "django.core.serializers.json.DjangoJSONEncoder",
            _encoder_problem,
        ),
        Setting("WEBSOCKET_MAX_SOCKETS", None, _sockets),
        Setting("WEBSOCKET_MAX_SOCKETS_PER_ADDRESS", None, _sockets),
        Setting("WEBSOCKET_MAX_SOCKETS_PER_USER", None, _sockets),
        Setting("WEBSOCKET_TRUSTED_PROXIES", 0, _proxies),
        Setting("WEBSOCKET_MAX_MESSAGES_PER_SECOND", None, _optional(_count)),
    )
}


#: Prefix of all names.
_START: Final = "WEBSOCKET_"


def unknown() -> Iterator[tuple[str, list[str]]]:
    """Yield each setting of the project that resembles one of ours, with the likely names.

    A name that resembles none of ours is the project's own.
    """
    for name in dir(settings):
        if not name.isupper() or name in SETTINGS:
            continue
        if name.startswith(_START):
            # All names have this prefix, so compare the rest.
            rest = name.removeprefix(_START)
            known = [each.removeprefix(_START) for each in SETTINGS]
            words = set(rest.split("_"))
            meant = [each for each in known if words <= set(each.split("_"))] or get_close_matches(
                rest, known
            )
            meant = [_START + each for each in meant]
        else:
            meant = get_close_matches(name, SETTINGS, cutoff=0.85)
        if meant:
            yield name, meant


@cache
def get(name: str) -> Any:
    """Return the value of one of ``SETTINGS``, or its default."""
    return getattr(settings, name, SETTINGS[name].default)


@cache
def options() -> Options:
    """Return the limits of a connection according to the current settings."""
    compression = get("WEBSOCKET_COMPRESSION")
    chosen = compression if isinstance(compression, dict) else {}
    return Options(
        compression=Compression(**chosen) if compression is not False else None,
        max_message_size=get("WEBSOCKET_MAX_MESSAGE_SIZE"),
        max_frame_size=get("WEBSOCKET_MAX_FRAME_SIZE"),
        max_fragments=get("WEBSOCKET_MAX_FRAGMENTS"),
        max_messages_per_second=get("WEBSOCKET_MAX_MESSAGES_PER_SECOND"),
        max_unread_messages=get("WEBSOCKET_MAX_UNREAD_MESSAGES"),
        max_unread_bytes=get("WEBSOCKET_MAX_UNREAD_BYTES"),
        max_unsent_bytes=get("WEBSOCKET_MAX_UNSENT_BYTES"),
        close_slow_clients=get("WEBSOCKET_SLOW_CLIENT") == "close",
        close_timeout=get("WEBSOCKET_CLOSE_TIMEOUT"),
        send_timeout=get("WEBSOCKET_SEND_TIMEOUT"),
        max_sockets=get("WEBSOCKET_MAX_SOCKETS"),
        max_sockets_per_address=get("WEBSOCKET_MAX_SOCKETS_PER_ADDRESS"),
        max_sockets_per_user=get("WEBSOCKET_MAX_SOCKETS_PER_USER"),
        trusted_proxies=get("WEBSOCKET_TRUSTED_PROXIES"),
        handshake_timeout=get("WEBSOCKET_HANDSHAKE_TIMEOUT"),
        blocked_warning=get("WEBSOCKET_BLOCKED_WARNING"),
        handler_greenlets=get("WEBSOCKET_HANDLER_GREENLETS"),
        ping_interval=get("WEBSOCKET_PING_INTERVAL"),
        ping_timeout=get("WEBSOCKET_PING_TIMEOUT"),
    )


@cache
def json_encoder() -> type[json.JSONEncoder]:
    """Return the class that encodes values as JSON."""
    encoder: type[json.JSONEncoder] = import_string(get("WEBSOCKET_JSON_ENCODER"))
    return encoder


@cache
def prefix_function() -> Callable[[], Any] | None:
    """Return the callable of ``WEBSOCKET_GROUP_PREFIX``, or ``None``."""
    path = get("WEBSOCKET_GROUP_PREFIX")
    function: Callable[[], Any] | None = None if path is None else import_string(path)
    return function


def group_prefix() -> str:
    """Return the current prefix of group names, which may depend on the tenant; ``""`` for none.

    Raises:
        ImproperlyConfigured: the callable of ``WEBSOCKET_GROUP_PREFIX`` fails, or returns something
            that cannot be a prefix.
    """
    function = prefix_function()
    if function is None:
        return ""
    name = f"WEBSOCKET_GROUP_PREFIX ({get('WEBSOCKET_GROUP_PREFIX')!r})"
    try:
        prefix = function()
    except Exception as error:
        raise ImproperlyConfigured(f"{name} raised {type(error).__name__}: {error}") from error
    if not isinstance(prefix, str):
        raise ImproperlyConfigured(f"{name} must return a string, not {prefix!r}")
    if not _PREFIX.fullmatch(prefix):
        raise ImproperlyConfigured(
            f"{name} returned {prefix!r}: a prefix has at most 200 characters and no control "
            f"characters"
        )
    return str(prefix)


@cache
def context_functions() -> tuple[Callable[[Any], Any], ...]:
    """Return the functions of ``WEBSOCKET_CONTEXT``."""
    return tuple(import_string(path) for path in get("WEBSOCKET_CONTEXT"))


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in SETTINGS:
        get.cache_clear()
        options.cache_clear()
        has_history.cache_clear()
        has_limits.cache_clear()
        json_encoder.cache_clear()
        prefix_function.cache_clear()
        context_functions.cache_clear()


setting_changed.connect(_forget, dispatch_uid="django_wsmux.conf")


@cache
def has_history() -> bool:
    """Return whether any group has a history."""
    return bool(get("WEBSOCKET_HISTORY"))


@cache
def has_limits() -> bool:
    """Return whether the number of sockets is limited."""
    given = options()
    counts = (given.max_sockets, given.max_sockets_per_address, given.max_sockets_per_user)
    return any(count is not None for count in counts)


def problems() -> Iterator[tuple[Setting, str]]:
    """Yield each wrong setting with a message that begins with its name."""
    for setting in SETTINGS.values():
        problem = setting.problem(get(setting.name))
        if problem is not None:
            yield setting, f"{setting.name} {problem}."


def require_valid() -> None:
    """Raise if the server cannot start with the current settings.

    Raises:
        ImproperlyConfigured: names each wrong setting and says what to change.
    """
    if not apps.is_installed("django_wsmux"):
        raise ImproperlyConfigured(
            "django_wsmux is not in INSTALLED_APPS, so sockets would stay open when their session "
            "ends, and no check would run. Add it in the settings module: "
            'INSTALLED_APPS = ["django_wsmux", *INSTALLED_APPS]'
        )
    found = [message for _, message in problems()]
    if found:
        raise ImproperlyConfigured("\n".join(found))
