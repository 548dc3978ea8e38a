INSTALLED_APPS = ["django_wsmux", "desk", *INSTALLED_APPS]
DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "timeout": 20}
CACHE = "django.core.cache.backends.db.DatabaseCache"
CACHES = {"default": {"BACKEND": CACHE, "LOCATION": "cache", "OPTIONS": {"MAX_ENTRIES": 10_000}}}
WEBSOCKET_URLCONF = "mysite.websocket_urls"
WEBSOCKET_OUTBOX = True
WEBSOCKET_HISTORY = {
    "ticket*": {"messages": 500, "seconds": 86400},
    "@user:*": {"messages": 100, "seconds": 86400},
    "notices": {"messages": 1, "seconds": 3600},
}
