"""The settings of ``deploy_site``, which ``deploy_database.py`` uses, too.

``BENCH_DEFAULT`` is the port of PostgreSQL if the project's database is there; otherwise it is
SQLite. ``BENCH_BACKEND`` is the URL for groups and their history.
"""

from __future__ import annotations

import os

from django_site import APPS, configure

__all__ = ["use"]


def use() -> None:
    """Configure Django."""
    more = {}
    if port := os.environ.get("BENCH_DEFAULT"):
        server = {"HOST": "127.0.0.1", "PORT": port, "NAME": "postgres", "USER": "postgres"}
        more["DATABASES"] = {
            "default": {"ENGINE": "django.db.backends.postgresql", **server},
        }
    configure(
        INSTALLED_APPS=["django_wsmux", *APPS],
        ROOT_URLCONF="deploy_site",
        WEBSOCKET_URLCONF="deploy_sockets",
        WEBSOCKET_BACKEND=os.environ["BENCH_BACKEND"],
        WEBSOCKET_HISTORY={"kept": {"messages": 2000, "seconds": 600}},
        WEBSOCKET_DRAIN_SECONDS=float(os.environ["BENCH_DRAIN_SECONDS"]),
        WEBSOCKET_PING_INTERVAL=float(os.environ["BENCH_PING_SECONDS"]),
        **more,
    )
