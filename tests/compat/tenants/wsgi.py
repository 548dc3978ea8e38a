"""The WSGI application of the project."""

from __future__ import annotations

import os

from django_wsmux.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.compat.tenants.settings")

application = get_wsgi_application()
