"""The WSGI applications of the project."""

import os

from django_wsmux.wsgi import get_wsgi_application, get_wsgi_websocket_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.project.settings")

application = get_wsgi_application()
websocket = get_wsgi_websocket_application()
