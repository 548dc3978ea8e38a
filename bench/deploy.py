"""What clients notice of a deploy: thousands of sockets and pages while gunicorn reloads.

::

    python bench/deploy.py                              # what clients notice
    python bench/deploy.py --backend redis --signed-in
    python bench/deploy.py --cpu                        # what it costs

Clients hold a socket each and receive a steady flow of group messages, some of them talk, and pages
are requested all the time, some of which send the messages. gunicorn gets SIGHUP several times.
Exits with 1 if a socket was closed, a page failed, an answer was wrong, or a message was lost or
came twice, in a group with history, or in one without on ``local://``. See README.rst.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crowd import Crowd, Pages
from harness import (
    SERVERS,
    BenchError,
    Contestant,
    Server,
    allow_many_files,
    gunicorn,
    leave_on_sigterm,
    running,
    server_environment,
)
from reloads import Workers

#: Clients of the reloads that show the cost of reloading itself.
FEW = 20

GROUPS = {ord("k"): "with history", ord("p"): "without history"}


@dataclass(frozen=True)
class Stage:
    """A running server.

    Attributes:
        server: gunicorn.
        workers: its workers.
        keys: session keys, one for each client.
        options: of the command line.
    """

    server: Server
    workers: Workers
    keys: list[str]
    options: argparse.Namespace


# What clients notice


async def deploy(stage: Stage) -> list[str]:
    """Reload under load; return a list of problems."""
    options, address = stage.options, stage.server.address
    await stage.workers.ready()
    keys = stage.keys if options.signed_in else [""] * options.clients
    crowd = Crowd(address, "/board/", keys, options.talkers)
    await crowd.settle()
    pages = [
        Pages(address, "/say/{number}/", options.rate, keeps_alive=False),
        Pages(address, "/", options.rate, keeps_alive=False),
        Pages(address, "/", options.rate, keeps_alive=True),
    ]
    asking = [asyncio.create_task(each.ask()) for each in pages]
    crowd.start_talking()
    quiet: list[float] = []
    moving: list[float] = []
    await everybody_hears(crowd, pages[0])
    for _ in range(options.reloads):
        crowd.take_waits()
        await asyncio.sleep(options.pause)
        quiet += crowd.take_waits()
        seconds = await stage.workers.reload()
        # All clients receive messages from the new workers.
        await everybody_hears(crowd, pages[0])
        moving += crowd.take_waits()
        print(f"the old workers ended after {seconds:.2f} s", flush=True)
    asking[0].cancel()
    # Those of another worker may come late.
    late = asyncio.create_task(crowd.wait(lambda: not any(lost(crowd).values()), "messages"))
    await asyncio.wait([late], timeout=options.patience)
    late.cancel()
    for task in asking:
        task.cancel()
    wrong = report(crowd, pages, options)
    if options.talkers:
        report_waits(f"{options.pause:g} s before each reload", quiet)
        report_waits("each reload", moving)
    crowd.leave()
    return wrong


async def everybody_hears(crowd: Crowd, speaker: Pages) -> None:
    """Wait until all clients have received messages that are still to be sent."""
    number = speaker.answered + 2

    def behind() -> dict[str, int]:
        counts = {
            name: sum(each.is_open and each.heard[group].last < number for each in crowd.sockets)
            for group, name in GROUPS.items()
        }
        return {name: count for name, count in counts.items() if count}

    try:
        await crowd.wait(lambda: not behind(), "messages")
    except BenchError as error:
        raise BenchError(f"{error}; without message {number}: {behind()}") from None


def lost(crowd: Crowd) -> dict[int, int]:
    """Return how many messages were lost on open sockets, by group."""
    return {
        group: sum(len(each.heard[group].missing) for each in crowd.sockets) for group in GROUPS
    }


def report(crowd: Crowd, pages: list[Pages], options: argparse.Namespace) -> list[str]:
    """Print the results; return a list of problems."""
    failures = [failure for each in pages for failure in each.failures]
    print(
        f"{options.clients} clients{' who are signed in' if options.signed_in else ''}, "
        f"{options.workers} workers, {options.backend}, {options.reloads} reloads: "
        f"{sum(crowd.codes.values())} sockets closed {dict(crowd.codes) or ''}\n"
        f"{sum(each.answered for each in pages)} pages, {len(failures)} failed, the slowest took "
        f"{max(each.slowest for each in pages):.2f} s\n"
        f"{crowd.echoes} answers to {options.talkers} clients, {len(crowd.wrong_echoes)} wrong"
    )
    wrong = [f"a page failed: {failure}" for failure in failures[:10]]
    wrong += [f"a wrong answer: {answer}" for answer in crowd.wrong_echoes[:10]]
    if crowd.codes:
        wrong.append(f"sockets were closed: {dict(crowd.codes)}")
    for group, missing in lost(crowd).items():
        came = sum(each.heard[group].count for each in crowd.sockets)
        doubled = sum(each.heard[group].doubled for each in crowd.sockets)
        text = f"{GROUPS[group]}: {came} messages received, {missing} lost, {doubled} doubled"
        print(text)
        is_promised = group == ord("k") or options.backend == "local"
        if is_promised and missing + doubled:
            wrong.append(text)
    return wrong


def report_waits(when: str, waits: list[float]) -> None:
    """Print how long clients that talk waited for an answer at most."""
    ordered = sorted(waits)
    p99 = ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)]
    print(
        f"longest wait of a client during {when}: median {statistics.median(ordered) * 1000:.0f} "
        f"ms, p99 {p99 * 1000:.0f} ms, most {ordered[-1] * 1000:.0f} ms"
    )


# What it costs


async def compare(stage: Stage) -> list[str]:
    """Print the CPU time of moving a socket, and of reconnecting; return a list of problems."""
    await stage.workers.ready()
    costs: dict[tuple[str, str], list[float]] = {}
    wrong: list[str] = []
    for number in range(stage.options.rounds):
        for who in ("anonymous", "signed in"):
            paths = ["/board/", "/fixed/"]
            # What changes with time shall not always meet the same way.
            for path in reversed(paths) if number % 2 else paths:
                cost = await cost_of_a_socket(stage, path, who, wrong)
                costs.setdefault((who, path), []).append(cost * 1e6)
    print(f"CPU us for a socket, {stage.options.clients} clients:")
    for who in ("anonymous", "signed in"):
        moved, reconnected = costs[who, "/board/"], costs[who, "/fixed/"]
        ratios = [two / one for one, two in zip(moved, reconnected, strict=True)]
        print(
            f"{who}: moved {in_words(moved)}, closed and reconnected {in_words(reconnected)}; "
            f"times {statistics.median(ratios):.1f} ({', '.join(f'{x:.1f}' for x in ratios)})"
        )
    return wrong


def in_words(figures: list[float]) -> str:
    """Return the median, and all figures."""
    each = ", ".join(f"{figure:.0f}" for figure in figures)
    return f"{statistics.median(figures):.0f} ({each})"


async def cost_of_a_socket(stage: Stage, path: str, who: str, wrong: list[str]) -> float:
    """Return the CPU seconds that a reload takes for each further quiet socket.

    The reload with a few sockets contains what a new worker does once.
    """
    keys = stage.keys if who == "signed in" else [""] * len(stage.keys)
    crowd = Crowd(stage.server.address, path, keys[:FEW])
    small = await cost_of_a_reload(stage, crowd)
    crowd.add(keys[FEW:])
    large = await cost_of_a_reload(stage, crowd)
    if path == "/board/" and crowd.codes:
        wrong.append(f"sockets were closed: {dict(crowd.codes)}")
    if path == "/fixed/" and crowd.codes != {1012: len(keys) + FEW}:
        wrong.append(f"sockets were not closed with 1012: {dict(crowd.codes)}")
    crowd.leave()
    print(f"{path}, {who}: {small:.2f} s with {FEW} clients, {large:.2f} s with all", flush=True)
    return (large - small) / (len(keys) - FEW)


async def cost_of_a_reload(stage: Stage, crowd: Crowd) -> float:
    """Return the CPU seconds of a reload, from when the new workers are loaded until all rest."""
    await crowd.settle()
    await stage.workers.rest()
    await stage.workers.reload()
    await crowd.settle()
    return await stage.workers.rest()


# The run


@contextmanager
def broker(name: str, scratch: Path) -> Iterator[dict[str, str]]:
    """Run what a backend needs; yield the environment of the servers."""
    from tests.services import PostgresServer, RedisServer

    if name == "local":
        yield {"BENCH_BACKEND": f"local://?namespace=deploy{os.getpid()}"}
    elif name == "redis":
        redis = RedisServer(scratch)
        try:
            yield {"BENCH_BACKEND": redis.url}
        finally:
            redis.stop()
    else:
        postgres = PostgresServer(max_connections=200)
        try:
            yield {"BENCH_BACKEND": "postgres://", "BENCH_DEFAULT": str(postgres.port)}
        finally:
            postgres.stop()


def create_users(scratch: Path, variables: dict[str, str], count: int) -> list[str]:
    """Create the database; return the session keys of that many users."""
    command = [sys.executable, "deploy_database.py", str(count)]
    environment = {**server_environment(scratch), **variables}
    made = subprocess.run(
        command, cwd=SERVERS, env=environment, capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise BenchError(f"creating the database failed:\n{made.stderr}")
    return made.stdout.split()


def run(options: argparse.Namespace) -> Sequence[str]:
    """Start everything and measure; return a list of problems."""
    worker = "django_wsmux.worker.WebSocketWorker"
    with tempfile.TemporaryDirectory(prefix="django-wsmux-bench-") as directory:
        scratch = Path(directory)
        loaded = scratch / "loaded"
        with broker(options.backend, scratch) as variables:
            variables |= {
                "BENCH_DRAIN_SECONDS": "1",
                # Pings are no part of the cost.
                "BENCH_PING_SECONDS": "3600" if options.cpu else "20",
                "BENCH_LOADED": str(loaded),
            }
            keys = create_users(scratch, variables, options.clients)
            # A busy machine needs long to start workers, and the old ones wait for them.
            patience = ("--graceful-timeout", "300", "--timeout", "300")
            command = gunicorn(worker, "deploy_site", "-w", str(options.workers), *patience)
            with running(Contestant("deploy", command, variables), scratch, None) as server:
                workers = Workers(server, loaded, options.workers)
                stage = Stage(server, workers, keys, options)
                try:
                    return asyncio.run(compare(stage) if options.cpu else deploy(stage))
                finally:
                    if options.log:
                        shutil.copy(scratch / "deploy.log", options.log)


def main() -> None:
    """Deploy and check."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--backend", choices=["local", "redis", "postgres"], default="local")
    parser.add_argument("--log", help="file for a copy of the server's log")
    parser.add_argument(
        "--cpu", action="store_true", help="measure CPU time, with quiet clients and one worker"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of --cpu")
    parser.add_argument("--signed-in", action="store_true", help="each client has a session")
    parser.add_argument("--talkers", type=int, default=150, help="clients that talk")
    parser.add_argument("--reloads", type=int, default=3)
    parser.add_argument("--rate", type=float, default=10.0, help="pages a second, of each kind")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between reloads")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds for late messages")
    options = parser.parse_args()
    if options.cpu and options.clients <= FEW:
        parser.error(f"--cpu needs more than {FEW} clients")
    if options.cpu:
        # With several, those that leave would wait for the last, which costs as long as it takes.
        options.workers = 1
    leave_on_sigterm()
    allow_many_files()
    try:
        wrong = run(options)
    except BenchError as error:
        sys.exit(f"bench/deploy.py: {error}")
    if wrong:
        sys.exit("\n".join(f"bench/deploy.py: {each}" for each in wrong))
    print("nothing was lost")


if __name__ == "__main__":
    main()
