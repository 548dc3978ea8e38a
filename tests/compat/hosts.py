"""The hosts of a site that django-hosts serves."""

from __future__ import annotations

from django_hosts import host, patterns

__all__ = ["host_patterns"]

host_patterns = patterns(
    "",
    host(r"127\.0\.0\.1(:\d+)?", "tests.compat.pages", name="main"),
    host(r"shop\.localhost(:\d+)?", "tests.compat.shop", name="shop"),
)
