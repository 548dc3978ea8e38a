"""The credentials of a handshake."""

from __future__ import annotations

import pytest
from django.test import RequestFactory

from django_wsmux.auth.authenticators import (
    bearer_token,
)

pytestmark = pytest.mark.django_db


def test_bearer_token() -> None:
    """bearer_token() parses the header, for custom authenticators."""
    requests = RequestFactory()
    assert bearer_token(requests.get("/")) is None
    assert bearer_token(requests.get("/", headers={"Authorization": "Basic x"})) is None
    assert bearer_token(requests.get("/", headers={"Authorization": "Bearer "})) is None
    assert bearer_token(requests.get("/", headers={"Authorization": "bearer  x y"})) == "x y"
