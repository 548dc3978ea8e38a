"""The Django app: what it registers when Django is set up."""

from __future__ import annotations

from django.apps import apps
from django.contrib.auth.signals import user_logged_out
from django.core.checks import registry

from django_wsmux import checks
from django_wsmux.groups import users


def test_ready() -> None:
    """The checks run with those of Django, and the end of a session is noticed."""
    assert apps.get_app_config("django_wsmux").verbose_name == "WebSockets"
    registered = registry.registry.get_checks()
    ours = [check for check in registered if check.__module__ == checks.__name__]
    assert ours
    receivers = user_logged_out._live_receivers(None)[0]
    assert users._signed_out in receivers
