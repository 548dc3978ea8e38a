"""The shared part of all Django projects: settings, and a slow query.

``BENCH_DATABASE`` is the SQLite file with the user and the session, which ``django_database.py``
creates. ``BENCH_POSTGRES`` is the port of PostgreSQL, if it is available.
"""

from __future__ import annotations

import os
import time
from typing import Any

from django.conf import settings

__all__ = ["APPS", "BLOCKING_SECONDS", "block", "configure"]

APPS = (
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
)

#: Time that the slow query takes.
BLOCKING_SECONDS = 0.05


def configure(**more: Any) -> None:
    """Configure Django like ``startproject``, for production; servers may add settings."""
    common = {
        "SECRET_KEY": "bench",
        "DEBUG": False,
        "ALLOWED_HOSTS": ["127.0.0.1"],
        "INSTALLED_APPS": APPS,
        "MIDDLEWARE": [
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
        ],
        "DATABASES": databases(),
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
        "USE_TZ": True,
        "ROOT_URLCONF": "django_pages",
    }
    settings.configure(**common | more)


def databases() -> dict[str, dict[str, str]]:
    """Return the database of users and sessions, and the one with the slow query."""
    found = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["BENCH_DATABASE"],
        }
    }
    if port := os.environ.get("BENCH_POSTGRES"):
        found["slow"] = {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": "127.0.0.1",
            "PORT": port,
            "NAME": "postgres",
            "USER": "postgres",
        }
    return found


def block() -> None:
    """Wait for the database, or sleep as long if there is none."""
    if "slow" not in settings.DATABASES:
        time.sleep(BLOCKING_SECONDS)
        return
    from django.db import connections

    with connections["slow"].cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [BLOCKING_SECONDS])
