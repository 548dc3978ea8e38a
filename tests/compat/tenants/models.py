"""The tenants, and whose groups are meant."""

from __future__ import annotations

from django.db import connection, models
from django_tenants.models import DomainMixin, TenantMixin

__all__ = ["Client", "Domain", "group_prefix"]


class Client(TenantMixin):  # type: ignore[misc]  # the package has no types
    """A tenant."""

    name = models.CharField(max_length=100)
    auto_create_schema = True


class Domain(DomainMixin):  # type: ignore[misc]
    """Where a tenant is found."""


def group_prefix() -> str:
    """Return the schema that is active, for ``WEBSOCKET_GROUP_PREFIX``."""
    return str(connection.schema_name)  # type: ignore[attr-defined]
