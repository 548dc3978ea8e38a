"""The incarnation of a PostgreSQL server, which changes when committed rows may have been lost.

The stores commit without waiting for the disk (``synchronous_commit`` off), so a crash loses their
last changes. The events that may have lost rows are detected as follows:

* a restart, by ``pg_postmaster_start_time()``. A replica that takes over has another start time
  than the former primary, so its timeline need not be known;
* a crash of one server process, after which the others restart without their last commits, by
  ``stats_reset``: the crash resets the statistics. A manual reset looks the same, and costs one
  gap;
* a restore from a dump, by the ``oid`` of the table of histories.

Every role may read these values. (``pg_control_system()`` is restricted on some servers, so two
roles of a project might get different results.) A session reads them when it begins, and again when
a row has a different incarnation, so that sessions from before and after a manual reset agree in
the end.
"""

from __future__ import annotations

import hashlib

from ..backends.postgresql_connection import Session
from . import postgresql_statements as sql

__all__ = ["Incarnation", "namespace_id"]


class Incarnation:
    """The incarnation that the sessions of a store have read."""

    def __init__(self) -> None:
        # The session that was queried last, and the incarnation that it returned.
        self._asked: tuple[Session | None, str] = (None, "")

    def __call__(self, session: Session, *, ask: bool = False) -> str:
        """Return the incarnation of the server for a session.

        Args:
            session: the session. The settings of the statements are made in a new one.
            ask: whether to query the server again.
        """
        known, incarnation = self._asked
        if known is not session or ask:
            if known is not session:
                session.execute(sql.SETTINGS)
            text = session.execute(sql.IDENTIFY)[0][0] or b""
            incarnation = hashlib.blake2b(text, digest_size=6).hexdigest()
            self._asked = session, incarnation
        return incarnation


def namespace_id(namespace: str) -> str:
    """Return the namespace of a project as the tables have it."""
    return hashlib.blake2b(namespace.encode(), digest_size=10).hexdigest()
