"""The models: their tables and migrations."""

from __future__ import annotations

import pytest
from django.core.management import call_command

from django_wsmux.models import Payload


def test_table_name() -> None:
    """The statements use the name of the model's table."""
    assert Payload._meta.db_table == "django_wsmux_payload"


@pytest.mark.django_db
def test_migrations_are_complete() -> None:
    """makemigrations finds no changes, with any DEFAULT_AUTO_FIELD."""
    call_command("makemigrations", "django_wsmux", check=True, verbosity=0)
