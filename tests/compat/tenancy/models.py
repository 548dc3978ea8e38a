"""Tenants, and what each of them has."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Client(TenantMixin):  # type: ignore[misc]  # django-tenants has no types
    """A tenant."""

    auto_create_schema = False


class Domain(DomainMixin):  # type: ignore[misc]
    """A host name of a tenant."""


class Note(models.Model):
    """A row in the schema of a tenant."""

    objects: ClassVar[models.Manager[Note]] = models.Manager()

    text = models.CharField(max_length=50)
