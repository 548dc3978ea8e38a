"""The cost of passing a publication from one process to another.

    python bench/backends.py local://
    python bench/backends.py redis://127.0.0.1:6379 --gevent
    python bench/backends.py redis://127.0.0.1:6379 --redis-py     # redis-py's own subscriber

One process publishes as fast as it can, from one or several threads, and another one receives. CPU
time is user and system time of each process. ``postgres://`` needs DJANGO_SETTINGS_MODULE.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import uuid4

ROOT = Path(__file__).resolve().parent.parent

#: Seconds after which a missing message counts as lost.
PATIENCE = 60.0


def cpu() -> float:
    """Return the CPU time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def make_backend(options: argparse.Namespace):
    """Set up Django if it is configured, and create the backend."""
    from django_wsmux.backends import from_url

    if "DJANGO_SETTINGS_MODULE" in os.environ:
        import django

        django.setup()
    return from_url(options.url, namespace=options.namespace)


def receive(options: argparse.Namespace) -> None:
    """Count messages; print "ready" at the start, and the time taken at the end."""
    done = threading.Event()
    arrived = 0
    began = cpu_before = 0.0

    def count(channel: str, payload: bytes) -> None:
        nonlocal arrived, began, cpu_before
        if not arrived:
            began, cpu_before = time.monotonic(), cpu()
        arrived += 1
        if arrived == options.messages:
            done.set()

    if options.redis_py:
        print("ready", flush=True)
        receive_by_redis_py(options, count, done)
    else:
        backend = make_backend(options)
        backend.start(count)
        backend.subscribe("bench").wait(PATIENCE)
        print("ready", flush=True)
        done.wait(PATIENCE)
    seconds = time.monotonic() - began
    print(arrived, seconds, cpu() - cpu_before, flush=True)


def receive_by_redis_py(options: argparse.Namespace, count, done: threading.Event) -> None:
    """Receive with redis-py's subscriber, for comparison."""
    import redis

    pubsub = redis.Redis.from_url(options.url).pubsub()
    pubsub.subscribe(f"wsmux:{options.namespace}:bench")
    while not done.is_set():
        message = pubsub.get_message(timeout=PATIENCE)
        if message is not None and message["type"] == "message":
            count("bench", message["data"])


def publish(options: argparse.Namespace) -> None:
    """Publish from one or several threads; print the time taken."""
    backend = make_backend(options)
    payload = bytes(options.size)

    def work() -> None:
        for _ in range(options.messages // options.threads):
            backend.publish("bench", payload)

    workers = [threading.Thread(target=work) for _ in range(options.threads)]
    began, cpu_before = time.monotonic(), cpu()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.monotonic() - began
    backend.close()
    print(options.messages, seconds, cpu() - cpu_before, flush=True)


def start(role: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    """Start one of the two processes, with the same options."""
    arguments = [*sys.argv[1:], "--role", role, "--namespace", options.namespace]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def report(what: str, line: str) -> None:
    """Print the measurement of a process."""
    count, seconds, cpu_seconds = (float(value) for value in line.split())
    print(
        f"{what:9} {count / seconds:10,.0f}/s {cpu_seconds / count * 1e6:8.1f} us CPU each"
        f"   ({count:,.0f} messages)"
    )


def main() -> None:
    """Run both processes and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gevent", action="store_true")
    parser.add_argument("--redis-py", action="store_true")
    parser.add_argument("--namespace", default=uuid4().hex[:8], help=argparse.SUPPRESS)
    parser.add_argument("--role", choices=["receive", "publish"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.messages -= options.messages % options.threads
    if options.gevent and options.role:
        from gevent import monkey

        monkey.patch_all()
    if options.role:
        {"receive": receive, "publish": publish}[options.role](options)
        return
    receiver = start("receive", options)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    publisher = start("publish", options)
    report("published", publisher.communicate()[0])
    report("received", receiver.communicate()[0])


if __name__ == "__main__":
    main()
