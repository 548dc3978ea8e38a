"""The settings of startproject, with WebSockets and a switch for each thing that a test varies."""

import json
import os
from pathlib import Path

SECRET_KEY = "tests"
DEBUG = os.environ.get("TEST_DEBUG") == "1"
ALLOWED_HOSTS = ["*"]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django_wsmux",
]
MIDDLEWARE = [
    "tests.project.middleware.trace",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "tests.project.urls"
WEBSOCKET_URLCONF = "tests.project.websocket_urls"
LOGIN_URL = "login"  # a name of ROOT_URLCONF, not of WEBSOCKET_URLCONF

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [Path(__file__).parent / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("TEST_DATABASE", ":memory:"),
        "ATOMIC_REQUESTS": True,
        "OPTIONS": json.loads(os.environ.get("TEST_DATABASE_OPTIONS", "{}")),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGES = [("en", "English"), ("de", "German")]

WEBSOCKET_BACKEND = os.environ.get("TEST_BACKEND", "memory://")
WEBSOCKET_COMPRESSION = json.loads(os.environ.get("TEST_COMPRESSION", "false"))
# On a busy machine any pause may take a second, and tests look for errors in the log.
WEBSOCKET_BLOCKED_WARNING = 0
WEBSOCKET_CLOSE_TIMEOUT = float(os.environ.get("TEST_CLOSE_TIMEOUT", 1))
# A client of a test may be stopped for long before it sends. (The ping timeout sets the heartbeat.)
WEBSOCKET_HANDSHAKE_TIMEOUT = float(os.environ.get("TEST_HANDSHAKE_TIMEOUT", 120))
WEBSOCKET_TOKEN_TIMEOUT = 120.0
WEBSOCKET_MAX_MESSAGE_SIZE = int(os.environ.get("TEST_MAX_MESSAGE_SIZE", 2**20))
WEBSOCKET_MAX_UNSENT_BYTES = int(os.environ.get("TEST_MAX_UNSENT_BYTES", 2**20))
WEBSOCKET_PING_INTERVAL = float(os.environ.get("TEST_PING_INTERVAL", 20))
WEBSOCKET_PING_TIMEOUT = float(os.environ.get("TEST_PING_TIMEOUT", 20))
WEBSOCKET_ALLOWED_ORIGINS = ["https://friend.example", "https://*.friends.example"]
# Any other setting that a test varies, as JSON.
globals().update(json.loads(os.environ.get("TEST_SETTINGS", "{}")))

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
