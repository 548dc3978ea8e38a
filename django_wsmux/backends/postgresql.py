"""``postgres://``: all machines, through the project's own database; psycopg 3.

Each process has one connection that listens and one that publishes, in addition to Django's own and
used for nothing else. LISTEN needs a permanent session, so it does not work through a pooler in
transaction mode.

All publications of a project go through one channel of PostgreSQL, and a process without members of
a group drops its publications. A channel for each group would avoid that, but would cost a
transaction for each join and leave, and a list that PostgreSQL searches completely for each
notification and each listener.

A notification is text of less than 8,000 bytes::

    number:packet                   the packet as base64
    number:head:id                  the rest of the packet is in the table of ``models.Payload``
    number:head:stream:moment       the rest is the message with this number in ``models.Message``

The store of histories (``history.postgresql``) sends the last form, whose row it keeps anyway. The
row may be deleted before a listener reads it: newer messages have replaced it, the group was
forgotten, or the row has expired. Then the listener drops the notification and reports no gap,
because ``groups.sequencer`` detects missing messages: by the next number, or when it polls the
store.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist
from psycopg.conninfo import make_conninfo

from .broker import BrokerBackend, Call
from .outages import Gap
from .packets import Kind, UnreadablePacket, split, unpack
from .postgresql_connection import FAILURES, Session, SqlError
from .selector import READ

__all__ = ["INLINE", "PostgresBackend"]

#: Largest packet in a notification, in bytes: three quarters of 8,000, less its number.
INLINE: Final = 5_900

#: Most packets in one statement.
_BATCH: Final = 100

#: Seconds between two sweeps of the table.
_SWEEP: Final = 30.0

_TABLE: Final = b"django_wsmux_payload"

_FETCH: Final = b"SELECT data FROM " + _TABLE + b" WHERE id = $1"

_FETCH_MESSAGE: Final = (
    b"SELECT data FROM django_wsmux_message"
    b" WHERE stream = $1::uuid AND moment = $2::bigint AND number = $3::bigint"
)

#: The SQLSTATEs for a missing table, and for a missing column.
_NOT_MIGRATED: Final = {"42P01", "42703"}

T = TypeVar("T")

#: Parameters of Django's and psycopg's connections that libpq does not know.
_NOT_LIBPQ: Final = {"context", "cursor_factory", "prepare_threshold", "row_factory", "autocommit"}


class _SessionCall(Call):
    """A function that is called with the session that publishes."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Session], object]) -> None:
        super().__init__("", b"")
        self.function = function


class PostgresBackend(BrokerBackend):
    """A backend with LISTEN and NOTIFY; see the module.

    Args:
        url: ``postgres://?using=default``: an alias of ``DATABASES``. ``?timeout=2`` sets the
            seconds to wait for the database, ``?silence=10`` the seconds without any data after
            which a connection is given up.
        namespace: see ``Backend``.

    Attributes:
        notified: PostgreSQL's channel for the publications of the namespace.
    """

    #: PostgreSQL delivers notifications in the order of the commits.
    has_total_order = True
    advice = "check that the database runs and that DATABASES is correct"

    def __init__(self, url: str = "postgres://", *, namespace: str = "") -> None:
        super().__init__(url, namespace=namespace)
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        self.alias = options.pop("using", "default")
        self.timeout = float(options.pop("timeout", 2.0))
        self.silence = float(options.pop("silence", 10.0))
        if parts.netloc or parts.path or options:
            raise ValueError(
                "name the database by its alias in DATABASES: postgres://?using=default, with "
                "timeout= and silence= if needed"
            )
        key = hashlib.blake2b(namespace.encode(), digest_size=10).hexdigest()
        self.notified = f"wsmux_{key}"

    # Publishing

    def prepare(self) -> None:
        """Make the state of one process."""
        super().prepare()
        self._publisher: Session | None = None
        self._ear: Session | None = None
        # PostgreSQL drops one of two equal notifications in a transaction.
        self._sequence = itertools.count()
        self._next_sweep = 0.0

    def rehearse(self) -> None:
        """Check that the alias names a PostgreSQL database."""
        self._conninfo()

    def open(self) -> None:
        """Check that the alias names a PostgreSQL database."""
        self._conninfo()

    def _conninfo(self) -> str:
        advice = "name a PostgreSQL database: postgres://?using=..."
        try:
            connection = connections[self.alias]
            if connection.vendor != "postgresql":
                raise self.misconfigured(
                    f"DATABASES[{self.alias!r}] is {connection.vendor}", advice
                )
            parameters = connection.get_connection_params()
        except (ConnectionDoesNotExist, ImproperlyConfigured) as error:
            raise self.misconfigured(error, advice) from error
        return make_conninfo(**{k: v for k, v in parameters.items() if k not in _NOT_LIBPQ})

    def connect(self, timeout: float) -> Session:
        """Connect to the database, as the role of ``DATABASES``.

        Args:
            timeout: seconds for connecting, and for each statement.

        Raises:
            BackendMisconfigured: the alias does not name a PostgreSQL database.
            OSError, Error, SqlError: connecting failed; see ``postgresql_connection.FAILURES``.
        """
        session = Session(self._conninfo(), timeout)
        try:
            role = connections[self.alias].settings_dict["OPTIONS"].get("assume_role")
            if role:
                session.execute(b"SELECT set_config('role', $1, false)", [role])
        except FAILURES:
            session.close()
            raise
        return session

    def run(self, function: Callable[[Session], T]) -> T:
        """Return the result of a function that uses the session that publishes.

        Calls from several threads take turns; publications and functions keep their order.

        Args:
            function: executes statements, each of which is committed at once. It may run in a
                thread other than the caller's.

        Raises:
            BackendUnavailable: the function has raised one of ``FAILURES``.
        """
        self._prepare()
        result: T = self.send(_SessionCall(function))
        return result

    def exchange(self, calls: Sequence[Call]) -> None:
        """Send notifications, as many as possible in one statement and so in one round trip."""
        try:
            session = self._session()
            position = 0
            while position < len(calls):
                batch = list(itertools.takewhile(_is_simple, calls[position : position + _BATCH]))
                single = not batch
                if single:
                    batch = [calls[position]]
                try:
                    if single:
                        self._send_one(session, batch[0])
                    else:
                        self._notify(session, batch)
                except SqlError as error:
                    # The database is available, and may accept the next one.
                    _refuse(batch, error)
                position += len(batch)
        except FAILURES as error:
            self._shut()
            raise self.unavailable(error) from error
        except BaseException:  # gevent.Timeout: a result that no one reads would follow
            self._shut()
            raise

    def _shut(self) -> None:
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None

    def _session(self) -> Session:
        if self._publisher is not None and self._publisher.is_stale():
            self._shut()
        if self._publisher is None:
            self._publisher = self.connect(self.timeout)
            # A notification need not survive a crash, so it does not wait for the disk.
            self._publisher.execute(b"SET synchronous_commit TO off")
        return self._publisher

    def _notify(self, session: Session, calls: Sequence[Call]) -> None:
        texts = [f"{next(self._sequence)}:{_base64(call.packet)}" for call in calls]
        targets = ", ".join(f"pg_notify($1, ${index})" for index in range(2, len(texts) + 2))
        session.execute(f"SELECT {targets}".encode(), [self.notified, *texts])
        for call in calls:
            call.succeed(None)

    def _send_one(self, session: Session, call: Call) -> None:
        if isinstance(call, _SessionCall):
            call.succeed(call.function(session))
            return
        is_question = call.packet[1] == Kind.QUESTION
        before = self._listeners(session) if is_question else set()
        if len(call.packet) > INLINE:
            self._store(session, call)
        else:
            self._notify(session, [call])
        if self.id in before and call.error is None:
            # Do not wait for processes that came or went meanwhile.
            call.succeed((before & self._listeners(session)) - {self.id})

    def _listeners(self, session: Session) -> set[bytes]:
        """Return the ids of the listening processes, from the names of their sessions."""
        rows = session.execute(
            b"SELECT application_name::text FROM pg_stat_activity"
            b" WHERE datname = current_database() AND starts_with(application_name, $1)",
            [f"{self.notified}:"],
        )
        found = set()
        for (name,) in rows:
            # Other sessions may have any name.
            with contextlib.suppress(ValueError):
                found.add(bytes.fromhex((name or b"").decode(errors="replace").partition(":")[2]))
        return found

    def _store(self, session: Session, call: Call) -> None:
        head, payload = split(call.packet)
        text = f"{next(self._sequence)}:{_base64(head)}:"
        sql = (
            b"WITH stored AS (INSERT INTO " + _TABLE + b" (data) VALUES ($3::bytea)"
            b" RETURNING id) SELECT pg_notify($1, $2 || id) FROM stored"
        )
        session.execute(sql, [self.notified, text, payload])
        call.succeed(None)
        self._sweep(session)

    def _sweep(self, session: Session) -> None:
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP
            age = b" WHERE created < now() - interval '1 minute'"
            session.execute(b"DELETE FROM " + _TABLE + age)

    def reply(self, asker: bytes, packet: bytes) -> None:
        """Send to all processes; the others drop it."""
        self.reply_to("", packet)

    # Listening

    def listen(self) -> None:
        """Listen, and deliver what arrives."""
        waiter = self.waiter
        # The watched descriptor: libpq closes the descriptor of a lost connection, and the next
        # socket of a client may get the same number.
        watched = -1
        try:
            self._ear = session = self.connect(self.timeout)
            session.execute(f"LISTEN {self.notified}".encode())
            # From now on it is counted among the processes that answer; see _listeners().
            name = f"{self.notified}:{self.id.hex()}"
            session.execute(b"SELECT set_config('application_name', $1, false)", [name])
            fd = session.fileno()
            waiter.register(fd, READ, None)
            watched = fd
            self.listening()
            while not self.stopping:
                if waiter.wait(self.silence / 2):
                    self.deliver(self._packets(session))
                else:
                    self._check(session)
        except FAILURES as error:
            raise self.unavailable(error) from error
        finally:
            # In a fork all of this belongs to the parent.
            waiter.require_same_process()
            try:
                if watched >= 0:
                    waiter.unregister(watched)
            finally:
                if self._ear is not None:
                    self._ear.close()
                    self._ear = None

    def _check(self, session: Session) -> None:
        """Check that the server still answers, after a time without notifications."""
        try:
            session.execute(b"SELECT 1")
        except TimeoutError:
            raise TimeoutError(f"nothing heard for {self.silence:g} s, not even a reply") from None
        self.deliver(self._packets(session))

    def _packets(self, session: Session) -> Iterator[bytes]:
        for text in session.notifications():
            try:
                packet = self._packet(session, text)
            except (UnreadablePacket, ValueError) as error:
                # Any user of the database may notify on our channel.
                self.unreadable(error)
            else:
                if packet is not None:
                    yield packet

    def _packet(self, session: Session, text: bytes) -> bytes | None:
        """Return the packet of a notification, or ``None`` if it does not concern this process."""
        number, *fields = text.split(b":")
        if not 1 <= len(fields) <= 3:
            raise UnreadablePacket("a notification of another program")
        packet = b64decode(fields[0], validate=True)
        if len(fields) == 1:
            return packet
        is_numbered = len(fields) == 3
        if is_numbered:
            sql = _FETCH_MESSAGE
            stream = UUID(fields[1].decode("ascii")).hex
            values = [stream, str(int(fields[2])), str(int(number))]
        else:
            sql, values = _FETCH, [str(int(fields[1]))]
        if not self._is_wanted(packet):
            return None
        try:
            rows = session.execute(sql, values)
        except SqlError as error:
            self.missed(Gap(f"reading a large message failed: {error}", 0.0, 1))
            return None
        if rows:
            return packet + (rows[0][0] or b"")
        if not is_numbered:
            self.missed(Gap("a large message was deleted before it was read", 0.0, 1))
        return None

    def _is_wanted(self, head: bytes) -> bool:
        packet = unpack(head)
        if packet.kind in (Kind.MESSAGE, Kind.STORED) and packet.channel not in self.channels:
            return False
        return packet.sender != self.id or packet.kind == Kind.STORED

    def release(self) -> None:
        """Close the publishing connection; the owner has closed the other."""
        self._shut()

    def forget(self) -> None:
        """Close all descriptors."""
        for session in (self._publisher, self._ear):
            if session is not None:
                session.forget()


def _refuse(calls: Sequence[Call], error: SqlError) -> None:
    """Mark calls that the database has refused; those sent before remain successful."""
    problem = f"{error}: run manage.py migrate" if error.code in _NOT_MIGRATED else str(error)
    for call in calls:
        if not call.is_done:
            call.fail(problem)


def _is_simple(call: Call) -> bool:
    """Return whether a call can share a statement."""
    return (
        not isinstance(call, _SessionCall)
        and len(call.packet) <= INLINE
        and call.packet[1] != Kind.QUESTION
    )


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
