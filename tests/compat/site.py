"""The test project, with agents and middleware around Django and around the dispatcher.

``COMPAT`` names a module of this package with an ``install()`` function. It is called before Django
is loaded and returns a wrapper for the application.

Without it, each request chooses: the header ``X-Agent`` names a wrapper of the handler's
``__call__``, as agents patch it, and ``X-Around`` the middleware around the dispatcher.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from django.core.handlers.wsgi import WSGIHandler

from django_wsmux.wsgi import get_wsgi_application
from tests.compat import wrappers

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.project.settings")

Application = Callable[..., Any]


def choosing(inner: Application) -> Application:
    """Wrap the dispatcher as a request asks; report what the wrappers have seen.

    The report writes a mark to the log, after everything that was logged before.
    """

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/seen/":
            print(environ["HTTP_X_MARK"], flush=True)
            start_response("200 OK", [("Content-Type", "application/json")])
            body, wrappers.seen[:] = json.dumps(wrappers.seen).encode(), []
            return [body]
        around: Any = wrappers.AROUND[environ.get("HTTP_X_AROUND", "nothing")]
        return around(inner)(environ, start_response)

    return application


def install_agent() -> None:
    """Patch the handler's ``__call__``, as agents do."""
    call = WSGIHandler.__call__

    def wrapped(self: Any, environ: dict[str, Any], start_response: Any) -> Any:
        agent = wrappers.AGENTS[environ.get("HTTP_X_AGENT", "nothing")]
        return agent(call.__get__(self))(environ, start_response)

    WSGIHandler.__call__ = wrapped  # type: ignore[method-assign]


if "COMPAT" in os.environ:
    around = import_module(f"tests.compat.{os.environ['COMPAT']}").install()
    application = around(get_wsgi_application())
else:
    install_agent()
    application = choosing(get_wsgi_application())
