"""The page without WebSockets. The difference is the cost of the dispatcher."""

from django_site import configure

configure()

from django.core.wsgi import get_wsgi_application  # noqa: E402

__all__ = ["application"]

application = get_wsgi_application()
