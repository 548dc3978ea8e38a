"""The whole setup: Django's own wsgi.py, with the import from django_wsmux."""

import os

from django_wsmux.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sample_site.settings")

application = get_wsgi_application()
