"""Runs the recipe of ``docs/tasks.rst`` with ``django.tasks``, or its backport."""

from __future__ import annotations

import signal
from importlib.util import find_spec
from pathlib import Path

from websockets.typing import Subprotocol

from tests.manual.recipes import Recipe, commands, wait_for_end, wait_for_line
from tests.support import GUNICORN_OPTIONS

V1 = Subprotocol("wsmux.v1")

HEADING = "With django.tasks"

#: The commands of the section that keep running.
SERVE, WORK = commands(HEADING)[-2:]

#: Django 5.2 needs the backport.
TASKS = "django.tasks" if find_spec("django.tasks") else "django_tasks"

#: What the last sentence of the page replaces in the tests.
OWN_TESTS = {
    "make_report(self": "make_report.call(self",
    "from mysite.celery import app\n": "from django.test import override_settings\n",
    "class ReportTests": (
        '@override_settings(TASKS={"default": {"BACKEND": '
        '"django.tasks.backends.immediate.ImmediateBackend"}})\n'
        "class ReportTests"
    ),
    "        app.conf.task_always_eager = True  # delay() runs the task at once\n": "",
    "django.tasks": TASKS,
}


def test_recipe(tmp_path: Path) -> None:
    """Progress arrives complete and in order, also during a deploy and for a page that was away."""
    recipe = Recipe(tmp_path, HEADING, {}, ("django.tasks", TASKS))
    options = " ".join(("-b 127.0.0.1:0", *GUNICORN_OPTIONS))
    server = recipe.serve(SERVE, GUNICORN_CMD_ARGS=options)
    try:
        with recipe.running(WORK, "--no-reload", "--interval=0.1"):
            path = recipe.start_report(server, 1_000_000)
            shown, at = recipe.open_page(server, path)
            with recipe.connect(server, path) as websocket:
                wait_for_line(websocket, 3)
                # A deploy.
                old = server.workers
                server.signal(signal.SIGHUP)
                for pid in old:
                    server.wait_for_log(rf"Worker exiting \(pid: {pid}\)")
                wait_for_line(websocket, recipe.stored(1)[-1] + 1)
                websocket.send('{"type": "stop"}')
                wait_for_end(websocket)
            stored = recipe.stored(1)
            assert stored == list(range(1, len(stored) + 1))
            with recipe.connect(server, f"{path}?at={at}") as websocket:
                missed = wait_for_line(websocket, stored[-1])
            assert missed == list(range(missed[0], len(stored) + 1))
            assert missed[0] <= len(shown) + 1
            with recipe.connect(server, path, subprotocols=[V1]) as websocket:
                assert recipe.count_words(server, path, websocket) == 4 * len(stored)
    finally:
        server.stop()
    tests = tmp_path / "reports" / "tests.py"
    for old_text, new_text in OWN_TESTS.items():
        assert old_text in tests.read_text() or old_text == TASKS
        tests.write_text(tests.read_text().replace(old_text, new_text))
    output = recipe.run(commands("Testing")[0])
    assert "Ran 5 tests" in output
