"""Settings as in the documentation of django-tenants, with WebSockets."""

import os

SECRET_KEY = "tests"
ALLOWED_HOSTS = ["*"]

SHARED_APPS = [
    "django_tenants",
    "tests.compat.tenants",
    "django.contrib.contenttypes",
    "django_wsmux",
]
TENANT_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
]
INSTALLED_APPS = [*SHARED_APPS, *(app for app in TENANT_APPS if app not in SHARED_APPS)]
TENANT_MODEL = "tenants.Client"
TENANT_DOMAIN_MODEL = "tenants.Domain"
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
DATABASES = {
    "default": {
        "ENGINE": "django_tenants.postgresql_backend",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": os.environ.get("TEST_POSTGRES_PORT", "5432"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

MIDDLEWARE = [
    "django_tenants.middleware.main.TenantMainMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
ROOT_URLCONF = "tests.compat.tenants.urls"
WEBSOCKET_URLCONF = "tests.compat.tenants.sockets"
WEBSOCKET_BACKEND = os.environ.get("TEST_BACKEND", "local://")
WEBSOCKET_CONTEXT = ["tests.compat.tenants.models.context"]
WEBSOCKET_GROUP_PREFIX = "tests.compat.tenants.models.group_prefix"
USE_TZ = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
