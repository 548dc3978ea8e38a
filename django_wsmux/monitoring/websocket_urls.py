"""The URL of the socket that updates the admin's page, for ``WEBSOCKET_URLCONF``::

path("admin/sockets/", include("django_wsmux.monitoring.websocket_urls"))
"""

from __future__ import annotations

from django.urls import path

from .page import NAMESPACE, LiveOverview

__all__ = ["app_name", "urlpatterns"]

app_name = NAMESPACE

urlpatterns = [path("", LiveOverview.as_view(), name="overview")]
