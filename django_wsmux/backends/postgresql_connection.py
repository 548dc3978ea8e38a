"""A connection to PostgreSQL with a timeout for each call.

It uses psycopg's libpq layer (``psycopg.pq``) and not its connections. Those cannot give up a
statement after a time, which matters on a half-open connection. If psycopg was imported before
gevent patched (``gunicorn --preload``), they also block the worker while they wait.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Final

from psycopg import Error, OperationalError, pq

from .selector import READ, WRITE, WakeableSelector, close

__all__ = ["FAILURES", "Rows", "Session", "SqlError", "Value"]


class SqlError(Exception):
    """PostgreSQL has refused a statement.

    Attributes:
        code: the SQLSTATE.
    """

    def __init__(self, message: str, code: str) -> None:
        self.code = code
        super().__init__(message)


#: The exceptions that a session may raise.
FAILURES: Final = (OSError, Error, SqlError)

#: A parameter of a statement; ``None`` for NULL.
Value = str | bytes | None
#: The rows that a statement returns, with texts and ``bytea`` as bytes.
Rows = list[list[bytes | None]]

_POLLING: Final = {pq.PollingStatus.READING: READ, pq.PollingStatus.WRITING: WRITE}
#: The formats of parameters and results. Texts are the same in both.
_TEXT: Final = pq.Format.TEXT
_BINARY: Final = pq.Format.BINARY

_GOOD: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)


class Session:
    """A connection that commits each statement.

    Args:
        conninfo: the connection string for libpq.
        timeout: seconds for connecting, and for each statement.

    Raises:
        OperationalError: connecting failed.
        TimeoutError: connecting took too long.
    """

    def __init__(self, conninfo: str, timeout: float) -> None:
        self._timeout = timeout
        self._prepared: dict[bytes, bytes] = {}
        self._waiter = WakeableSelector()
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

    def execute(
        self, sql: bytes, values: Sequence[Value] = (), *, is_prepared: bool = False
    ) -> Rows:
        """Run a statement, and return its rows.

        Args:
            sql: the statement, with parameters ``$1`` and so on. It casts results of other types to
                text.
            values: the parameters: bytes for ``bytea``, text for other types.
            is_prepared: whether PostgreSQL parses the statement only once in this session.

        Raises:
            SqlError: PostgreSQL refuses the statement.
            OperationalError: the connection is lost.
            TimeoutError: PostgreSQL does not answer in time.
        """
        deadline = time.monotonic() + self._timeout
        sent = [value.encode() if isinstance(value, str) else value for value in values]
        formats = [_BINARY if isinstance(value, bytes) else _TEXT for value in values]
        if not is_prepared:
            self._connection.send_query_params(sql, sent, None, formats, _BINARY)
        else:
            name = self._prepare(sql, deadline)
            self._connection.send_query_prepared(name, sent, formats, _BINARY)
        return self._results(deadline)

    def execute_together(self, statements: Sequence[tuple[bytes, Sequence[str | None]]]) -> Rows:
        """Run statements in one transaction and one round trip, and return the rows of the last.

        Each statement sees what was committed until it began: so after a statement that locks a
        row, the next one sees the changes of those who had the lock. The statements are prepared.
        All results are text.

        Args:
            statements: each with its parameters.

        Raises:
            SqlError: PostgreSQL refuses a statement, and has done nothing.
            OperationalError, TimeoutError: as for ``execute()``.
        """
        deadline = time.monotonic() + self._timeout
        escape = pq.Escaping(self._connection).escape_literal
        texts = []
        for sql, values in statements:
            name = self._prepare(sql, deadline)
            literals = (b"NULL" if each is None else escape(each.encode()) for each in values)
            texts.append(b"EXECUTE %b(%b)" % (name, b",".join(map(bytes, literals))))
        self._connection.send_query(b";".join(texts))
        return self._results(deadline)

    def _prepare(self, sql: bytes, deadline: float) -> bytes:
        """Return the name of a prepared statement."""
        name = self._prepared.get(sql)
        if name is None:
            name = b"wsmux_%d" % len(self._prepared)
            self._connection.send_prepare(name, sql)
            self._results(deadline)
            self._prepared[sql] = name
        return name

    def _results(self, deadline: float) -> Rows:
        """Wait for the results of what was sent; return the rows of the last one."""
        connection = self._connection
        while connection.flush():
            self._wait(READ | WRITE, deadline)
            connection.consume_input()
        rows: Rows = []
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
            else:
                columns = range(result.nfields)
                rows = [
                    [result.get_value(row, column) for column in columns]
                    for row in range(result.ntuples)
                ]
            result.clear()
        if error is not None:
            raise error
        return rows

    def notifications(self) -> Iterator[bytes]:
        """Read without waiting, and yield the texts of the notifications.

        Raises:
            OperationalError: the connection is lost.
        """
        self._connection.consume_input()
        while (notification := self._connection.notifies()) is not None:
            yield notification.extra

    def is_stale(self) -> bool:
        """Return whether the server has closed the connection."""
        try:
            # The first call may read a last message, the second the end of the stream.
            self._connection.consume_input()
            self._connection.consume_input()
        except OperationalError:
            return True
        return self._connection.status != pq.ConnStatus.OK

    def close(self) -> None:
        """Close the connection."""
        try:
            self._connection.finish()
        finally:
            self._waiter.close()

    def forget(self) -> None:
        """Close the descriptors that a fork copied, without telling the server."""
        self._waiter.close()
        # libpq has closed the descriptor of a connection that was lost.
        with contextlib.suppress(OperationalError):
            close(self._connection.socket)

    def _wait(self, events: int, deadline: float) -> None:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("no answer in time")
        # Read each time: while connecting, libpq may switch to another descriptor.
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
