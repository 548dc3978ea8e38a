"""The users."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.contrib import admin
from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models

__all__ = ["Person"]


class Person(AbstractBaseUser, PermissionsMixin):
    """A user who signs in with an address and is called by a name."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(unique=True)
    name = models.CharField(max_length=100)
    is_staff = models.BooleanField(default=False)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar = ["name"]
    objects: ClassVar = BaseUserManager()

    class Meta:
        app_label = "people"

    def __str__(self) -> str:
        return self.name


admin.site.register(Person)
