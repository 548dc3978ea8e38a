"""Installs Sentry's SDK, which patches Django, and its middleware around the dispatcher."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware


def install() -> Callable[[Any], Any]:
    """Start the SDK; return its middleware if ``SENTRY_AROUND`` is set."""
    sentry_sdk.init(os.environ["SENTRY_DSN"], traces_sample_rate=1.0)
    return SentryWsgiMiddleware if "SENTRY_AROUND" in os.environ else lambda inner: inner
