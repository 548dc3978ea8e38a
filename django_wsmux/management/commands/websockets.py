"""``manage.py websockets``: list the sockets of all processes, send to them, close them.

::

    manage.py websockets [--group NAME] [--user NAME] [--path TEXT] [--older-than TIME]
                         [--younger-than TIME] [--limit N] [--json]
    manage.py websockets stats [--json]
    manage.py websockets send GROUP MESSAGE
    manage.py websockets disconnect USER
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import conf
from ...exceptions import BackendUnavailable
from ...groups.group import Group
from ...groups.members import name_of, prefix_of
from ...groups.namespace import doubts
from ...groups.pubsub import pubsub
from ...groups.users import disconnect
from ...monitoring.access_log import safe
from ...monitoring.filters import Filter
from ...monitoring.overview import MAX_LIMIT, OpenSocket, Overview, is_alone, survey
from ...templatetags.websocket_admin import age

__all__ = ["Command"]

_HEADINGS: Final = (
    *("path", "user", "address", "open for", "messages in", "out", "bytes in", "out"),
    *("unread", "unsent", "worker"),
)

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Command(BaseCommand):
    """List the open sockets, send to a group, disconnect a user."""

    help = "List the open sockets and groups of all processes, send to a group, disconnect a user."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the command-line arguments."""
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.add_argument(
            "--group", metavar="NAME", help="Only the members of this group, or of 'room.*'."
        )
        parser.add_argument(
            "--prefix", metavar="PREFIX", help="With --group: only with this prefix of its name."
        )
        parser.add_argument("--user", metavar="NAME", help="Only the sockets of this user.")
        parser.add_argument("--path", metavar="TEXT", help="Only with this in path or address.")
        for name, words in (("older", "at least"), ("younger", "less than")):
            parser.add_argument(
                f"--{name}-than",
                type=_duration,
                metavar="TIME",
                help=f"Only those open for {words} this time: seconds, or 5m, 2h, 1d.",
            )
        parser.add_argument(
            "--limit",
            type=int,
            default=100,
            metavar="N",
            help="Sockets and groups that each process lists: 100 by default, "
            f"at most {MAX_LIMIT}.",
        )
        actions = parser.add_subparsers(dest="action", metavar="stats | send | disconnect")
        stats = actions.add_parser("stats", help="Show the counters of each process.")
        stats.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
        send = actions.add_parser("send", help="Send a text message to a group.")
        send.add_argument("group_name", metavar="GROUP")
        send.add_argument("message", metavar="MESSAGE")
        leave = actions.add_parser("disconnect", help="Close all sockets of a user, with 4401.")
        leave.add_argument("user_name", metavar="USER")
        leave.add_argument("--id", action="store_true", help="USER is a primary key.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the action."""
        if is_alone():
            raise CommandError(
                f"WEBSOCKET_BACKEND is {conf.get('WEBSOCKET_BACKEND')}, which connects no "
                f"processes, so this command finds no sockets. Use local://, or a broker."
            )
        try:
            getattr(self, f"_{options['action'] or 'list'}")(options)
        except BackendUnavailable as error:
            raise CommandError(str(error)) from error

    def _send(self, options: dict[str, Any]) -> None:
        group = _group(options["group_name"])
        count = group.count()
        group.send(options["message"])
        self.stdout.write(f"sent to {count} sockets")
        if not count:
            self._warn_of_none(_collect(0))

    def _disconnect(self, options: dict[str, Any]) -> None:
        name = options["user_name"]
        # A deleted user may still have sockets.
        user = name if options["id"] else _user(name)
        count = Group.for_user(user).count()
        disconnect(user)
        self.stdout.write(f"{count} sockets of {safe(name)} closed")
        if not count:
            self._warn_of_none(_collect(0))

    def _stats(self, options: dict[str, Any]) -> None:
        overview = _collect(0)
        self._warn_of_none(overview)
        if options["json"]:
            counters = {process.name: process.counters for process in overview.processes}
            numbers = {process.name: process.generation for process in overview.processes}
            self._write_json(
                {"workers": counters, "all": overview.counters, "generations": numbers}
            )
        else:
            self._write_missing(overview)
            headings = ("", *(process.name for process in overview.processes), "all")
            generations = [process.generation or "-" for process in overview.processes]
            rows = [(name, *values) for name, values in overview.rows]
            self._write_table(headings, [("generation", *generations, "-"), *rows])

    def _list(self, options: dict[str, Any]) -> None:
        prefix, user_id = options["prefix"], None
        if options["user"]:
            key = Group.for_user(_user(options["user"])).key()
            user_id, prefix = name_of(key).partition(":")[2], prefix_of(key)
        wanted = Filter(
            group=options["group"] and _group(options["group"]).name,
            prefix=prefix,
            user_id=user_id,
            text=options["path"] or "",
            older_than=options["older_than"] or 0,
            younger_than=options["younger_than"],
        )
        overview = _collect(options["limit"], wanted)
        self._warn_of_none(overview)
        plain = [each for each in overview.groups if not each.prefix]
        prefixed = [each for each in overview.groups if each.prefix]
        if options["json"]:
            by_prefix: dict[str, dict[str, int]] = {}
            for each in prefixed:
                by_prefix.setdefault(each.prefix, {})[each.name] = each.members
            self._write_json(
                {
                    "sockets": [asdict(each) for each in overview.sockets],
                    "omitted": overview.omitted,
                    "groups": {each.name: each.members for each in plain},
                    "groups_by_prefix": by_prefix,
                    "groups_omitted": overview.groups_omitted,
                }
            )
            return
        processes = len(overview.processes)
        self._write_missing(overview)
        if not processes:
            return
        self.stdout.write(f"{overview.total} sockets in {processes} processes\n\n")
        self._write_table(_HEADINGS, map(_row, overview.sockets))
        self._write_omitted(overview.omitted)
        self.stdout.write("\n")
        if prefixed:
            rows = [(safe(each.prefix), safe(each.name), each.members) for each in overview.groups]
            self._write_table(("prefix", "group", "members"), rows)
        else:
            self._write_table(
                ("group", "members"), [(safe(each.name), each.members) for each in plain]
            )
        self._write_omitted(overview.groups_omitted)

    def _warn_of_none(self, overview: Overview) -> None:
        """Write where no process was found, if that is the case."""
        if overview.processes or overview.missing:
            return
        backend = pubsub.backend()
        assert backend is not None  # see is_alone()
        lines = [
            f"found no process in {backend.place}",
            "A process can be found after its first handshake.",
            *(f"Also, {hint}." for hint in backend.hints()),
            *(f"{doubt} {cure}" for doubt, cure in doubts()),
        ]
        self.stderr.write("\n".join(lines))

    def _write_json(self, value: Any) -> None:
        self.stdout.write(json.dumps(value, indent=2))

    def _write_missing(self, overview: Overview) -> None:
        if overview.missing:
            self.stderr.write(
                f"{overview.missing} processes did not answer in time and are not included"
            )

    def _write_omitted(self, count: int) -> None:
        if count:
            self.stdout.write(f"and {count} more; see --limit")

    def _write_table(self, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        lines = [headings, *(tuple(map(str, row)) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self.stdout.write("  ".join(cells).rstrip())


def _row(each: OpenSocket) -> tuple[Any, ...]:
    return (
        *(each.path, safe(_user_of(each)), safe(each.address or "-"), age(each.age)),
        *(each.messages_in, each.messages_out, each.bytes_in, each.bytes_out),
        *(each.unread, each.unsent, each.worker),
    )


def _user_of(each: OpenSocket) -> str:
    user = each.user_id or "-"
    return f"{user} ({each.prefix})" if each.prefix else user


def _duration(text: str) -> float:
    """Return a duration in seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: use 90, 5m, 2h or 1d")
    return float(match[1]) * _UNITS[match[2]]


def _collect(limit: int, wanted: Filter | None = None) -> Overview:
    overview = survey(wanted or Filter(), limit)
    if overview.problem:
        raise CommandError(overview.problem)
    return overview


def _group(name: str) -> Group:
    try:
        return Group(name)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _user(name: str) -> Any:
    model = get_user_model()
    try:
        return model._default_manager.get_by_natural_key(name)
    except model.DoesNotExist:
        raise CommandError(f"there is no user {name!r}") from None
