"""A Celery application of the test project: ``celery -A tests.compat.tasks worker``."""

from __future__ import annotations

import os

import django
from celery import Celery

from django_wsmux.groups import Group

__all__ = ["announce", "app"]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.project.settings")
django.setup()

app = Celery("tests", broker=os.environ["TEST_BROKER"], set_as_current=False)

# Use the backend in the parent process, like an application that announces its start. Children that
# are forked afterwards must not use its connections.
Group("starts").send("a Celery worker starts", fail_silently=True)


@app.task(name="announce")  # type: ignore[untyped-decorator]  # Celery has no types
def announce(group: str, text: str) -> int:
    """Send to a group; return the process that sent it."""
    Group(group).send(text)
    return os.getpid()
