"""The sockets of the host ``shop.localhost``."""

from __future__ import annotations

from django.urls import path

from .sockets import host

__all__ = ["urlpatterns"]

urlpatterns = [path("host/", host)]
