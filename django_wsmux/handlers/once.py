"""Requests that run at most once: ``once = True`` on a class-based view.

A client whose connection is lost does not know whether its request arrived, so it sends the request
again. Django's cache holds a record for each request, for ``SECONDS``. ``cache.add()`` creates it,
and lets one process run the request; the record then gets the answer, before it is sent. A request
that is sent again is answered from the record.

While a request runs, its process writes a growing number beside the record, every ``INTERVAL``. If
the record has no answer, a second request waits for it as long as that number changes. After
``SILENCE`` without a change, the process has died and the outcome is unknown. The clocks of
machines are not compared.

Without the cache nothing runs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.core.cache import DEFAULT_CACHE_ALIAS, caches
from django.core.cache.backends.base import BaseCache
from django.db import connections

from ..connection.counters import count
from ..connection.guard import call
from ..logs import LogLimit, get_logger, quote
from ..requests import ERRORS, Request
from .reporting import describe

__all__ = ["INTERVAL", "SECONDS", "SILENCE", "key_of", "run"]

#: Seconds for which an answer is kept.
SECONDS: Final = 300

#: Seconds after which the process of a running request says that it is alive.
INTERVAL: Final = 4.0

#: Seconds without such a sign after which the process counts as dead.
SILENCE: Final = 15.0

#: Characters of an answer that a cache may refuse because of its size.
_LARGE: Final = 100_000

#: Seconds between two looks at a running request: the first ones, and the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25

logger = get_logger("django_wsmux.views")

_failures: Final = LogLimit()
_unknown: Final = LogLimit()

#: Stands beside the record of a request whose process has died.
_DEAD: Final = -1

# The cache of each greenlet or thread, and the settings that it was made with.
_local: Final = threading.local()


def _cache() -> BaseCache:
    """Return the cache of this greenlet or thread.

    Django's own ``caches`` are new for each message of a socket, with new connections.
    """
    if getattr(_local, "settings", None) is not settings.CACHES:
        _local.cache = caches.create_connection(DEFAULT_CACHE_ALIAS)
        _local.settings = settings.CACHES
    found: BaseCache = _local.cache
    return found


def run(request: Request, text: str, view: type, handle: Callable[[Request], None]) -> None:
    """Run a request, unless it was sent before; send the answer.

    Args:
        request: the request, which has a ``ref``.
        text: the message that it is made of.
        view: class of the view.
        handle: runs it and answers it.
    """
    key = key_of(request, view)
    # A text, not bytes: some caches store JSON.
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    try:
        is_first = _cache().add(key, (digest, None), SECONDS)
    except Exception as error:
        _note_failure(error)
        request.refuse("unavailable")
        return
    if not is_first:
        _repeat(request, key, digest)
        return
    request.keep = keep = partial(_keep, request, key, digest)
    with _signs_of_life(key):
        try:
            handle(request)
        except Exception:
            if not request.is_answered:
                # It may have done a part of its work.
                keep(request.answer("errors", _errors("unknown")))
            raise


def key_of(request: Request, view: type) -> str:
    """Return the key of a request's record: for each sender, path and ``ref`` another one.

    It contains nothing that a peer has sent, since memcached restricts keys.
    """
    websocket = request.websocket
    hooks: Any = websocket.hooks
    user = hooks.user_id
    # An anonymous user is identified by the client's id, whose signature was verified.
    sender = [hooks.prefix, user] if user is not None else [websocket.client_id]
    parts = [f"{view.__module__}.{view.__qualname__}", websocket.path, sender, request.ref]
    return f"django_wsmux.once.{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"


def _errors(code: str) -> Any:
    return {"__all__": [{"message": ERRORS[code], "code": code}]}


def _keep(request: Request, key: str, digest: str, answer: str | None) -> None:
    """Store an answer. If this fails, only the first request gets it.

    Args:
        request: the request.
        key: key of its record.
        digest: digest of the request.
        answer: the answer; ``None`` if the request came too early, so that it may come again.
    """
    if answer is None:
        try:
            _cache().delete(key)
        except Exception as error:
            _note_failure(error)
        return
    for attempts_left in (2, 1, 0):
        try:
            _cache().set(key, (digest, answer), SECONDS)
            return
        except Exception as error:
            # SQLite may refuse a write at once that another process disturbs.
            if attempts_left:
                time.sleep(_FIRST_PAUSE)
            else:
                _note_failure(error)
    if len(answer) > _LARGE:
        # memcached deletes the record whose new value it refuses.
        with suppress(Exception):
            unknown = request.answer("errors", _errors("unknown"))
            _cache().set(key, (digest, unknown), SECONDS)


def _note_failure(error: Exception) -> None:
    count("once_failed")
    suffix = _failures.suffix()
    if suffix is not None:
        logger.error(
            "the cache of requests that run once failed: %s%s", quote(describe(error)), suffix
        )


# A request that was sent before


def _repeat(request: Request, key: str, digest: str) -> None:
    """Answer a request that another one with its ``ref`` precedes."""
    websocket = request.websocket
    try:
        answer = _await_answer(key, digest, lambda: websocket.closed)
    except Exception as error:
        _note_failure(error)
        request.refuse("unavailable")
        return
    if websocket.closed:
        return
    if answer is None:
        _note_unknown(request)
        request.refuse("unknown")
    elif answer == "":
        request.refuse("ref_reused")
    else:
        request.is_answered = True
        websocket.send_bare(answer)


def _await_answer(key: str, digest: str, is_over: Callable[[], bool]) -> str | None:
    """Return the answer of the first request, after it has been stored.

    Args:
        key: key of its record.
        digest: digest of the second request.
        is_over: returns whether the client has gone.

    Returns:
        ``""`` if the first request was another message; ``None`` if its outcome is unknown.
    """
    cache, pulse, pause = _cache(), None, _FIRST_PAUSE
    deadline = time.monotonic() + SILENCE
    while not is_over():
        found = cache.get_many([key, _pulse(key)])
        if key not in found:
            return None  # expired, or removed by the cache
        first_digest, answer = found[key]
        if first_digest != digest:
            return ""
        if answer is not None:
            return str(answer)
        last, pulse = pulse, found.get(_pulse(key))
        if pulse == _DEAD:
            return None
        if pulse != last:
            deadline = time.monotonic() + SILENCE
        elif time.monotonic() > deadline:
            # If the process was only stopped, its next sign replaces this.
            cache.set(_pulse(key), _DEAD, SECONDS)
            return None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return None


def _note_unknown(request: Request) -> None:
    count("once_unknown")
    suffix = _unknown.suffix()
    if suffix is not None:
        logger.warning(
            "the outcome of a request (type %s) is unknown: its process ended, or the cache "
            "dropped its record%s",
            quote(request.type),
            suffix,
        )


# Signs of life


def _pulse(key: str) -> str:
    return f"{key}.pulse"


class _Runs:
    """The requests that run in this process.

    Attributes:
        keys: their keys.
        lock: for ``keys`` and ``is_watched``.
        is_watched: whether a thread gives signs of life for them.
    """

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.lock = threading.Lock()
        self.is_watched = False


_runs = _Runs()


def _disown() -> None:
    """Forget the requests of the parent, in a forked child, which has none of its threads."""
    global _runs
    _runs = _Runs()


os.register_at_fork(after_in_child=_disown)


@contextmanager
def _signs_of_life(key: str) -> Iterator[None]:
    """Give signs of life for a request while the block runs."""
    runs = _runs
    with runs.lock:
        runs.keys.add(key)
        is_watched, runs.is_watched = runs.is_watched, True
    try:
        if not is_watched:
            _start_watching(runs)
        yield
    finally:
        with runs.lock:
            runs.keys.discard(key)


def _start_watching(runs: _Runs) -> None:
    thread = threading.Thread(target=_watch, args=(runs,), name="django_wsmux once", daemon=True)
    try:
        thread.start()
    except BaseException:
        with runs.lock:
            runs.is_watched = False  # the next request tries again
        raise


def _watch(runs: _Runs) -> None:
    """Give signs of life until no request runs."""
    for number in itertools.count():
        time.sleep(INTERVAL)
        with runs.lock:
            keys = list(runs.keys)
            runs.is_watched = bool(keys)
        if not keys or runs is not _runs:
            return
        call(_give_sign, keys, number)
        call(connections.close_all)


def _give_sign(keys: list[str], number: int) -> None:
    try:
        cache = _cache()
        cache.set_many(dict.fromkeys(map(_pulse, keys), number), SECONDS)
        for key in keys:
            cache.touch(key, SECONDS)
    except Exception as error:
        _note_failure(error)
