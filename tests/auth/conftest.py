"""Fixtures: the sockets of ``site.py``, and a user."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.test import override_settings


@pytest.fixture(autouse=True)
def _own_sockets(sockets: None) -> Iterator[None]:
    with override_settings(
        WEBSOCKET_URLCONF="tests.auth.site",
        # The default hashers are slow.
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ):
        yield


@pytest.fixture
def ann() -> User:
    """A user."""
    return User.objects.create_user("ann", password="secret")
