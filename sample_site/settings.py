"""Settings of the sample site: those of ``startproject``, and a few lines for WebSockets."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent

# This is a playground: nothing here is secret, and it is meant for your own machine.
SECRET_KEY = "the-sample-site-has-no-secrets"
DEBUG = os.environ.get("SAMPLE_SITE_DEBUG", "1") == "1"
ALLOWED_HOSTS = ["localhost", ".localhost", "127.0.0.1", "[::1]"]

INSTALLED_APPS = [
    "django_wsmux",  # above staticfiles: both have a runserver command, and the first one counts
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "sample_site",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "sample_site.urls"
WEBSOCKET_URLCONF = "sample_site.websocket_urls"
WEBSOCKET_BACKEND = os.environ.get("SAMPLE_SITE_BACKEND", "local://")
WEBSOCKET_HISTORY = {  # for windows that were offline
    "chat": {"messages": 200, "seconds": 600},
    "crowd": {"messages": 2000, "seconds": 600},
    "board": {"messages": 200, "seconds": 600},
    "auction*": {"messages": 200, "seconds": 600},
    "@user:*": {"messages": 50, "seconds": 600},
}
WEBSOCKET_REFUSALS = "close"  # so that a page's script knows why its socket was refused
LOGIN_URL = "notify"
WSGI_APPLICATION = "sample_site.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SAMPLE_SITE_DATABASE", BASE_DIR / "db.sqlite3"),
        # Otherwise two transactions that begin with a query cannot wait for each other.
        "OPTIONS": {"transaction_mode": "IMMEDIATE"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"

# How many clients the page Crowd starts.
CROWD_SIZE = int(os.environ.get("SAMPLE_SITE_CROWD", "1000"))

# The server of the chat over Redis pub/sub.
REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
