"""Signed ids of clients, and identities of users."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.test import RequestFactory, override_settings

from django_wsmux.groups import clients


def test_requests() -> None:
    """An ordinary request names its client in a header, with a signature."""
    factory, signed = RequestFactory(), clients.sign("someone")

    def client_of(value: str) -> Any:
        request: Any = factory.get("/", headers={"X-WebSocket-Client": value})
        return request.websocket_client

    assert client_of(signed) == "someone"
    assert client_of(signed.replace("~", ".p1~")) == "someone.p1"
    for wrong in ("", "someone", f"{signed}A", signed.replace("some", "any"), "\xe9"):
        assert client_of(wrong) is None
    nothing: Any = factory.get("/")
    assert nothing.websocket_client is None


def test_rotation() -> None:
    """Signatures with SECRET_KEY_FALLBACKS are also accepted."""
    signed = clients.sign("someone")
    assert len(signed) == len("someone~") + 22
    with override_settings(SECRET_KEY="new"):
        assert clients.verified(signed) is None
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        assert clients.verified(signed) == "someone"
        assert clients.sign("someone") != signed


def test_identities() -> None:
    """Each user has another identity, which reveals nothing; all anonymous users share one."""
    ann, bob = User(pk=1), User(pk=2)
    assert clients.identity_of(ann) != clients.identity_of(bob)
    assert len(clients.identity_of(ann)) == 22
    assert clients.identity_of(AnonymousUser()) == clients.identity_of(User()) == clients.ANONYMOUS
    assert clients.is_identity(clients.identity_of(ann), "1")
    assert not clients.is_identity(clients.identity_of(ann), "2")
    assert not clients.is_identity(clients.identity_of(ann), None)
    assert clients.is_identity(clients.ANONYMOUS, None)
    assert not clients.is_identity(clients.ANONYMOUS, "1")
    assert not clients.is_identity("\ud800", "1")
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        new = clients.identity_of(ann)
        assert clients.is_identity(new, "1")
    assert not clients.is_identity(new, "1")


def test_unknown_id() -> None:
    """A request to close the socket of a client that is not here does nothing."""
    clients.close_older(clients.group_of("someone"), 0.0)
