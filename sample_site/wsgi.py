"""The whole set-up: Django's two lines, imported from django_wsmux instead."""

import os

from django_wsmux.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sample_site.settings")

application = get_wsgi_application()
