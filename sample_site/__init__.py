"""A playground for django_wsmux: chat, echo and ping."""
