"""The tenants, and the one that is active."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.db import connection, models
from django_tenants.models import DomainMixin, TenantMixin
from django_tenants.utils import tenant_context

__all__ = ["Client", "Domain", "context", "group_prefix"]


class Client(TenantMixin):  # type: ignore[misc]  # the package has no types
    """A tenant."""

    name = models.CharField(max_length=100)
    auto_create_schema = True


class Domain(DomainMixin):  # type: ignore[misc]
    """A host name of a tenant."""


def context(request: Any) -> Callable[[], Any]:
    """Return a function that activates the tenant of a request, for ``WEBSOCKET_CONTEXT``."""
    return partial(tenant_context, request.tenant)


def group_prefix() -> str:
    """Return the active schema, for ``WEBSOCKET_GROUP_PREFIX``."""
    return str(connection.schema_name)  # type: ignore[attr-defined]
