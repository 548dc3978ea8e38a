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

# Used in the parent process, as an application does that tells others of its start: the children
# that are forked afterwards must not go on with its connections.
Group("starts").send("a Celery worker starts", fail_silently=True)


@app.task(name="announce")  # type: ignore[untyped-decorator]  # Celery has no types
def announce(group: str, text: str) -> int:
    """Send to a group; return the process that has done it."""
    Group(group).send(text)
    return os.getpid()
