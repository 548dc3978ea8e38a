"""Checks of ``WEBSOCKET_HISTORY`` and its store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import urlsplit

from django.core.checks import CheckMessage, Error, Warning

from .. import conf
from ..exceptions import BackendUnavailable
from .stores import kind_of

__all__ = ["evictions", "messages"]

#: Prefixes of the names of users' and sessions' groups.
_AUTOMATIC: Final = ("@user:", "@session:")

_WILDCARD: Final = re.compile(r"[*?[]")


def messages(*, has_private_tmp: bool) -> list[CheckMessage]:
    """Return the problems.

    Args:
        has_private_tmp: whether systemd gave this process a private temporary directory.
    """
    found: list[CheckMessage] = [
        Warning(
            f'WEBSOCKET_HISTORY: the pattern "{pattern}" {reason}.',
            hint=hint,
            id="django_wsmux.W023",
        )
        for pattern, reason, hint in _useless(list(conf.get("WEBSOCKET_HISTORY")))
    ]
    url = conf.get("WEBSOCKET_HISTORY_STORE") or conf.get("WEBSOCKET_BACKEND")
    scheme = url.partition("://")[0]
    if kind_of(url) is None:
        found.append(
            Error(
                f"{url.partition('://')[0]}:// cannot keep the history of groups.",
                hint='Set WEBSOCKET_HISTORY_STORE to "local://" (one machine), "redis://..." or '
                '"postgres://".',
                id="django_wsmux.E025",
            )
        )
    elif scheme == "local" and not urlsplit(url).path.strip("/") and has_private_tmp:
        found.append(
            Warning(
                "The history of groups is kept in the service's own temporary directory "
                "(PrivateTmp), which is removed when the service stops.",
                hint='Set WEBSOCKET_HISTORY_STORE = "local:///run/mysite", and in the unit '
                "RuntimeDirectory=mysite and RuntimeDirectoryPreserve=yes.",
                id="django_wsmux.W024",
            )
        )
    return found


def evictions(namespace: str) -> list[CheckMessage]:
    """Check that the Redis of the history does not delete keys when its memory is full.

    Args:
        namespace: names the project.
    """
    url = conf.get("WEBSOCKET_HISTORY_STORE") or conf.get("WEBSOCKET_BACKEND")
    if kind_of(url) != "redis.RedisStore":
        return []
    from .redis import RedisStore

    store = RedisStore(url, namespace=namespace, backend=None)
    try:
        policies = store.eviction_policies()
    except BackendUnavailable:
        return []  # it is reported when the server starts
    finally:
        store.close()
    return [
        Warning(
            f"Redis has the maxmemory-policy {policy}: when its memory is full, it deletes the "
            f"history of groups, and the keys that prevent a second message.",
            hint="Set maxmemory-policy to noeviction, or WEBSOCKET_HISTORY_STORE to another "
            "server.",
            id="django_wsmux.W026",
        )
        for policy in sorted(policies - {"noeviction"})
    ]


def _useless(patterns: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield each pattern that never applies, the reason, and a hint."""
    for number, pattern in enumerate(patterns):
        if pattern.startswith("@") and not _can_match_automatic(pattern):
            yield (
                pattern,
                "matches no group",
                'Names that begin with "@" are those of users and sessions: use "@user:*" for '
                'Group.for_user() and "@session:*" for the groups of sessions.',
            )
            continue
        for earlier in patterns[:number]:
            if _covers(earlier, pattern):
                yield (
                    pattern,
                    f'has no effect: "{earlier}" is above it and matches the same groups',
                    "List the narrower pattern first.",
                )
                break


def _literal(pattern: str) -> str:
    """Return the pattern up to its first wildcard."""
    return _WILDCARD.split(pattern, maxsplit=1)[0]


def _can_match_automatic(pattern: str) -> bool:
    literal = _literal(pattern)
    if literal == pattern:
        return any(pattern.startswith(begin) and pattern != begin for begin in _AUTOMATIC)
    return any(literal.startswith(begin) or begin.startswith(literal) for begin in _AUTOMATIC)


def _covers(earlier: str, later: str) -> bool:
    """Return whether the earlier pattern certainly matches all names that the later one matches."""
    if earlier.startswith("@") != later.startswith("@"):
        return False
    literal = _literal(later)
    if literal == later:
        return fnmatchcase(later, earlier)
    return earlier == f"{_literal(earlier)}*" and literal.startswith(earlier[:-1])
