#!/usr/bin/env python3
"""Count the instructions for a message, a delivery, a handshake and a page, and guard them.

    python bench/instructions.py              all rows, compared with the table in the repository
    python bench/instructions.py --short      the rows that CI measures
    python bench/instructions.py --rows function/64 handshake
    python bench/instructions.py --update     measure all rows, and write the table
    python bench/instructions.py --peers picows c

Exits with 1 if a row is more than 5 %, and more than 150 instructions, dearer than in the table,
bench/instructions.json. The
libraries have the versions of bench/instructions.txt. bench/README.rst explains the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callgrind import counting, problem
from harness import (
    BENCH,
    HEADERS,
    ROOT,
    SERVERS,
    BenchError,
    leave_on_sigterm,
    prepare,
)
from loads import Echo, Fanout, Handshakes, Load, Pages
from peers import OURS, PEERS, WORKER, Peer, entries, under_gunicorn
from report import lay_out

__all__ = ["ROWS", "check_extensions", "compare", "dearer", "differences", "main", "pinned"]

TABLE = BENCH / "instructions.json"
REQUIREMENTS = BENCH / "instructions.txt"

#: The extensions, and where their sources are.
EXTENSIONS = {
    "django_wsmux.protocol._speedups": "django_wsmux/protocol",
    "django_wsmux.connection._reactor": "django_wsmux/connection",
}

#: How much dearer a row may be than in the table: a share of it, or this many instructions if
#: that is more. What the process does beside its work is part of each row, and varies by as much.
TOLERANCE = 0.05
SPREAD = 150

SHORT_TEXT = "x" * 64
LONG_TEXT = "x" * 2**14
WIDE_TEXT = "Größe, 大きさ, 🎈; " * 4
JSON_TEXT = json.dumps([{"type": "said", "name": f"user{n}", "text": "hello"} for n in range(20)])


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        key: name on the command line and in the table.
        title: what is counted.
        load: what the server is made to do.
        application: the site.
        is_short: whether CI measures it.
    """

    key: str
    title: str
    load: Load
    application: str = "instructions_site"
    is_short: bool = False


def messages(kind: str, title: str) -> list[Row]:
    """Return the rows for the messages of one kind of view."""
    path = f"/{kind}/echo/"
    loads = {
        "64": ("64 B", Echo(path, SHORT_TEXT)),
        "16k": ("16 KiB", Echo(path, LONG_TEXT)),
        "wide": (f"{len(WIDE_TEXT)} wide characters", Echo(path, WIDE_TEXT)),
        "deflate": (
            f"{len(JSON_TEXT)} B, compressed",
            Echo(path, JSON_TEXT, compressed=True, few=2, many=22),
        ),
        "v1": ("64 B, wsmux.v1", Echo(path, SHORT_TEXT, v1=True)),
    }
    return [
        Row(
            f"{kind}/{name}",
            f"message, {title}, {what}",
            load,
            is_short=name == "64" or (kind, name) in (("function", "16k"), ("event", "v1")),
        )
        for name, (what, load) in loads.items()
    ]


ROWS = (
    *messages("function", "function view"),
    *messages("event", "event view"),
    *messages("lean", "lean event view"),
    Row(
        "delivery/plain",
        "delivery to one of 200 members",
        Fanout("/event/room/", "/function/speaker/"),
        is_short=True,
    ),
    Row(
        "delivery/v1",
        "the same, wsmux.v1, group with a history",
        Fanout("/kept/room/", "/kept/speaker/", v1=True),
        is_short=True,
    ),
    Row("handshake", "handshake, with session and user", Handshakes("/event/echo/"), is_short=True),
    Row("page/user", "page, with session and user", Pages("/"), is_short=True),
    Row("page/bare", "page, without them", Pages("/bare/"), is_short=True),
    Row("page/plain", "the same, without the dispatcher", Pages("/bare/"), "plain_site"),
)


# The environment


def pinned() -> tuple[str, ...]:
    """Return the requirements, each with a version."""
    lines = REQUIREMENTS.read_text().splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def site(application: str) -> Peer:
    """Return a site of ours, in an environment with the pinned versions."""
    return Peer(
        "instructions",
        OURS.title,
        under_gunicorn(WORKER, application),
        OURS.offers,
        pinned(),
        tuple(requirement.partition("==")[0] for requirement in pinned()),
    )


def check_extensions(python: str, tree: Path = ROOT) -> None:
    """Check that the C extensions are loaded, and not older than their sources.

    Args:
        python: the program that runs the server.
        tree: where the package is.

    Raises:
        BenchError: they are not, and the figures would be those of other code.
    """
    for name, folder in EXTENSIONS.items():
        answer = subprocess.run(
            [python, "-c", f"import {name} as found; print(found.__file__)"],
            cwd=SERVERS,
            env={**os.environ, "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
            check=False,
        )
        build = "build it with: python setup.py build_ext --inplace"
        if answer.returncode:
            raise BenchError(f"{name} cannot be loaded; {build}\n{answer.stderr}")
        built = os.stat(answer.stdout.strip()).st_mtime
        for source in (tree / folder).rglob("*.[ch]"):
            if source.stat().st_mtime > built:
                raise BenchError(f"{name} is older than {source.name}; {build}")


def versions(peer: Peer, environments: Path) -> dict[str, str]:
    """Return the versions of all that is counted."""
    found = peer.versions(environments)
    is_optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    build = "optimized" if is_optimized else "not optimized"
    found["Python"] += f", {platform.python_compiler()}, {build}"
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True)
    # Not pinned: they hardly matter.
    return found | {
        "valgrind": valgrind.stdout.strip().removeprefix("valgrind-"),
        "libc": " ".join(platform.libc_ver()),
    }


# Measuring


def measure(rows: Sequence[Row], environments: Path) -> dict[str, int]:
    """Return the instructions of each row; each site is started once."""
    found = {}
    for application in dict.fromkeys(row.application for row in rows):
        peer = site(application)
        wanted = {row.key: row.load for row in rows if row.application == application}
        found |= count(peer, environments, wanted)
    return {row.key: found[row.key] for row in rows}


def count(peer: Peer, environments: Path, loads: Mapping[str, Load]) -> dict[str, int]:
    """Return the instructions for one unit of each load."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="bench-instructions-") as directory:
        scratch = Path(directory)
        headers = (prepare(scratch), *HEADERS)
        with counting(peer.contestant(environments), scratch, headers) as server:
            for name, load in loads.items():
                found[name] = server.measure(load)
                print(f"{peer.title}: {name}: {found[name]:,}", file=sys.stderr, flush=True)
    return found


def measure_peers(keys: Sequence[str], environments: Path) -> list[list[str]]:
    """Return a table of the instructions for a message and for a delivery, ours first."""
    columns = ("64 B", "16 KiB", "delivery")
    counts = {}
    for peer in PEERS:
        if peer.key not in (OURS.key, *keys):
            continue
        if not peer.is_installed(environments):
            peer.install(environments)
        loads: dict[str, Load] = {}
        warm = 10 * peer.warmup
        for entry in entries(peer, "echo"):
            path = f"{entry.path}echo/"
            loads[f"{entry.title}/64 B"] = Echo(path, SHORT_TEXT, warm=warm)
            loads[f"{entry.title}/16 KiB"] = Echo(path, LONG_TEXT, warm=warm)
            if "fanout" in peer.offers:
                paths = f"{entry.path}room/", f"{entry.path}speaker/"
                loads[f"{entry.title}/delivery"] = Fanout(*paths, warm=warm)
        counts |= count(peer, environments, loads)
    titles = list(dict.fromkeys(key.partition("/")[0] for key in counts))
    rows = [["server", *columns]]
    for title in titles:
        found = [counts.get(f"{title}/{column}") for column in columns]
        rows.append([title, *("-" if each is None else f"{each:,}" for each in found)])
    return rows


# The verdict


def compare(
    rows: Iterable[Row], found: Mapping[str, int], table: Mapping[str, int]
) -> list[list[str]]:
    """Return the lines of the report: each row, beside the table."""
    lines = [["row", "what", "instructions", "table", "change"]]
    for row in rows:
        known = table.get(row.key)
        change = "-" if known is None else f"{found[row.key] / known - 1:+.1%}"
        cells = (f"{found[row.key]:,}", "-" if known is None else f"{known:,}", change)
        lines.append([row.key, row.title, *cells])
    return lines


def dearer(found: Mapping[str, int], table: Mapping[str, int]) -> list[str]:
    """Return why the figures are not accepted; nothing if they are."""
    reasons = []
    for key, instructions in found.items():
        known = table.get(key)
        if known is None:
            reasons.append(f"{key} is not in the table: run with --update")
        elif instructions > known + max(known * TOLERANCE, SPREAD):
            change = instructions / known - 1
            reasons.append(f"{key} is {change:.1%} dearer: {instructions:,} instead of {known:,}")
    return reasons


def differences(found: Mapping[str, str], table: Mapping[str, str]) -> list[str]:
    """Return which versions are not those of the table; figures of others cannot be compared."""
    return [
        f"{name} is {found.get(name, 'missing')}, in the table {table.get(name, 'missing')}"
        for name in dict.fromkeys((*table, *found))
        if found.get(name) != table.get(name) and name not in ("valgrind", "libc")
    ]


# The command


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    keys = [row.key for row in ROWS]
    others = [peer.key for peer in PEERS if "echo" in peer.offers and peer is not OURS]
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--short", action="store_true", help="only the rows that CI measures")
    what.add_argument("--rows", nargs="+", choices=keys, metavar="ROW", help="only these rows")
    what.add_argument(
        "--peers", nargs="+", choices=others, metavar="PEER", help=f"compare: {', '.join(others)}"
    )
    what.add_argument("--list", action="store_true", help="list the rows, and measure nothing")
    what.add_argument("--update", action="store_true", help="write the table")
    parser.add_argument(
        "--format", choices=("rst", "markdown"), default="rst", help="of the output (default rst)"
    )
    parser.add_argument(
        "--environments",
        type=Path,
        default=ROOT / ".bench",
        metavar="DIRECTORY",
        help="for the environments (default .bench in the tree)",
    )
    options = parser.parse_args()
    options.environments = options.environments.resolve()
    return options


def laid_out(rows: Sequence[Sequence[str]], form: str) -> str:
    """Return a table."""
    if form == "rst":
        return "\n".join(lay_out(rows))
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (rows[0], ["---"] * len(rows[0]), *rows[1:])
    )


def guard(options: argparse.Namespace) -> list[str]:
    """Measure our own rows; return why the figures are not accepted."""
    peer = site("")
    if not peer.is_installed(options.environments):
        peer.install(options.environments)
    check_extensions(peer.program(options.environments))
    used = versions(peer, options.environments)
    table: dict[str, Any] = {"versions": {}, "rows": {}}
    if not options.update:
        table = json.loads(TABLE.read_text())
        if other := differences(used, table["versions"]):
            raise BenchError(f"{'; '.join(other)}: use those, or write the table with --update")
    rows = [
        row
        for row in ROWS
        if (row.is_short or not options.short) and (not options.rows or row.key in options.rows)
    ]
    found = measure(rows, options.environments)
    print(laid_out(compare(rows, found, table["rows"]), options.format))
    if options.update:
        TABLE.write_text(json.dumps({"versions": used, "rows": found}, indent=1) + "\n")
        return []
    return dearer(found, table["rows"])


def main() -> None:
    """Measure and judge."""
    options = parse_arguments()
    leave_on_sigterm()
    if options.list:
        rows = [["row", "what", "in CI"]]
        rows += [[row.key, row.title, "yes" if row.is_short else "no"] for row in ROWS]
        print(laid_out(rows, options.format))
        return
    try:
        if missing := problem():
            raise BenchError(missing)
        if options.peers:
            print(laid_out(measure_peers(options.peers, options.environments), options.format))
            return
        reasons = guard(options)
    except BenchError as error:
        sys.exit(f"bench/instructions.py: {error}")
    if reasons:
        sys.exit("\n".join(f"bench/instructions.py: {reason}" for reason in reasons))


if __name__ == "__main__":
    main()
