"""Models for the PostgreSQL backend, which stores rows for a minute, and for the admin's page."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

__all__ = ["Payload", "Socket"]


class Payload(models.Model):
    """A publication that is too large for a notification; only ``postgres://`` writes them."""

    id = models.BigAutoField(primary_key=True)
    created = models.DateTimeField(db_default=Now(), db_index=True)
    data = models.BinaryField()

    def __str__(self) -> str:
        return f"{len(self.data)} bytes of {self.created}"


class Socket(models.Model):
    """Open sockets in the admin: an entry in its index, permissions to view and to close.

    It has no table and no instances.
    """

    id = models.BigAutoField(primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = (("close_socket", "Can close sockets"),)
