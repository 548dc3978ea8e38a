"""What the PostgreSQL backend stores, for a minute; and what the page in Django's admin shows."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

__all__ = ["Payload", "Socket"]


class Payload(models.Model):
    """A publication that is too large for a notification; only ``postgres://`` writes any."""

    id = models.BigAutoField(primary_key=True)
    created = models.DateTimeField(db_default=Now(), db_index=True)
    data = models.BinaryField()

    def __str__(self) -> str:
        return f"{len(self.data)} bytes of {self.created}"


class Socket(models.Model):
    """Open sockets, as the admin knows of them: a name in its index, permissions to view and close.

    There is no table, and there are no instances.
    """

    id = models.BigAutoField(primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = (("close_socket", "Can close sockets"),)
