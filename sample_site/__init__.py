"""A playground for django_wsmux: chat, notifications, echo and ping."""
