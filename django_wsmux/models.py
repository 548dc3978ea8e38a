"""What the PostgreSQL backend stores, for a minute."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

__all__ = ["Payload"]


class Payload(models.Model):
    """A publication that is too large for a notification; only ``postgres://`` writes any."""

    id = models.BigAutoField(primary_key=True)
    created = models.DateTimeField(db_default=Now(), db_index=True)
    data = models.BinaryField()

    def __str__(self) -> str:
        return f"{len(self.data)} bytes of {self.created}"
