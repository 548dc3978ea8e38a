"""The tables of the app whose models are sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.test import override_settings
from django.utils import translation

from django_wsmux.groups.sequencer import sequencer
from django_wsmux.history import stores

from . import SITE
from .lines import models

#: In the order in which they can be created.
MODELS = [
    models.Room,
    models.Line,
    models.VoiceLine,
    models.Task,
    models.Cell,
    models.Note,
    models.Measure,
    models.Broken,
    models.Stored,
]


@pytest.fixture(autouse=True)
def language() -> None:
    """Begin with the language of the settings; a request of another test may have left its own."""
    translation.deactivate()


@pytest.fixture(scope="module")
def tables(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Install the app, and create its tables."""
    apps = [*settings.INSTALLED_APPS, "tests.html.lines"]
    with override_settings(INSTALLED_APPS=apps), django_db_blocker.unblock():
        _create("default")
        yield
        with connections["default"].schema_editor() as editor:
            for model in reversed(MODELS):
                editor.delete_model(model)


@pytest.fixture(scope="module")
def other(tables: None, django_db_blocker: Any) -> Iterator[None]:
    """Add another database with the same tables."""
    name = "file:memorydb_lines?mode=memory&cache=shared"
    connections.databases["other"] = connections.databases["default"] | {"NAME": name}
    with django_db_blocker.unblock():
        call_command("migrate", database="other", verbosity=0)
        _create("other")
        yield
        connections["other"].close()
    del connections["other"], connections.databases["other"]


@pytest.fixture
def kept() -> Iterator[None]:
    """Groups with a history, and the outbox."""
    history = {name: {"messages": 100, "seconds": 600} for name in ("kept.*", "room.*")}
    with override_settings(
        WEBSOCKET_HISTORY=history, WEBSOCKET_BACKEND="memory://", WEBSOCKET_OUTBOX=True, **SITE
    ):
        stores.reset()
        sequencer.reset()
        yield
        sequencer.reset()
        stores.reset()


def _create(alias: str) -> None:
    with connections[alias].schema_editor() as editor:
        for model in MODELS:
            editor.create_model(model)
