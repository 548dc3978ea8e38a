"""Settings of the processes that use ``postgres://``."""

import json
import os

SECRET_KEY = "tests"
INSTALLED_APPS = ["django_wsmux"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": os.environ["TEST_POSTGRES_PORT"],
        "OPTIONS": json.loads(os.environ.get("TEST_POSTGRES_OPTIONS", "{}")),
    },
    "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}
WEBSOCKET_URLCONF = __name__
urlpatterns: list[object] = []
USE_TZ = True
