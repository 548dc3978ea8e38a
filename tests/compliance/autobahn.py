"""Runs Autobahn's cases; from the command line all of them: ``tests/compliance/run``."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support import ROOT, Server

__all__ = ["SUITE", "Verdict", "not_strict", "run", "run_wstest", "serve"]

#: The suite's two halves, RFC 6455 and permessage-deflate: patterns, and the number of cases.
SUITE = {
    "core": (("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"), 301),
    "deflate": (("12.*", "13.*"), 216),
}

#: The best possible verdicts.
STRICT = frozenset({"OK", "INFORMATIONAL"})

_PACKAGES = ("django-wsmux", "django", "gunicorn", "gevent", "gevent-websocket", "kosoku")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The suite's verdict on one case: on its messages and on its closing handshake."""

    case: str
    behavior: str
    close: str
    reason: str

    def __str__(self) -> str:
        return f"{self.case}: {self.behavior}, close {self.close}: {self.reason}"


Runner = Callable[[Server, Iterable[str]], list[Verdict]]


@contextmanager
def serve(worker: str, directory: Path) -> Iterator[Server]:
    """Serve the sample site, whose echo is under test."""
    env = {
        "DJANGO_SETTINGS_MODULE": "tests.compliance.settings",
        "SAMPLE_SITE_DATABASE": str(directory / "db.sqlite3"),
    }
    if worker == "runserver":
        server = Server.runserver(env=env)
    else:
        server = Server.gunicorn(worker, application="sample_site.wsgi", env=env)
    try:
        yield server
    finally:
        server.stop()


def run(server: Server, cases: Iterable[str]) -> list[Verdict]:
    """Run the cases with these ids or patterns, one after another."""
    command = [sys.executable, "-m", "tests.compliance.runner", _echo(server), *cases]
    output = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=True).stdout
    return [Verdict(*verdict) for verdict in json.loads(output)]


def run_wstest(program: str, server: Server, cases: Iterable[str]) -> list[Verdict]:
    """Run the cases with the suite's own runner, which needs Python 2.7.

    Args:
        program: the path of ``wstest``.
        server: the server to test.
        cases: ids or patterns, anchored at their start only.
    """
    with TemporaryDirectory() as directory:
        spec = {
            "options": {"failByDrop": False},
            "outdir": directory,
            "servers": [{"agent": "server", "url": _echo(server)}],
            "cases": list(cases),
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        path = Path(directory, "spec.json")
        path.write_text(json.dumps(spec))
        # Its output is long, and its exit code always 0.
        command = [program, "-m", "fuzzingclient", "-s", str(path)]
        subprocess.run(command, stdout=subprocess.DEVNULL, cwd=directory, check=True)
        index = json.loads(Path(directory, "index.json").read_text())
        return [_verdict(directory, case, entry) for case, entry in index["server"].items()]


def _verdict(directory: str, case: str, entry: dict[str, str]) -> Verdict:
    # Wire logs in the report may contain any bytes, and are not used.
    report = json.loads(Path(directory, entry["reportfile"]).read_text(errors="replace"))
    reason = f"{report['result']} {report['resultClose']}"
    return Verdict(case, entry["behavior"], entry["behaviorClose"], reason)


def _echo(server: Server) -> str:
    return f"ws://127.0.0.1:{server.port}/echo/"


def not_strict(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts that could be better."""
    return [verdict for verdict in verdicts if not {verdict.behavior, verdict.close} <= STRICT]


# The command-line program

_ROW = "{:9} {:8} {:>5} {:>5}  {:32} {}".format


def _counted(values: Iterable[str]) -> str:
    """Return how often each value occurs, the most frequent first."""
    return ", ".join(f"{number} {value}" for value, number in Counter(values).most_common())


def main(workers: Iterable[str], run: Runner) -> int:
    """Run all cases for each worker, print a table, and return 1 if a verdict could be better."""
    print(f"{date.today()}, {platform.platform()}, Python {platform.python_version()}")
    print(*(f"{package} {version(package)}" for package in _PACKAGES), sep=", ")
    print()
    print(_ROW("worker", "cases", "run", "s", "behaviour", "close"), flush=True)
    others: dict[str, list[str]] = {}
    complete = True
    for worker in workers:
        for name, (cases, number) in SUITE.items():
            with TemporaryDirectory() as directory, serve(worker, Path(directory)) as server:
                started = time.monotonic()
                verdicts = run(server, cases)
                seconds = round(time.monotonic() - started)
            behavior = _counted(verdict.behavior for verdict in verdicts)
            close = _counted(verdict.close for verdict in verdicts)
            print(_ROW(worker, name, len(verdicts), seconds, behavior, close), flush=True)
            complete = complete and len(verdicts) == number
            for verdict in not_strict(verdicts):
                what = f"{worker}: {verdict.behavior}, close {verdict.close}: {verdict.reason}"
                others.setdefault(what, []).append(verdict.case)
    for what, ids in others.items():
        print(f"\n{what}\n" + textwrap.fill(" ".join(ids), 98, break_long_words=False))
    return int(bool(others) or not complete)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workers", nargs="*", default=["own", "stock"], help="see tests.support")
    parser.add_argument("--wstest", metavar="PROGRAM", help="run this instead of kosoku")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    runner = partial(run_wstest, arguments.wstest) if arguments.wstest else run
    sys.exit(main(arguments.workers, runner))
