"""What an operator does to sockets, in every process that has some of them.

Each process is asked to act on its own sockets and answers with numbers, so an operator learns what
has happened. A session's key never leaves the process: it is as good as a password.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from django.contrib.sessions.backends import signed_cookies
from django.db import connections

from ..connection import hub_thread
from ..connection.connection import Connection
from ..connection.registry import slices
from ..exceptions import BackendUnavailable
from ..groups.identity import session_store
from ..groups.pubsub import members, pubsub, session_group, user_group
from ..groups.users import SIGNED_OUT
from ..logs import get_logger
from .filters import Filter
from .overview import survey

__all__ = ["Outcome", "close", "install", "sign_out"]

logger = get_logger("django_wsmux.overview")

#: Channel on which every process that serves sockets acts.
_CHANNEL: Final = "@actions"

#: Sockets to close before others have their turn.
_SLICE: Final = 50


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has happened in all processes.

    Attributes:
        sockets: how many sockets were closed.
        ended: how many sessions were deleted.
        kept: how many sessions of these sockets could not be deleted.
        problem: why other processes could not be asked, or ``""``.
        missing: how many processes did not answer in time, although they may act later; ``None``
            if that is unknown.
    """

    sockets: int
    ended: int = 0
    kept: int = 0
    problem: str = ""
    missing: int | None = 0


def install() -> None:
    """Have this process act when it is asked, from its first handshake on."""
    pubsub.register(_CHANNEL, _act_for_others)


def close(wanted: Filter, code: int, reason: str) -> Outcome:
    """Close sockets in all processes.

    Args:
        wanted: the sockets.
        code, reason: what their clients are told.

    Example::

        close(Filter("room.lobby", older_than=3600), 1012, "the service restarts")
    """
    return _ask({"act": "close", "filter": wanted.as_json(), "code": code, "reason": reason})


def sign_out(user_id: str) -> Outcome:
    """End the sessions that the sockets of a user have, and close these sockets with 4401.

    Sessions without an open socket stay. So do those of ``signed_cookies``, which only the browser
    has.

    Args:
        user_id: primary key of the user, as a string; a user without ``WEBSOCKET_GROUP_PREFIX``.
    """
    # A session that one process deletes closes sockets of others before these have counted them.
    count = survey(Filter(user_id=user_id, prefix="")).total
    return replace(_ask({"act": "sign_out", "user_id": user_id}), sockets=count)


# Acting


def _act_for_others(question: bytes) -> bytes:
    try:
        return _act(question)
    finally:
        # This thread, or greenlet, ends with the answer.
        connections.close_all()


def _act(question: bytes) -> bytes:
    asked = json.loads(question)
    return json.dumps(_ACTS[asked.pop("act")](asked)).encode()


def _close(asked: Mapping[str, Any]) -> dict[str, Any]:
    found = [each for each in Filter(**asked["filter"]).matching() if not each.closed]
    if hub_thread.is_foreign():
        hub_thread.hand_over(_close_each, found, asked["code"], asked["reason"])
    else:
        for some in slices(found, _SLICE):
            _close_each(some, asked["code"], asked["reason"])
    return {"sockets": len(found)}


def _close_each(sockets: Iterable[Connection], code: int, reason: str) -> None:
    for each in sockets:
        each.close_from_group(code, reason)


def _sign_out(asked: Mapping[str, Any]) -> dict[str, Any]:
    user_id = asked["user_id"]
    matching = Filter(user_id=user_id, prefix="").matching()
    # Before the sockets are closed: their clients return at once.
    sessions = _end_sessions(list(matching))
    # Also closes a socket whose handshake has read the session, and is in progress.
    members.close(user_group(user_id), SIGNED_OUT, "signed out")
    return {"sessions": sessions}


def _end_sessions(sockets: Sequence[Connection]) -> dict[str, bool]:
    """Delete the sessions of sockets; return whether each is gone, by the names of their groups."""
    outcomes: dict[str, bool] = {}
    for each in sockets:
        hooks: Any = each.hooks
        key = hooks.session_key
        if key is not None and (name := session_group(key)) not in outcomes:
            outcomes[name] = _end_session(key)
    return outcomes


def _end_session(key: str) -> bool:
    store = session_store()
    if issubclass(store, signed_cookies.SessionStore):
        return False
    try:
        store(key).delete()
    except Exception:
        # Whatever a store raises that is away: the sockets are closed all the same.
        logger.exception("a session was not deleted")
        return False
    return True


_ACTS: Final[dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "close": _close,
    "sign_out": _sign_out,
}


# Asking


def _ask(asked: Mapping[str, Any]) -> Outcome:
    question = json.dumps(asked).encode()
    answers = [_act(question)] if pubsub.answers(_CHANNEL) else []
    problem = ""
    missing: int | None = 0
    try:
        replies = pubsub.ask_all(_CHANNEL, question)
        answers += replies
        missing = replies.missing
    except BackendUnavailable as error:
        problem = str(error)
    found = [json.loads(answer) for answer in answers]
    sessions: dict[str, bool] = {}
    for each in found:
        for name, is_gone in each.get("sessions", {}).items():
            sessions[name] = sessions.get(name, False) or is_gone
    ended = sum(sessions.values())
    sockets = sum(each.get("sockets", 0) for each in found)
    return Outcome(sockets, ended, len(sessions) - ended, problem, missing)
