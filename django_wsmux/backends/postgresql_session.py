"""A connection to PostgreSQL on which no call takes longer than it may.

Through psycopg's libpq layer (``psycopg.pq``) rather than its connections: those cannot give up a
statement after a time, which on a half-open connection is what counts, and where psycopg was
imported before gevent patched (``gunicorn --preload``) they wait in a way that stops the worker.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Final

from psycopg import Error, OperationalError, pq

from .waiting import READ, WRITE, Waiter, close

__all__ = ["FAILURES", "Session", "SqlError"]


class SqlError(Exception):
    """PostgreSQL refuses a statement.

    Attributes:
        code: its SQLSTATE.
    """

    def __init__(self, message: str, code: str) -> None:
        self.code = code
        super().__init__(message)


#: What a session may raise.
FAILURES: Final = (OSError, Error, SqlError)

_POLLING: Final = {pq.PollingStatus.READING: READ, pq.PollingStatus.WRITING: WRITE}
_GOOD: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


class Session:
    """A connection that commits each statement.

    Args:
        conninfo: libpq's connection string.
        timeout: seconds to connect, and for each statement.

    Raises:
        OperationalError: no connection.
        TimeoutError: none within the time.
    """

    def __init__(self, conninfo: str, timeout: float) -> None:
        self._timeout = timeout
        self._waiter = Waiter()
        deadline = time.monotonic() + timeout
        self._connection = pq.PGconn.connect_start(conninfo.encode())
        try:
            # Writing first: libpq's manual, "PQconnectPoll".
            state = pq.PollingStatus.WRITING
            while state != pq.PollingStatus.OK:
                if state == pq.PollingStatus.FAILED or self._connection.status == pq.ConnStatus.BAD:
                    raise OperationalError(self._message())
                self._wait(_POLLING[state], deadline)
                state = pq.PollingStatus(self._connection.connect_poll())
        except BaseException:
            self.close()
            raise
        self._connection.nonblocking = 1

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._connection.socket

    def execute(self, sql: bytes, values: Sequence[bytes] = ()) -> bytes | None:
        """Run a statement; return the first value of its first row.

        Args:
            sql: the statement, with ``$1`` and so on.
            values: as text.

        Raises:
            SqlError: PostgreSQL refuses.
            OperationalError: the connection is lost.
            TimeoutError: it does not answer in time.
        """
        deadline = time.monotonic() + self._timeout
        connection = self._connection
        connection.send_query_params(sql, list(values))
        while connection.flush():
            self._wait(READ | WRITE, deadline)
            connection.consume_input()
        value: bytes | None = None
        error: SqlError | None = None
        while True:
            while connection.is_busy():
                self._wait(READ, deadline)
                connection.consume_input()
            result = connection.get_result()
            if result is None:
                break
            if result.status not in _GOOD:
                error = _error(result)
            elif result.ntuples:
                value = result.get_value(0, 0)
            result.clear()
        if error is not None:
            raise error
        return value

    def notifications(self) -> Iterator[bytes]:
        """Read what has arrived, without waiting; yield the texts of the notifications.

        Raises:
            OperationalError: the connection is lost.
        """
        self._connection.consume_input()
        while (notification := self._connection.notifies()) is not None:
            yield notification.extra

    def is_stale(self) -> bool:
        """Whether the server has closed it."""
        try:
            # The first may read the server's last words, the second the end of the stream.
            self._connection.consume_input()
            self._connection.consume_input()
        except OperationalError:
            return True
        return self._connection.status != pq.ConnStatus.OK

    def close(self) -> None:
        """Close it."""
        try:
            self._connection.finish()
        finally:
            self._waiter.close()

    def forget(self) -> None:
        """Close the descriptors that a fork copied, without a word to the server."""
        self._waiter.close()
        # libpq has closed the descriptor of a connection that was lost.
        with contextlib.suppress(OperationalError):
            close(self._connection.socket)

    def _wait(self, events: int, deadline: float) -> None:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("no answer in time")
        # Asked each time: while it connects, libpq may change from one descriptor to another.
        fd = self._connection.socket
        self._waiter.register(fd, events, None)
        try:
            self._waiter.wait(seconds)
        finally:
            self._waiter.unregister(fd)

    def _message(self) -> str:
        return self._connection.error_message.decode(errors="replace").strip()


def _error(result: pq.abc.PGresult) -> SqlError:
    code = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
    message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"no message"
    return SqlError(message.decode(errors="replace"), code.decode())
