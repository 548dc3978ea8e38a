"""A model of the outbox: processes that send with ``stored=True``, and are killed at any moment.

Each transaction increments the counters of some groups, and sends the new values to them. So the
history of a group must be 1, 2, 3 and so on up to its counter: no message is lost, sent twice, or
sent from a transaction that was rolled back, and all arrive in the order of the transactions.

For a longer run, against PostgreSQL and SQLite::

    python -m tests.functional.outbox_model --kills 200
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from tests.services import PostgresServer
from tests.support import ROOT, TIMEOUT

__all__ = ["GROUPS", "databases", "die", "environment", "left", "model", "send"]

GROUPS = [f"room.{number}" for number in range(4)]

#: Processes that run at the same time, and the number of transactions of each one that is not
#: killed.
PROCESSES = 3
TRANSACTIONS = 150

# Many disks are too slow for hundreds of transactions with fsync().
_PRAGMAS = "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF"

#: The longest lifetime of a process in seconds.
LIFE = 0.1


def environment(folder: Path, database: dict[str, object], **settings: object) -> dict[str, str]:
    """Return the environment of the project's processes.

    Args:
        folder: for the history.
        database: the entry of ``DATABASES``.
        settings: further settings.
    """
    keep = {"messages": 10**6, "seconds": 3600, "bytes": 2**28}
    settings = {
        "DATABASES": {"default": database},
        "WEBSOCKET_BACKEND": f"local://{folder}",
        "WEBSOCKET_HISTORY": {"room.*": keep},
        "WEBSOCKET_OUTBOX": True,
        **settings,
    }
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.project.settings",
        "TEST_SETTINGS": json.dumps(settings),
    }


def model(environment: dict[str, str], *, kills: int) -> str:
    """Run the model in its own process; return its summary.

    Raises:
        CalledProcessError: the model failed, and printed the reason.
    """
    done = _run(environment, "--model", "--kills", str(kills))
    done.check_returncode()
    return done.stdout


def send(environment: dict[str, str], *texts: str) -> None:
    """Send messages to the first group, each in its own transaction."""
    _run(environment, "--send", *texts).check_returncode()


def die(environment: dict[str, str], *texts: str, when: str) -> None:
    """Send messages to the first group in one transaction of a process that is killed.

    Args:
        environment: of the process.
        texts: the messages.
        when: ``"committed"`` or ``"sent"``: after the commit, or when the first message is sent.
    """
    done = _run(environment, "--die", when, "--send", *texts)
    assert done.returncode == -signal.SIGKILL


def left(environment: dict[str, str]) -> int:
    """Return how many messages are left in the outbox."""
    done = _run(environment, "--left")
    done.check_returncode()
    return int(done.stdout)


def _run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.functional.outbox_model", *arguments]
    return subprocess.run(
        command, env=environment, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True
    )


class _Undo(Exception):
    """Rolls a transaction back."""


def _transact(dice: random.Random) -> None:
    """Increment the counters of some groups, and send the values in any order."""
    from django.db import connection, transaction

    from django_wsmux.groups import Group

    names = sorted(dice.sample(GROUPS, dice.choice((1, 2, 3))))
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            values = []
            for name in names:
                cursor.execute("UPDATE counter SET value = value + 1 WHERE name = %s", [name])
                cursor.execute("SELECT value FROM counter WHERE name = %s", [name])
                values.append((name, cursor.fetchone()[0]))
            dice.shuffle(values)
            for name, value in values:
                Group(name).send(str(value), on_commit=True, stored=True)
            if dice.random() < 0.2:
                raise _Undo
    except _Undo:
        pass


def _commit_for_ever(seed: int) -> None:
    dice = random.Random(seed)
    while True:
        _transact(dice)


def _commit_often(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(TRANSACTIONS):
        _transact(dice)


def _sweep_for_ever(seed: int) -> None:
    from django_wsmux.groups import outbox

    while True:
        outbox.sweep()


def _fork(work: Callable[[int], None], seed: int) -> int:
    from django.db import connections

    connections.close_all()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work(seed)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def _left() -> int:
    from django_wsmux.models import Outbox

    return Outbox.objects.count()


def _sent(name: str) -> list[Any]:
    from django_wsmux.groups import Group

    return [message.data for message in Group(name).history().messages]


def _problems() -> Iterator[str]:
    """Yield each group whose history is not 1, 2, 3 and so on up to its counter."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT name, value FROM counter")
        counters = dict(cursor.fetchall())
    for name in GROUPS:
        found = [int(text) for text in _sent(name)]
        expected = list(range(1, counters[name] + 1))
        if found != expected:
            missing, extra = sorted({*expected} - {*found}), sorted({*found} - {*expected})
            yield (
                f"{name}: {len(found)} messages instead of {counters[name]}, missing {missing}, "
                f"not committed {extra}, twice {len(found) - len({*found})}, "
                f"in order: {found == sorted(found)}"
            )


def _hand_over() -> None:
    """Check that a sender that finds locked rows neither waits nor leaves its own rows.

    The rows of the locked group are left to the sender that holds the lock, which is still sending.
    The rows of another group are sent at once.
    """
    from django.db import connection, transaction

    from django_wsmux.groups import Group, outbox
    from django_wsmux.groups.sequencer import sequencer

    def put(text: str, *names: str) -> None:
        try:
            with transaction.atomic():
                for name in names:
                    Group(name).send(text, on_commit=True, stored=True)
        finally:
            connection.close()

    sending, may_send = threading.Event(), threading.Event()

    class Slow:
        """The sequencer, which the first sender waits for."""

        def send(self, *args: Any, **options: Any) -> Any:
            if threading.current_thread() is first:
                sending.set()
                assert may_send.wait(TIMEOUT)
            return sequencer.send(*args, **options)

    first = threading.Thread(target=put, args=("first", "room.x", "room.y"))
    with patch.object(outbox, "sequencer", Slow()):
        first.start()
        assert sending.wait(TIMEOUT)
        put("second", "room.z", "room.y")
        assert (_sent("room.x"), _sent("room.y"), _sent("room.z")) == ([], [], ["second"])
        outbox.sweep()
        assert _left() == 3
        may_send.set()
        first.join(TIMEOUT)
    assert (_sent("room.x"), _sent("room.y")) == (["first"], ["first", "second"])
    assert _left() == 0


def _run_without_kills() -> None:
    """Check that the processes leave no row when all of them have finished."""
    pids = [_fork(_commit_often, seed) for seed in range(PROCESSES)]
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    assert statuses == [0] * PROCESSES, statuses
    assert _left() == 0, f"{_left()} rows are left"
    assert not (problems := list(_problems())), "\n".join(problems)


def _run_with_kills(kills: int) -> None:
    """Start processes that send or sweep, and kill each of them."""
    dice = random.Random()
    alive: list[int] = []
    for number in range(kills + PROCESSES):
        if len(alive) == PROCESSES:
            time.sleep(dice.uniform(0, LIFE))
            pid = alive.pop(dice.randrange(PROCESSES))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if number < kills:
            is_sweeper = dice.random() < 0.2
            alive.append(_fork(_sweep_for_ever if is_sweeper else _commit_for_ever, number + 10))
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _send(texts: list[str]) -> None:
    from django_wsmux.groups import Group

    for text in texts:
        Group(GROUPS[0]).send(text, on_commit=True, stored=True)


def _die(texts: list[str], when: str) -> None:
    from django.db import transaction

    from django_wsmux.groups import outbox
    from django_wsmux.groups.sequencer import sequencer

    class Last:
        """The sequencer, which kills the process when it has sent a message."""

        def send(self, *args: Any, **options: Any) -> None:
            sequencer.send(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(outbox, "sequencer", Last()), transaction.atomic():
        if when == "committed":
            transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
        _send(texts)


def _model(kills: int) -> None:
    from django.core.management import call_command
    from django.db import connection

    from django_wsmux.groups import outbox

    call_command("migrate", verbosity=0, skip_checks=True)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE counter (name varchar(20) PRIMARY KEY, value integer)")
        for name in GROUPS:
            cursor.execute("INSERT INTO counter VALUES (%s, 0)", [name])
    if connection.features.has_select_for_update_nowait:
        _hand_over()
    _run_without_kills()
    _run_with_kills(kills)
    left = _left()
    outbox.sweep()
    assert _left() == 0, f"{_left()} rows are left"
    assert not (problems := list(_problems())), "\n".join(problems)
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(value) FROM counter")
        (total,) = cursor.fetchone()
    print(f"{total} messages, {kills} kills, {left} rows were left for the sweep")


def databases(
    postgres: PostgresServer, folder: Path, template: str = "template1"
) -> dict[str, dict[str, object]]:
    """Return an entry of ``DATABASES`` for a new database of each kind.

    Args:
        postgres: the server of the one.
        folder: where the file of the other will be.
        template: the database of the server that is copied.
    """
    name = f"db{uuid4().hex}"
    postgres.ask(f"CREATE DATABASE {name} TEMPLATE {template}")
    return {
        "PostgreSQL": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": "postgres",
            "HOST": "127.0.0.1",
            "PORT": postgres.port,
        },
        "SQLite": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(folder / "db.sqlite3"),
            "OPTIONS": {"timeout": 60, "init_command": _PRAGMAS},
        },
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--model", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--send", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--die", help=argparse.SUPPRESS)
    parser.add_argument("--left", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.model or arguments.send or arguments.left:
        import django

        django.setup()
        if arguments.model:
            _model(arguments.kills)
        elif arguments.left:
            print(_left())
        elif arguments.die:
            _die(arguments.send, arguments.die)
        else:
            _send(arguments.send)
        return
    postgres = PostgresServer()
    try:
        with tempfile.TemporaryDirectory() as name:
            for label, database in databases(postgres, Path(name)).items():
                folder = Path(name) / label
                folder.mkdir(mode=0o700)
                result = model(environment(folder, database), kills=arguments.kills)
                print(f"{label}: {result}", end="", flush=True)
    finally:
        postgres.stop()


if __name__ == "__main__":
    _main()
